"""Draws that hang on an id and a salt alone, whatever else is in the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn(ids: Tensor, salt: int, count: int) -> Tensor:
    """0..count - 1 for each id, int64: two rounds of splitmix64's finisher on id and salt."""
    x = ids * -7046029254386353131 + _wrapped(salt * 6364136223846793005)
    for multiplier in (-4658895280553007687, -7723592293110705685):
        x = (x ^ _shifted(x, 30)) * multiplier
    return _shifted(x ^ _shifted(x, 31), 11) % count


def share(ids: Tensor, salt: int) -> Tensor:
    """[0, 1) for each id, float64."""
    return drawn(ids, salt, 2**40).to(torch.float64) / 2**40


def _wrapped(x: int) -> int:
    """As a signed integer of 64 bits holds it."""
    return (x + 2**63) % 2**64 - 2**63


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> places) & ((1 << (64 - places)) - 1)
