"""Language fused into the encoder, as LAVT does it (VEGA: "as in previous methods").

Letters: B batch, N pixels, T words, C channels of the stage, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg.errors import ConfigError


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise [B, N, C] over N, no learned scale. One pixel becomes zero rather than an error."""
    x32 = x.float()
    variance, mean = torch.var_mean(x32, dim=1, keepdim=True, correction=0)
    return ((x32 - mean) * torch.rsqrt(variance + eps)).to(x.dtype)


class PixelWordFusion(nn.Module):
    """LAVT's pixel-word attention for one stage: what the words say at each pixel.

    pixels [B, N, C], words [B, T, D], word_mask [B, T] -> residual [B, N, C].
    The attention is scaled by the full C even with several heads, as in LAVT's code.
    """

    def __init__(self, channels: int, text_width: int, heads: int = 1) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(
                f"{channels} channels are not a multiple of {heads} heads",
                remedy="choose a number of fusion_heads that divides the channels of every stage",
            )
        self.heads, self.scale = heads, channels**-0.5
        self.visual = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(text_width, channels)
        self.value = nn.Linear(text_width, channels)
        self.spread = nn.Linear(channels, channels)
        self.mix = nn.Sequential(nn.Linear(channels, channels), nn.GELU())

    def forward(self, pixels: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        q = self._heads(instance_norm(self.query(pixels)))
        k, v = self._heads(self.key(words)), self._heads(self.value(words))
        scores = (q @ k.transpose(-1, -2)) * self.scale  # [B, heads, N, T]
        scores = scores.masked_fill(~word_mask[:, None, None], float("-inf"))
        heard = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # [B, N, C]
        said = instance_norm(self.spread(heard))
        fused: Tensor = self.mix(self.visual(pixels) * said)
        return fused

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        return x.view(batch, length, self.heads, channels // self.heads).transpose(1, 2)


class LanguageGate(nn.Module):
    """tanh gate on the fused residual: x + tanh(W2 relu(W1 r)) * r, both maps without bias.

    zero_init: W2 starts at zero, so the encoder starts as the plain pre-trained one.
    """

    def __init__(self, channels: int, zero_init: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels, bias=False)
        self.second = nn.Linear(channels, channels, bias=False)
        if zero_init:
            nn.init.zeros_(self.second.weight)

    def forward(self, pixels: Tensor, residual: Tensor) -> Tensor:
        gate = torch.tanh(self.second(torch.relu(self.first(residual))))
        return pixels + gate * residual
