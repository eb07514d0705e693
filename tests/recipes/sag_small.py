"""`sag_scenes` and the encoders it starts from, at a size for tests, and what a run reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refseg.data.records import Records
from refseg.data.transforms import PreprocessConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vit import ViTVisionConfig
from refseg.recipes.base import Recipe, TokenConfig
from refseg.recipes.catalog import get_recipe
from refseg.recipes.encoders import VIT_PIXELS, EncoderData, EncoderRecipe
from refseg.recipes.overrides import apply_overrides
from refseg.train.config import TrainConfig

VIT = ViTVisionConfig(
    image_size=32, patch=8, width=16, layers=2, heads=2, mlp_width=32, drop_path=0.0
)
BERT = BertTextConfig(
    vocab_size=200, width=16, layers=1, heads=2, mlp_width=32, max_positions=32, drop=0.0,
    frozen="none",
)  # fmt: skip
ATTENTION = ("heads=2", "head_width=8", "mlp_factor=2")
SHORT = (
    "steps=2", "batch_size=2", "workers=0", "save_every=1", "warmup=0", "cpu=true", "ema=null",
)  # fmt: skip


def small_vit(world: Path) -> EncoderRecipe:
    """`vit_scenes` on the folder `world`, small."""
    return EncoderRecipe(
        name="vit_small",
        kind="attributes",
        vit=VIT,
        data=EncoderData(name=str(world), evaluate_limit=6),
        preprocess=PreprocessConfig(size=32, **VIT_PIXELS),
        train=TrainConfig(steps=2, batch_size=4, evaluate_every=2, save_every=1, cpu=True),
    )


def small_sag(world: Path, vit: Path, bert: Path, *more: str) -> Recipe:
    """`sag_scenes` on the folder `world`, small, from the encoders in the folders `vit`, `bert`."""
    sizes = [f"method.vision.{key}={value}" for key, value in VIT.model_dump().items()]
    sizes += [f"method.text.{key}={value}" for key, value in BERT.model_dump().items()]
    sizes += ["method.width=16", "method.slots.groups=2", "method.slots.iterations=2"]
    sizes += [f"method.{part}.{one}" for part in ("slots", "fusion") for one in ATTENTION]
    sizes += ["method.slots.interaction_heads=2", "method.reconstruction.width=16"]
    data = [f"data.name={world}", "data.per_image=2", "data.evaluate_limit=4"]
    start = [f"weights.vision={vit}", f"weights.text={bert}", f"tokens.source={bert}"]
    net = ["tokens.max_words=12", "preprocess.size=32"]
    trained = [f"train.{one}" for one in SHORT]
    settings = [*sizes, *data, *start, *net, *trained, *more]
    return apply_overrides(get_recipe("sag_scenes"), settings)


def small_bert(world: Path) -> EncoderRecipe:
    """`bert_scenes` on the folder `world`, small."""
    return EncoderRecipe(
        name="bert_small",
        kind="words",
        text=BERT,
        data=EncoderData(name=str(world), evaluate=None),
        tokens=TokenConfig(vocabulary=200, max_words=12),
        train=TrainConfig(steps=1, batch_size=4, evaluate_every=None, save_every=1, cpu=True),
    )


# -- what a run reads -----------------------------------------------------------------------------

#: Tables of a data set's record that say where or what a thing is.
WITHHELD = {"boxes", "segmentations", "categories"}


@contextmanager
def opened() -> Iterator[set[tuple[str, str]]]:
    """The columns (table, name) that are read of any data set inside the block."""
    seen: set[tuple[str, str]] = set()
    numbers, texts = Records.column, Records._array

    def column(self: Records, table: str, name: str) -> Any:
        seen.add((table, name))
        return numbers(self, table, name)

    def array(self: Records, table: str, name: str) -> Any:
        seen.add((table, name))
        return texts(self, table, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "column", column)
        patch.setattr(Records, "_array", array)
        yield seen
