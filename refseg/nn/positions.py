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


def sine_table(side: int, width: int, amplitude: float = 0.5) -> Tensor:
    """2-D sines to start a position table from, [side * side, width] float32.

    Half the channels tell the row, half the column: a sine and a cosine per frequency, from one
    half wave over the image upwards, so that the first ones are ramps from side to side. From
    zeros instead, a small model takes very long to find out that "left" is a place.
    """
    place = (torch.arange(side) + 0.5) / side
    frequencies = torch.pi * 2.0 ** (torch.arange((width + 3) // 4) / 2)
    waves = place[:, None] * frequencies  # [side, F]
    axis = torch.stack([waves.cos(), waves.sin()], dim=-1).flatten(1)  # [side, 2F]
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    both = torch.stack([rows, columns], dim=-1).flatten(2)  # interleaved: any prefix has both
    return amplitude * both.reshape(side * side, -1)[:, :width]
