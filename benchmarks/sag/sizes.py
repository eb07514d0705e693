"""The two sizes that Shatter and Gather is timed at, and what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.asked import noise
from refseg.methods.sag import Sag, SagConfig
from refseg.recipes.sag import sag_refcoco, sag_scenes
from refseg.types import Batch


@dataclass(frozen=True)
class Size:
    """side: px of the net. hw: of pictures, px. tokens: of a sentence. images, each: of a training
    step, and sentences about each. pairs: images of a batch that sentences are told apart from.
    """

    name: str
    config: SagConfig
    side: int
    hw: tuple[int, int]
    tokens: int
    images: int
    each: int
    pairs: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        rows = self.side // self.config.vision.patch
        return rows, rows

    @property
    def slots(self) -> tuple[int, int]:
        """K, D."""
        return self.config.slots.count, self.config.width

    def built(self) -> Sag:
        torch.manual_seed(0)
        return Sag(self.config).eval()

    def batch(self, each: Sequence[int]) -> Batch:
        """Images of noise with so many sentences of random words about each."""
        return noise(self.config.text.vocab_size, self.tokens, self.side, self.hw, each)


def _small() -> Size:
    """Of the recipe `sag_scenes`, whose batch is of images."""
    recipe = sag_scenes()
    assert isinstance(recipe.method, SagConfig)
    images, each = recipe.train.batch_size, recipe.data.per_image
    side, tokens = recipe.preprocess.size, recipe.tokens.max_words
    assert tokens is not None
    name = f"scenes, {side} px"
    return Size(name, recipe.method, side, (128, 128), tokens, images, each, images)


def _large() -> Size:
    """Of the paper. A step is of four pairs, its batch of 32 fits no small machine."""
    recipe = sag_refcoco()
    assert isinstance(recipe.method, SagConfig)
    side, pairs = recipe.preprocess.size, recipe.train.batch_size
    return Size(f"paper size, {side} px", recipe.method, side, (480, 640), 20, 4, 1, pairs)


SIZES = (_small(), _large())
