"""Instances without a class: cells whose displacements lead to one place (IRNet, as TRIS uses it).

A displacement points from a cell to the centre of the thing that it belongs to, in cells. Around
centres it is weak; cells that end up in one weak region are of one instance.
Letters: h x w cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from refseg.errors import DataError

Cells = NDArray[np.int64]
Displacement = NDArray[np.floating[Any]]

#: Steps that a cell follows the field for, and the length below which it is weak.
STEPS, WEAK = 300, 2.5


def instance_map(displacement: Displacement, *, steps: int = STEPS, weak: float = WEAK) -> Cells:
    """[2, h, w] (dy, dx) in cells -> [h, w] int64, the instance of each cell, 0 .. n - 1.

    Cells that end up in no weak region are one instance together, as in IRNet; so is everything
    where no displacement is weak, or all are. Raises DataError for another shape and for values
    that are not finite.
    """
    _check(displacement)
    regions, _ = ndimage.label(np.hypot(*displacement) < weak)  # by sides, not by corners
    ends = np.rint(follow(displacement, steps)).astype(np.int64)
    _, instances = np.unique(regions[ends[0], ends[1]], return_inverse=True)
    return np.asarray(instances, np.int64).reshape(displacement.shape[1:])


def follow(displacement: Displacement, steps: int = STEPS) -> NDArray[np.float64]:
    """Where each cell ends after so many steps along the field: [2, h, w] (y, x), float64.

    A step adds the displacement where one stands, bilinear between cells; nobody leaves the map.
    """
    field = torch.from_numpy(np.ascontiguousarray(displacement, np.float64))
    height, width = field.shape[1:]
    last = torch.tensor([height - 1, width - 1], dtype=torch.float64)[:, None, None]
    places = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ).double()
    for _ in range(steps):
        moved = (places + _sampled(field, places, last)).clamp(min=0).minimum(last)
        if torch.equal(moved, places):  # then no later step moves anyone either
            break
        places = moved
    return places.numpy()


def _sampled(field: torch.Tensor, places: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The field at places, both [2, h, w]; cell centres are whole numbers."""
    # -1 and 1 are the centres of the first and last cell; a single one is met anywhere.
    unit = places / last.clamp(min=1) * 2 - 1
    grid = unit.flip(0).permute(1, 2, 0)[None]
    return F.grid_sample(field[None], grid, padding_mode="border", align_corners=True)[0]


def _check(displacement: Displacement) -> None:
    if displacement.ndim != 3 or len(displacement) != 2 or displacement.size == 0:
        raise DataError(f"displacements of shape {displacement.shape}", remedy="[2, h, w]")
    if not np.isfinite(displacement).all():
        raise DataError(
            "displacements that are not finite", remedy="the network that gave them has diverged"
        )
