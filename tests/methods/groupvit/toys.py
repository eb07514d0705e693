"""Toy configurations of GroupViT, small enough for milliseconds."""

from __future__ import annotations

from typing import Any

from refseg.methods.groupvit import GroupVitConfig
from refseg.methods.groupvit.config import GroupVitTextConfig, GroupVitVisionConfig
from tests.methods.toy_configs import SIDE, toy_tokenizer


def groupvit_vision(**changes: Any) -> GroupVitVisionConfig:
    """64 patches of 64 px, gathered into 6 segments and these into 4."""
    config = GroupVitVisionConfig(
        image_size=SIDE, patch=8, width=32, depths=(1, 1, 1), group_tokens=(6, 4, 0),
        segments=(6, 4, 4), heads=2, mlp_width=64,
    )  # fmt: skip
    return config.model_copy(update=changes)


def groupvit_config(**changes: Any) -> GroupVitConfig:
    text = GroupVitTextConfig(
        vocab_size=toy_tokenizer().vocab_size, width=32, layers=2, heads=2, mlp_width=64,
        max_positions=32,
    )  # fmt: skip
    given = {"vision": groupvit_vision(), "text": text, "embed": 16, "hidden": 48, **changes}
    return GroupVitConfig.model_validate(given)
