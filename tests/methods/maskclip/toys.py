"""Toy configurations of MaskCLIP, small enough for milliseconds."""

from __future__ import annotations

from typing import Any

from refseg.methods.maskclip import MaskClipConfig
from refseg.nn.clip import ClipVisionConfig
from tests.methods.toy_configs import SIDE
from tests.methods.tris.toys import clip_text, clip_vision


def maskclip_config(*, resnet: bool = False, **changes: Any) -> MaskClipConfig:
    """At 64 px: 8 x 8 patches of a ViT, or 2 x 2 places of a ResNet."""
    vision: Any = ClipVisionConfig(
        image_size=SIDE, patch=8, width=32, layers=2, heads=2, mlp_width=64, embed=32
    )
    if resnet:
        vision = clip_vision(pool=True, pool_heads=4, embed=32, image_size=SIDE)
    return MaskClipConfig.model_validate({"vision": vision, "text": clip_text(), **changes})
