"""Co-content teacher forcing: a coordinate brings what the image shows there (CCTF).

The paper's words ask for the spatial features that a coordinate refers to. One number refers to a
line of cells: an x to a column, a y to a row. The released code crosses them ("swapped").
Letters: B expressions, H x W cells, L tokens, D width, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refseg.methods.partial_res.places import Grid


@dataclass(frozen=True)
class Content:
    """lines: [2, B, max(H, W), D], what an x (0) and a y (1) look up; made once, then gathered.

    swapped: the released code's rule for the line's number. bins: K.
    """

    lines: Tensor
    grid: Grid
    bins: int
    swapped: bool

    @classmethod
    def of(cls, memory: Tensor, valid: Tensor, grid: Grid, bins: int, *, swapped: bool) -> Content:
        """memory: [B, H, W, D]; valid: [B, H, W] bool, cells of the image."""
        if swapped:  # padding has its share in the means there, too
            valid = torch.ones_like(valid)
        shown = memory * valid[..., None]
        columns = shown.sum(dim=1) / valid.sum(dim=1).clamp(min=1)[..., None]
        rows = shown.sum(dim=2) / valid.sum(dim=2).clamp(min=1)[..., None]
        pair = (rows, columns) if swapped else (columns, rows)
        length = max(grid.hw)
        padded = [torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[1])) for x in pair]
        return cls(torch.stack(padded), grid, bins, swapped)

    def of_tokens(self, tokens: Tensor, axes: Tensor) -> Tensor:
        """What tokens [B, L] of the axes [L] (0: x, 1: y) bring, [B, L, D]; END nothing, unless
        swapped.
        """
        cells = torch.where(axes == 0, self._lines_of(tokens, 0), self._lines_of(tokens, 1))
        # One gather over both tables: the line's number behind its table's start.
        count, batch, length, width = self.lines.shape
        table = self.lines.transpose(0, 1).reshape(batch, count * length, width)
        index = (cells + axes * length)[..., None].expand(-1, -1, width)
        found = table.gather(1, index)
        return found if self.swapped else found * (tokens < self.bins)[..., None]

    def _lines_of(self, tokens: Tensor, axis: int) -> Tensor:
        if not self.swapped:
            return self.grid.cells(tokens, axis, self.bins)
        # x is scaled by H - 1 and picks a row, y by W - 1 and a column; END picks the last.
        size = self.grid.hw[axis] - 1
        return torch.div(tokens * size, self.bins, rounding_mode="floor")
