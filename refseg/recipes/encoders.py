"""Recipes of the small encoders that the embedded world has instead of hub weights.

`refseg train swin_scenes` and `refseg train bert_scenes` leave folders in the hub's format, which
any recipe takes as `weights.vision` and `weights.text`; both are bundled under their names.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.nn.sizes import check_bert, check_swin
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.recipes.base import Part, TokenConfig
from refseg.train.config import TrainConfig

#: The world that the encoders and the `scenes` presets learn from; no image of it is in `scenes`.
WORLD = "scenes-all@12000"
#: Shared by the encoders and the methods that start from them.
SWIN_SMALL = SwinVisionConfig(
    image_size=128,
    width=32,
    depths=(2, 2, 4, 2),
    heads=(1, 2, 4, 8),
    window=4,
    drop_path=0.0,
    absolute_positions=True,
)
BERT_SMALL = BertTextConfig(
    vocab_size=600,
    width=128,
    layers=2,
    heads=4,
    mlp_width=512,
    max_positions=64,
    drop=0.0,
    frozen="none",
)


class EncoderData(Part):
    """name: a rendered world. evaluate: the split that the progress is measured on."""

    name: str = WORLD
    train: str = "train"
    evaluate: str = "val"
    evaluate_limit: int | None = Field(default=200, ge=1)


class EncoderRecipe(Part):
    """An encoder learned before the methods. kind: "objects" (vision) or "words" (text).

    zoom: chance that a picture is enlarged up to `most` times around one of its objects, and
    mirrored ("objects"). hide: share of words hidden, at least one an expression ("words").
    """

    name: str
    promise: str = ""
    kind: Literal["objects", "words"]
    vision: SwinVisionConfig = SWIN_SMALL
    text: BertTextConfig = BERT_SMALL
    data: EncoderData = EncoderData()
    preprocess: PreprocessConfig = PreprocessConfig(size=128)
    tokens: TokenConfig = TokenConfig(vocabulary=600, max_words=24)
    zoom: float = Field(default=0.4, ge=0, le=1)
    most: float = Field(default=2.2, gt=1)
    hide: float = Field(default=0.25, gt=0, lt=1)
    train: TrainConfig

    @property
    def labels(self) -> str:
        """What is looked at. Attributes are none of the contract's labels: see pictures.py."""
        return {"objects": "box+attributes", "words": "text"}[self.kind]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_swin(self.vision)
        check_bert(self.text)
        if self.kind == "words" and self.tokens.max_words > self.text.max_positions:
            raise ConfigError(
                f"tokens.max_words is {self.tokens.max_words}, but text.max_positions only "
                f"{self.text.max_positions}",
                remedy="lower the one or raise the other",
            )
        return self


def swin_scenes() -> EncoderRecipe:
    """A small Swin that names the objects of 8,400 rendered pictures: kind, colour, size, ...

    Command: refseg train swin_scenes --out runs/swin_scenes
    Hardware: one CPU core, about 20 minutes. Labels used: boxes and attributes, no expression and
    no mask. Score: the card in the run's model folder; docs/results.md has the methods' scores.

    It stands for ImageNet weights. Muon instead of AdamW: docs/decisions/0018 has both side by
    side, with the commands.
    """
    return EncoderRecipe(
        name="swin_scenes",
        kind="objects",
        train=TrainConfig(
            steps=4_000,
            batch_size=32,
            optimiser="muon",
            lr=3e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup=100,
            clip_norm=5.0,
            precision="bf16",
            evaluate_every=500,
            save_every=250,
        ),
    )


def bert_scenes() -> EncoderRecipe:
    """A small BERT that guesses hidden words of the 209,919 training expressions.

    Command: refseg train bert_scenes --out runs/bert_scenes
    Hardware: one CPU core, about 4 minutes. Labels used: text. It stands for BERT's own weights.
    """
    return EncoderRecipe(
        name="bert_scenes",
        kind="words",
        train=TrainConfig(
            steps=1_200,
            batch_size=256,
            lr=1e-3,
            weight_decay=1e-2,
            schedule="cosine",
            warmup=100,
            clip_norm=1.0,
            precision="bf16",
            evaluate_every=None,
            save_every=200,
        ),
    )
