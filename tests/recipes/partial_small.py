"""All stages of Partial-RES at a size for tests, and what their tests share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models
from refseg.data.catalog import open_data, open_records
from refseg.data.dataset import Entry
from refseg.data.records import Records
from refseg.data.transforms import PreprocessConfig
from refseg.methods.partial_res import model as method_model
from refseg.nn.weights import read_state
from refseg.recipes import runner
from refseg.recipes.base import DataConfig, Recipe, TokenConfig
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.train.config import TrainConfig
from refseg.types import Labels
from tests.methods.toy_configs import toy_text, vega_config

ALL = ("rec", "res", "pseudo", "res_pseudo")
SHORT = ("steps=2", "batch_size=2", "workers=0", "save_every=1", "warmup=0", "cpu=true")
ONE_STEP = ("train.steps=1", "partial.rec.steps=1")
NO_EPOCHS = ("epochs=null", "warmup_epochs=0", "workers=0", "cpu=true")
SHARE, AGREE = 0.1, 1.2  # hardly taught, few outlines fit better
SIZES = {
    "method.text": ("vocab_size=200", "word_width=16", "hidden=16"),
    "method.transformer": (
        "width=32", "heads=2", "mlp_width=32", "encoder_layers=1", "decoder_layers=1",
    ),
    "method.sequence": ("points=5", "bins=64"),
    "tokens": ("vocabulary=200", "max_words=12"),
    "preprocess": ("size=64",),
    "train": SHORT,
    "partial": (*(f"rec.{one}" for one in SHORT), f"agree={AGREE}"),
}  # fmt: skip
SMALL = {
    **SIZES,
    "method.vision": (
        "image_size=64", "patch=2", "width=8", "depths=[1,1,1,1]", "heads=[1,2,2,2]", "window=4",
    ),
    "method.fusion": ("strides=[2,4,8,16]", "grid=8", "width=32"),
    "weights": ("vision=null",),
    "data": (f"mask_share={SHARE}", "per_image=3"),
}  # fmt: skip


def settings(groups: dict[str, tuple[str, ...]]) -> list[str]:
    return [f"{group}.{one}" for group, ones in groups.items() for one in ones]


def small_partial(world: Path, *more: str) -> Recipe:
    """`partial_res_scenes` on the folder `world`, small."""
    base = apply_overrides(get_recipe("partial_res_scenes"), settings(SMALL))
    return apply_overrides(base, [f"data.name={world}", *more])


def small_darknet(world: Path, *more: str) -> Recipe:
    """The papers' preset on the folder `world`, small: one step of "rec" and one of "res"."""
    base = apply_overrides(get_recipe("partial_res_refcoco"), [
        *settings({**SIZES, "train": (), "partial": ()}), *ONE_STEP, "train.batch_size=2",
        "partial.rec.batch_size=2",
        "method.vision.width=2", "method.vision.depths=[1,1,1,1,1]", "method.fusion.width=32",
        "data.split_by=null", "data.evaluate_limit=3", f"data.mask_share={SHARE}",
        *(f"{train}.{one}" for train in ("train", "partial.rec") for one in NO_EPOCHS),
        "stages=[rec,res]",
    ])  # fmt: skip
    return apply_overrides(base, [f"data.name={world}", *more])


def few_vega(world: Path) -> Recipe:
    """Another method under few masks, chosen by boxes."""
    return Recipe(
        name="few",
        method_name="vega",
        method=vega_config(text=toy_text(vocab_size=160)),
        data=DataConfig(
            name=str(world), labels="text+box+mask", mask_share=SHARE, evaluate_limit=3
        ),
        preprocess=PreprocessConfig(size=64),
        tokens=TokenConfig(vocabulary=160, max_words=12),
        train=TrainConfig(steps=1, batch_size=2, cpu=True),
        select="REC@0.5",
    )


# -- what people labelled ------------------------------------------------------------------------


def entries(world: Path) -> list[Entry]:
    """All training expressions of people, with their boxes."""
    data = open_data(world, "train", Labels.parse("text+box"))
    return [data.entry(row) for row in range(len(data))]


def objects(world: Path, refs: Iterable[int]) -> set[int]:
    """The ids of the annotated objects that these refs mean."""
    records, wanted = open_records(world), set(refs)
    ids = records.column("annotations", "ann_id")
    return {int(ids[row]) for ref in records.refs() if ref.ref_id in wanted for row in ref.ann_rows}


# -- what a stage left ---------------------------------------------------------------------------


def manifest(stage: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((stage / "manifest.json").read_text())
    return told


def card(stage: Path) -> dict[str, Any]:
    return dict(models.read_model_file(stage / "model").card)


def weights(stage: Path) -> bytes:
    return (stage / "model" / "model.safetensors").read_bytes()


def state(stage: Path) -> dict[str, torch.Tensor]:
    return read_state(stage / "model" / "model.safetensors")


# -- what a stage looked at ----------------------------------------------------------------------


@dataclass
class Watch:
    """By stage: ids of the objects whose mask was read, in people's data and in what a teacher
    wrote, and the models whose weights were taken over.
    """

    stage: str = ""
    masks: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    pseudo: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    starts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


@contextmanager
def watched() -> Iterator[Watch]:
    """The runs inside the block are watched, stage by stage."""
    seen, make = Watch(), runner._stage
    read, taken = Records.segmentation, method_model.take_over

    def stage(name: str, job: Any) -> Any:
        seen.stage = name
        return make(name, job)

    def segmentation(self: Records, row: int) -> Any:
        kind = seen.pseudo if self.meta.split_by == "refseg" else seen.masks
        kind[seen.stage].add(int(self.column("annotations", "ann_id")[row]))
        return read(self, row)

    def take_over(method: Any, weights: Any, source: str) -> Any:
        seen.starts[seen.stage].append(source)
        return taken(method, weights, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_stage", stage)
        patch.setattr(Records, "segmentation", segmentation)
        patch.setattr(method_model, "take_over", take_over)
        yield seen
