"""Toy configurations of Shatter and Gather, small enough for milliseconds."""

from __future__ import annotations

from typing import Any

import torch

from refseg.methods.sag import Sag, SagConfig
from refseg.methods.sag.config import FusionConfig, ReconstructionConfig, SlotsConfig
from refseg.nn.vit import ViTVisionConfig
from tests.methods.toy_configs import SIDE, toy_text


def toy_vit(**changes: Any) -> ViTVisionConfig:
    config = ViTVisionConfig(
        image_size=SIDE, patch=8, width=32, layers=2, heads=2, mlp_width=64, drop_path=0.0
    )
    return config.model_copy(update=changes)


def slots_config(**changes: Any) -> SlotsConfig:
    config = SlotsConfig(
        groups=3, per_group=2, iterations=3, heads=2, head_width=16, mlp_factor=2.0,
        interaction_heads=2, drop=0.0,
    )  # fmt: skip
    return config.model_copy(update=changes)


def sag_config(**changes: Any) -> SagConfig:
    """3 x 2 slots of width 32 over 8 x 8 patches of 64 px, no dropout."""
    config = SagConfig(
        vision=toy_vit(),
        text=toy_text(frozen="none"),
        width=32,
        slots=slots_config(),
        fusion=FusionConfig(heads=2, head_width=16, mlp_factor=2.0, drop=0.0),
        reconstruction=ReconstructionConfig(layers=3, width=24),
        vision_lr_scale=1.0,
    )
    return config.model_copy(update=changes)


def made(config: SagConfig | None = None, *, seed: int = 0) -> Sag:
    """A toy in eval mode whose parts are far enough from their start to matter."""
    torch.manual_seed(seed)
    method = Sag(config or sag_config())
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if not name.startswith(("vision", "text")) and parameter.ndim > 1:
                parameter.mul_(2)
    return method.eval()
