"""The decoder that listens to the guidance set (VEGA section 3.3).

At each stage: cross-attention (pixels ask, guidance answers), upsample x2, concatenate the next
finer encoder feature; at the end a linear map to mask logits. The convolutions follow LAVT's
simple decoder (two 3 x 3, norm, ReLU per level); the paper gives none.
Letters: B batch, C channels, D guidance width, G guidance tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.vega.config import NORM_GROUPS, DecoderConfig
from refseg.nn.attention import AttentionBlock, channels_last_tokens, tokens_to_map


class GuidedDecoder(nn.Module):
    """features: four maps [B, C_i, h_i, w_i], finest first -> logits [B, K, s*h_1, s*w_1]."""

    def __init__(
        self, config: DecoderConfig, channels: tuple[int, int, int, int], guidance_width: int
    ) -> None:
        super().__init__()
        self.config = config
        w32, w16, w8, w4 = config.widths
        self.reduce = nn.Conv2d(channels[3], w32, 1)
        self.refine = nn.ModuleList(
            [
                _double_conv(w32 + channels[2], w16, config.norm),
                _double_conv(w16 + channels[1], w8, config.norm),
                _double_conv(w8 + channels[0], w4, config.norm),
            ]
        )
        attending = config.widths if config.attend_finest else config.widths[:3]
        self.listen = nn.ModuleList(
            [
                AttentionBlock(
                    width, config.heads, key_width=guidance_width, mlp_ratio=config.mlp_ratio
                )
                for width in attending
            ]
        )
        classes = 1 if config.head == "binary" else 2
        self.head = nn.Conv2d(w4, classes * config.subpixel**2, 1)

    def forward(self, features: list[Tensor], guidance: Tensor, guidance_mask: Tensor) -> Tensor:
        x = self._ask(0, self.reduce(features[3]), guidance, guidance_mask)
        for step, refine in enumerate(self.refine, start=1):
            finer = features[3 - step]
            # The encoder rounds odd sizes up, so the target is the feature's size, not twice ours.
            x = self._resize(x, finer)
            x = refine(torch.cat([x, finer], dim=1))
            if step < len(self.listen):
                x = self._ask(step, x, guidance, guidance_mask)
        logits: Tensor = F.pixel_shuffle(self.head(x), self.config.subpixel)
        return logits

    def _ask(self, step: int, x: Tensor, guidance: Tensor, guidance_mask: Tensor) -> Tensor:
        tokens = self.listen[step](channels_last_tokens(x), guidance, guidance_mask)
        return tokens_to_map(tokens, (x.shape[2], x.shape[3]))

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(
            x, like.shape[-2:], mode="bilinear", align_corners=self.config.align_corners
        )


def _double_conv(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        _norm(norm, outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        _norm(norm, outputs),
        nn.ReLU(inplace=True),
    )


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(NORM_GROUPS, channels)
