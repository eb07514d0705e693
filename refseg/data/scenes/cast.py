"""Which object owns which pixel.

One ray a pixel, through its centre, and only where an object's box projects to. The nearest hit
owns the pixel, so masks are disjoint and exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.geometry import Floats
from refseg.data.scenes.model import Scene, SceneObject
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import Stage, eye, rays, screen_box, to_local, to_px


@dataclass(frozen=True)
class Patch:
    """An object's hits inside its screen box. depth: [h, w] float32, inf where it is missed."""

    item: SceneObject
    rows: slice
    columns: slice
    depth: Floats

    @property
    def pixels(self) -> int:
        """Number of pixels the object would have with nothing in front of it."""
        return int(np.count_nonzero(np.isfinite(self.depth)))


def cast(item: SceneObject, stage: Stage) -> Patch:
    """Where the rays of the picture meet one object."""
    top, bottom, left, right = screen_box(item, stage)
    direction = to_local(item, rays(stage, (top, bottom), (left, right)), point=False)
    origin = to_local(item, eye(stage), point=True)
    depth = SOLIDS[item.kind].entry(origin, direction)
    depth = np.broadcast_to(depth, (bottom - top, right - left))
    return Patch(item, slice(top, bottom), slice(left, right), depth)


def composite(patches: list[Patch], hw: tuple[int, int]) -> tuple[NDArray[np.int16], Floats]:
    """owner [H, W] (object_id or -1) and depth [H, W] float32 (inf where no object is)."""
    owner = np.full(hw, -1, np.int16)
    depth = np.full(hw, np.inf, np.float32)
    for patch in patches:
        view = depth[patch.rows, patch.columns]
        nearer = patch.depth < view
        view[nearer] = patch.depth[nearer]
        owner[patch.rows, patch.columns][nearer] = patch.item.object_id
    return owner, depth


def measured(patch: Patch, stage: Stage, owner: NDArray[np.int16]) -> SceneObject:
    """The patch's object with its projected fields filled from the owner map."""
    item, part = patch.item, owner[patch.rows, patch.columns] == patch.item.object_id
    depth = to_px(stage, *item.position_world)[2]
    area = int(np.count_nonzero(part))
    if not area:
        return replace(
            item,
            area=0,
            depth=depth,
            visible_share=0.0,
            box_xyxy=(0.0, 0.0, 0.0, 0.0),
            centre_xy=(0.0, 0.0),
        )
    rows, columns = np.nonzero(part)
    rows, columns = rows + patch.rows.start, columns + patch.columns.start
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return replace(
        item,
        area=area,
        box_xyxy=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        centre_xy=(int(columns.sum()) / area + 0.5, int(rows.sum()) / area + 0.5),
        depth=depth,
        visible_share=area / patch.pixels,
    )


def projected(patches: list[Patch], stage: Stage) -> tuple[Scene, NDArray[np.int16], Floats]:
    """The scene with its projected fields filled, the owner map and the objects' depth."""
    owner, depth = composite(patches, stage.size_hw)
    seen = tuple(measured(patch, stage, owner) for patch in patches)
    return Scene(stage.size_hw, seen), owner, depth
