"""Pseudo-labelling: expressions a second, by the sizes of `partial_res_scenes`.

Against asking one expression at a time with its own image, as a loop over a data set does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.mutual.measuring import Table, compared
from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.tokens import load_tokenizer
from refseg.label import LabelOptions, label
from refseg.models import Model, build_method
from refseg.recipes.catalog import get_recipe
from refseg.recipes.encoders import BERT_SMALL
from refseg.types import TEXT_ONLY

DATA, SPLIT, PICTURES = "scenes", "val", 16


def labelling(runs: int = 3) -> dict[str, Table]:
    """Title -> the forms side by side; "per_second": refs a second."""
    torch.manual_seed(0)
    recipe = get_recipe("partial_res_scenes")
    tokenizer = load_tokenizer(models.find_encoder("bert-scenes"), recipe.tokens.max_words)
    assert tokenizer.vocab_size <= BERT_SMALL.vocab_size
    method = build_method("partial_res", recipe.method).eval()
    model = Model("random", "partial_res", method, tokenizer, recipe.preprocess)
    data = open_data(DATA, SPLIT, TEXT_ONLY, view="ref")
    rows = [row for group in data.groups_by_image()[:PICTURES] for row in group]
    with _saved(model) as folder:
        table = compared(
            {
                "one expression and its image at a time": partial(_singly, model, data, rows),
                "refseg label, shared images, 32 at once": partial(_label, folder),
            },
            runs,
        )
    for row in table.values():
        row["per_second"] = 1000 * len(rows) / row["ms"]
    return {f"{len(rows)} refs of {PICTURES} pictures": table}


@contextmanager
def _saved(model: Model) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        models.save(Path(place) / "model", model)
        yield Path(place)


def _singly(model: Model, data: ReferDataset, rows: list[int]) -> None:
    for row in rows:
        model.predict([data[row]])


def _label(place: Path) -> None:
    """The whole job, from loading the model to the data set's files."""
    with tempfile.TemporaryDirectory(dir=place) as out:
        options = LabelOptions(
            model=str(place / "model"), task="masks", data=DATA, out=Path(out) / "data",
            split=SPLIT, per_ref=True, agree=3.0, limit=PICTURES,
        )  # fmt: skip
        label(options, workers=1)
