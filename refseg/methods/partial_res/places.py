"""Where the grid's cells lie: which of them hold the image, a coordinate's cell.

Letters: B expressions, H x W cells, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refseg.ops.masks import content_rectangle
from refseg.types import Geometry


@dataclass(frozen=True)
class Grid:
    """hw: cells (rows, columns). net_hw: px (net). stride: px of a cell."""

    hw: tuple[int, int]
    net_hw: tuple[int, int]
    stride: int

    def cells(self, tokens: Tensor, axis: int, bins: int) -> Tensor:
        """The cell that each coordinate's bin centre lies in. axis: 0 for x (columns), 1 for y.

        END, and anything beyond the last bin, gives the last cell.
        """
        side, count = self.net_hw[1 - axis], self.hw[1 - axis]
        place = (tokens.clamp(max=bins - 1).double() + 0.5) * (side / bins / self.stride)
        return place.long().clamp(max=count - 1)

    def covered(self, boxes: Tensor) -> Tensor:
        """How much of each cell a box covers, [B, 4] xyxy net -> [B, H, W] in 0..1."""
        shares = []
        for axis in (1, 0):  # rows by y, then columns by x
            edges = torch.arange(self.hw[1 - axis] + 1, device=boxes.device) * float(self.stride)
            low = boxes[:, axis, None].maximum(edges[:-1])
            high = boxes[:, 2 + axis, None].minimum(edges[1:])
            shares.append((high - low).clamp(min=0) / self.stride)
        return shares[0][:, :, None] * shares[1][:, None]


def valid_cells(geometry: Sequence[Geometry], grid: Grid) -> Tensor:
    """[B, H, W] bool, True on cells that hold any of the image; the rest is padding."""
    rows, columns = torch.arange(grid.hw[0]), torch.arange(grid.hw[1])
    found = []
    for one in geometry:
        # Whole px: 275 * (96 / 275) is more than 96, which would let one more column in.
        x0, y0, x1, y1 = content_rectangle(one)
        across = _within(columns, x0, x1, grid.stride)
        down = _within(rows, y0, y1, grid.stride)
        found.append(down[:, None] & across[None])
    return torch.stack(found)


def _within(cells: Tensor, start: int, end: int, stride: int) -> Tensor:
    return (cells >= start // stride) & (cells < -(-end // stride))


def extents(valid: Tensor) -> Tensor:
    """[B, 4] float32: first column, first row, columns, rows of the valid rectangle, in cells."""
    across, down = valid.any(dim=1), valid.any(dim=2)
    first_x, first_y = across.float().argmax(dim=1), down.float().argmax(dim=1)
    return torch.stack([first_x, first_y, across.sum(dim=1), down.sum(dim=1)], dim=1).float()


def line_of_sines(count: int, width: int) -> Tensor:
    """Places on a line, [count, width] float32 of unit variance: sines and cosines from half a wave
    over the whole line to waves of four places, so that neighbours are alike and all differ.
    """
    place = (torch.arange(count) + 0.5) / count
    most = max(count / 4, 1.0)
    waves = torch.pi * most ** torch.linspace(0, 1, (width + 1) // 2)
    turned = place[:, None] * waves
    both = torch.stack([turned.cos(), turned.sin()], dim=-1).flatten(1)
    return 2**0.5 * both[:, :width]
