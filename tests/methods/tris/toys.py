"""Toy configurations of TRIS, small enough for milliseconds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from refseg.methods.tris.calibrator import Calibrator
from refseg.methods.tris.config import CutConfig, TrisConfig, TrisResponseConfig
from refseg.nn.clip import ClipTextConfig
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.types import Batch
from tests.methods.toy_configs import SIDE, toy_tokenizer


def clip_vision(**changes: Any) -> ClipResNetConfig:
    return ClipResNetConfig(layers=(1, 1, 1, 1), width=8).model_copy(update=changes)


def clip_text(**changes: Any) -> ClipTextConfig:
    config = ClipTextConfig(
        vocab_size=toy_tokenizer().vocab_size,
        width=32,
        layers=2,
        heads=2,
        mlp_width=64,
        max_positions=32,
        embed=32,
    )
    return config.model_copy(update=changes)


def tris_config(**changes: Any) -> TrisConfig:
    """Step 2 at 64 px: levels of 32 to 256 channels, sentences of 12 places."""
    config = TrisConfig(
        vision=clip_vision(), text=clip_text(), cut=CutConfig(length=12), encoder_lr_scale=1.0
    )
    return config.model_copy(update=changes)


def pair_config() -> PairConfig:
    """A calibrator for 64 px."""
    vision = clip_vision(pool=True, pool_heads=4, embed=32, image_size=SIDE)
    return PairConfig(vision=vision, text=clip_text())


@cache
def toy_pair() -> ClipPair:
    """Random and frozen; shared, so never to be changed."""
    torch.manual_seed(7)
    return ClipPair(pair_config()).eval()


def toy_calibrator(**changes: Any) -> Calibrator:
    return Calibrator(toy_pair(), (IMAGENET_MEAN, IMAGENET_STD), **changes)


def response_config(**changes: Any) -> TrisResponseConfig:
    """Step 1 at 64 px: a grid of 8 x 8, width 16."""
    config = TrisResponseConfig(
        vision=clip_vision(), text=clip_text(), cut=CutConfig(length=12), level=2, width=16,
        encoder_lr_scale=1.0,
    )  # fmt: skip
    return config.model_copy(update=changes)


def with_negatives(batch: Batch, count: int = 2) -> Batch:
    """Each expression told apart from the `count` that follow it."""
    places = (torch.arange(len(batch))[:, None] + torch.arange(1, count + 1)) % len(batch)
    return replace(batch, negatives=batch.words[places], negative_mask=batch.word_mask[places])
