"""Sizes of encoders that must fit each other, told before torch or transformers trips over them."""

from __future__ import annotations

from refseg.errors import ConfigError
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig


def check_heads(key: str, width: int, heads: int) -> None:
    """Raise ConfigError unless so many heads share a width evenly. key: what sets the heads."""
    if width < 1:
        raise ConfigError(f"{key}: its width is {width}", remedy="give a width of 1 or more")
    if heads < 1 or width % heads:
        good = [str(n) for n in range(1, min(width, 32) + 1) if width % n == 0]
        raise ConfigError(
            f"{key}: {heads} heads cannot share a width of {width} evenly",
            remedy=f"give one of {', '.join(good)} heads, or another width",
        )


def check_swin(config: SwinVisionConfig, key: str = "vision") -> None:
    """Raise ConfigError for a Swin whose heads do not fit its stages."""
    for stage, (width, heads) in enumerate(zip(config.channels, config.heads, strict=True), 1):
        check_heads(f"{key}.heads (stage {stage})", width, heads)


def check_bert(config: BertTextConfig, key: str = "text") -> None:
    """Raise ConfigError for a BERT whose heads do not fit its width."""
    check_heads(f"{key}.heads", config.width, config.heads)
