"""Words into pixels, after LAVT: what the words say at each place of one level.

    q = IN(conv(v));  k, w = linear(words);  G = softmax over words of (q k / sqrt C), applied to w
    said = ReLU(conv(ReLU(conv(v)) * IN(conv(G))));  fused = v + said

All convolutions are 1 x 1 with bias, both instance norms have a scale and a shift. Those of v hear
no word, so they run once per image. The one of G runs over the words instead of the pixels: shares
that add up to 1 let it be moved before the sum, and there are fewer words.
Letters: I images, B expressions, L places of a sentence, C channels, N = h w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Looked:
    """One level before any word, each [I, C, h, w]: v, q and ReLU(conv(v))."""

    pixels: Tensor
    query: Tensor
    visual: Tensor

    def of(self, image_of: Tensor) -> Looked:
        """The same, one row per expression."""
        return Looked(self.pixels[image_of], self.query[image_of], self.visual[image_of])


class InstanceNorm(nn.Module):
    """Each channel of [B, C, h, w] over its own pixels, then a learned scale and shift.

    One pixel becomes the shift; torch's own refuses it, and a small image gets that small.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # Torch's kernel folds the mean into the shift: where a channel hardly varies, as when all
        # pixels hear the words alike, that would cost most of its digits.
        x = x - x.mean(dim=(2, 3), keepdim=True)
        # A group per channel is an instance norm; the function under torch's own checks no sizes.
        return torch.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


class PixelWordFusion(nn.Module):
    """`look` at a level [I, C, h, w], then `forward` with words [B, L, D] -> fused [B, C, h, w]."""

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.query = nn.Sequential(nn.Conv2d(channels, channels, 1), InstanceNorm(channels))
        self.visual = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())
        self.key = nn.Linear(text_width, channels)
        self.value = nn.Linear(text_width, channels)
        self.spread = nn.Linear(channels, channels)
        self.norm = InstanceNorm(channels)
        self.mix = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())

    def look(self, pixels: Tensor) -> Looked:
        """The part no expression changes."""
        return Looked(pixels, self.query(pixels), self.visual(pixels))

    def forward(self, looked: Looked, words: Tensor, heard: Tensor | None) -> Tensor:
        """looked: a row per expression. heard: [B, L] bool, words that count; None: all places."""
        scores = self.key(words) @ looked.query.flatten(2) * self.scale  # [B, L, N]
        if heard is not None:
            scores = scores.masked_fill(~heard[:, :, None], float("-inf"))
        values = self.spread(self.value(words)).transpose(1, 2)  # [B, C, L]
        gathered = (values @ scores.softmax(dim=1).to(values.dtype)).view_as(looked.pixels)
        said: Tensor = self.mix(looked.visual * self.norm(gathered))
        return looked.pixels + said
