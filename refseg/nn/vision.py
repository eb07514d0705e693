"""Hierarchical vision encoders behind one face: stages that a method can reach between.

`SwinPyramid` wraps transformers' Swin. `stem` makes tokens, `blocks(i, ...)` runs stage i at its
own resolution, `merge(i, ...)` goes to the next one, so that a method may fuse words in between.
Letters: B batch, N = h * w tokens, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refseg.nn.guard import guard_torchvision
from refseg.nn.positions import sine_table

HW = tuple[int, int]


class SwinVisionConfig(BaseModel):
    """A Swin encoder. Defaults are Swin-B, window 12, 480 px (86.88 M parameters).

    image_size: px of the square the relative geometry is planned for; other sizes work.
    absolute_positions: a learned position table after the patches (not in the paper's Swin;
    small models that learn location words from scratch need it).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=480, ge=8)
    patch: int = Field(default=4, ge=1)
    width: int = Field(default=128, ge=1)
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window: int = Field(default=12, ge=1)
    drop_path: float = Field(default=0.3, ge=0, lt=1)
    absolute_positions: bool = False

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


class SwinPyramid(nn.Module):
    """Four Swin stages at strides patch * (1, 2, 4, 8)."""

    def __init__(self, config: SwinVisionConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import SwinConfig, SwinModel

        self.config = config
        self.channels = config.channels
        self.swin: Any = SwinModel(
            SwinConfig(
                image_size=config.image_size,
                patch_size=config.patch,
                embed_dim=config.width,
                depths=list(config.depths),
                num_heads=list(config.heads),
                window_size=config.window,
                drop_path_rate=config.drop_path,
                use_absolute_embeddings=config.absolute_positions,
            ),
            add_pooling_layer=False,
        )
        if config.absolute_positions:
            side = config.image_size // config.patch
            drop_class_place(self.swin.embeddings)
            table = sine_table(side, config.width)
            self.swin.embeddings.position_embeddings.data.copy_(table[None])
        # The final norm belongs to classification; no pyramid level uses it.
        self.swin.layernorm = nn.Identity()
        self._plan_windows()

    def _plan_windows(self) -> None:
        """No shift where one window covers the stage (as in Swin); masks made once per size."""
        for index, stage in enumerate(self.swin.encoder.layers):
            side = -(-self.config.image_size // (self.config.patch * 2**index))
            for block in stage.blocks:
                if side <= self.config.window:
                    block.shift_size = 0
                block.get_attn_mask = _cached_mask(block.get_attn_mask)

    def stem(self, images: Tensor) -> tuple[Tensor, HW]:
        """[B, 3, H, W] -> tokens [B, N, C0] and their (h, w)."""
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        embeddings = self.swin.embeddings
        tokens, (height, width) = embeddings.patch_embeddings(images.contiguous())
        tokens = embeddings.norm(tokens)
        hw = (int(height), int(width))
        if embeddings.position_embeddings is not None:
            tokens = tokens + self._positions(embeddings.position_embeddings, hw)
        return embeddings.dropout(tokens), hw

    def _positions(self, table: Tensor, hw: HW) -> Tensor:
        """The position table [1, N, C] at another grid. (transformers rounds odd sizes down.)"""
        side = self.config.image_size // self.config.patch
        if hw == (side, side):
            return table
        grid = table.view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, hw, mode="bicubic", align_corners=False)
        return grid.flatten(2).transpose(1, 2)

    def blocks(self, index: int, tokens: Tensor, hw: HW) -> Tensor:
        """Run the blocks of stage `index` (0..3) at its resolution; shape unchanged."""
        for block in self.swin.encoder.layers[index].blocks:
            # always_partition: without it Swin shrinks its own window for good on small inputs.
            result = block(tokens, hw, always_partition=True)
            tokens = result[0] if isinstance(result, tuple) else result
        return tokens

    def merge(self, index: int, tokens: Tensor, hw: HW) -> tuple[Tensor, HW]:
        """Patch merging after stage `index` (0..2): half the resolution, twice the channels."""
        merged = self.swin.encoder.layers[index].downsample(tokens, hw)
        return merged, ((hw[0] + 1) // 2, (hw[1] + 1) // 2)

    def forward(self, images: Tensor, stages: int = 4) -> list[tuple[Tensor, HW]]:
        """Plain pyramid, no fusion: per stage tokens [B, N_i, C_i] and (h_i, w_i).

        stages: how many of the four are run, from the finest on.
        """
        tokens, hw = self.stem(images)
        levels = []
        for index in range(stages):
            tokens = self.blocks(index, tokens, hw)
            levels.append((tokens, hw))
            if index < stages - 1:
                tokens, hw = self.merge(index, tokens, hw)
        return levels

    def rest(self, stages: int) -> None:
        """Freeze what only the stages behind the first `stages` need: `forward` leaves it out."""
        layers = self.swin.encoder.layers
        for index in range(max(stages, 1), 4):
            layers[index - 1].downsample.requires_grad_(False)
            layers[index].requires_grad_(False)


def drop_class_place(embeddings: Any) -> None:
    """Make the position table of a Swin's embeddings one of patches alone, [1, N, C].

    transformers 4 has a row more, in front, for a class token that Swin has not, and fails on it.
    """
    rows = embeddings.patch_embeddings.num_patches
    table = embeddings.position_embeddings.detach()[:, -rows:]
    embeddings.position_embeddings = nn.Parameter(table.clone())


def _cached_mask(make: MethodType) -> Any:
    """The shifted-window mask depends on size, type and device alone; Swin rebuilds it."""

    @lru_cache(maxsize=8)
    def cached(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Any:
        with torch.inference_mode(False):
            return make(height, width, dtype, device)

    return cached
