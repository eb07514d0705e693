"""What the blocks of Shatter and Gather are made of.

Letters: D width, h heads, d their width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def mlp(width: int, factor: float, drop: float = 0.0) -> nn.Sequential:
    """[..., D] -> what is added to it: norm, D -> factor D, GELU, dropout, -> D."""
    hidden = max(int(width * factor), 1)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(drop),
        nn.Linear(hidden, width),
    )


class Heads(nn.Module):
    """Maps of queries, keys and values from D to h d, without bias, and one back to D, with it."""

    def __init__(self, width: int, heads: int, head_width: int, drop: float) -> None:
        super().__init__()
        self.shape = (heads, head_width)
        self.scale = 1 / math.sqrt(head_width)
        inner = heads * head_width
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.drop = nn.Dropout(drop)

    def split(self, projected: Tensor) -> Tensor:
        """[..., h d] -> [..., h, d]."""
        return torch.unflatten(projected, -1, self.shape)

    def joined(self, heard: Tensor) -> Tensor:
        """[..., h, d] -> [..., D]."""
        joined: Tensor = self.drop(self.out(heard.flatten(-2)))
        return joined
