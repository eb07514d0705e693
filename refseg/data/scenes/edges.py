"""Smooth outlines: four rays in each pixel where two objects, or object and ground, meet.

Only who is hit is asked of these rays; the colour is the pixel's own or a neighbour's. Masks stay
those of the rays through the pixel centres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.cast import Patch
from refseg.data.scenes.geometry import Floats, Vec
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import SUB_PIXELS, Stage, eye, nudged, to_local

Index = NDArray[np.intp]
NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def smooth_edges(
    image: Floats, owner: NDArray[np.int16], patches: list[Patch], direction: Vec, stage: Stage
) -> Floats:
    """The image [H, W, 3] with its outline pixels averaged over four rays.

    direction: rays of all pixels, flat [H * W], as `stage.rays` gives them.
    """
    row, column = _edge_pixels(owner)
    flat = row * owner.shape[1] + column
    ray = (direction[0][flat], direction[1][flat], direction[2][flat])
    moved = [nudged(stage, ray, right, up) for right, up in SUB_PIXELS]
    x, y, z = (np.stack([part[axis] for part in moved]) for axis in range(3))
    owners = _owner_at(patches, row, column, (x, y, z), stage)
    mixed = np.zeros((len(row), 3), np.float32)
    for who in owners:
        mixed += _colour_of(who, image, owner, row, column)
    image = image.copy()
    image[row, column] = mixed / len(SUB_PIXELS)
    return image


def _edge_pixels(owner: NDArray[np.int16]) -> tuple[Index, Index]:
    """Rows and columns of the pixels with another owner above, below, left or right."""
    edge = np.zeros(owner.shape, bool)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    row, column = np.nonzero(edge)
    return row, column


def _owner_at(
    patches: list[Patch], row: Index, column: Index, ray: Vec, stage: Stage
) -> NDArray[np.int16]:
    """Who is hit first by the rays [S, N], which pass close to the N pixel centres."""
    owner = np.full(ray[0].shape, -1, np.int16)
    depth = np.full(ray[0].shape, np.inf, np.float32)
    for patch in patches:
        near = (row >= patch.rows.start - 1) & (row <= patch.rows.stop)
        near &= (column >= patch.columns.start - 1) & (column <= patch.columns.stop)
        at = np.flatnonzero(near)
        part = (ray[0][:, at], ray[1][:, at], ray[2][:, at])
        direction = to_local(patch.item, part, point=False)
        origin = to_local(patch.item, eye(stage), point=True)
        t = SOLIDS[patch.item.kind].entry(origin, direction)
        before = depth[:, at]
        owner[:, at] = np.where(t < before, patch.item.object_id, owner[:, at])
        depth[:, at] = np.minimum(before, t)
    return owner


def _colour_of(
    who: NDArray[np.int16], image: Floats, owner: NDArray[np.int16], row: Index, column: Index
) -> Floats:
    """RGB [N, 3] of object `who` at a pixel, or in the first neighbour that it owns."""
    bottom, right = owner.shape[0] - 1, owner.shape[1] - 1
    colour = image[row, column]
    lost = np.flatnonzero(owner[row, column] != who)
    for down, along in NEIGHBOURS:
        r = np.clip(row[lost] + down, 0, bottom)
        c = np.clip(column[lost] + along, 0, right)
        found = owner[r, c] == who[lost]
        colour[lost[found]] = image[r[found], c[found]]
        lost = lost[~found]
    return colour
