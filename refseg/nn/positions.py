"""Where the cells of a grid lie, as vectors.

Letters: B maps, H x W cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: DETR's: wavelengths from 2 pi to 10,000 times that.
TEMPERATURE = 10_000.0


def sine_positions(valid: Tensor, width: int) -> Tensor:
    """DETR's normalised sines, [B, H, W] bool -> [B, H, W, width] float32.

    Half the channels tell the row, half the column, each from 0 to 2 pi over the valid cells.
    """
    rows, columns = (valid.cumsum(dim=axis).float() for axis in (1, 2))
    ends = rows[:, -1:].clamp(min=1e-6), columns[:, :, -1:].clamp(min=1e-6)
    half = width // 2
    step = torch.arange(half, device=valid.device)
    period = TEMPERATURE ** (2 * (step // 2) / half)
    waves = [
        2 * math.pi * place[..., None] / end[..., None] / period
        for place, end in zip((rows, columns), ends, strict=True)
    ]
    return torch.cat([_sine_cosine(wave) for wave in waves], dim=-1)


def _sine_cosine(waves: Tensor) -> Tensor:
    """Sines of the even channels, cosines of the odd ones."""
    pairs = torch.stack([waves[..., 0::2].sin(), waves[..., 1::2].cos()], dim=-1)
    return pairs.flatten(-2)
