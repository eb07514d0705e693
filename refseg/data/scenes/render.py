"""From a scene and its stage to the picture and every object's exact visible pixels.

One ray a pixel, through its centre, and only where an object's box projects to. The nearest hit
owns the pixel, so masks are disjoint and exact. Shadow rays are cast only from points inside the
tube that an object's bounding ball drags away from the light.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes import shade
from refseg.data.scenes.geometry import SOLIDS, Floats, Vec, along, length
from refseg.data.scenes.model import Rendered, Scene, SceneObject
from refseg.data.scenes.stage import (
    Stage,
    constant,
    rays,
    screen_box,
    squared,
    to_local,
    to_px,
    turned_back,
)

SHADOW_OFFSET = 4e-3


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
    origin = to_local(item, constant(0.0, stage.camera.height, 0.0), point=True)
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
            item, area=0, depth=depth, visible_share=0.0,
            box_xyxy=(0.0, 0.0, 0.0, 0.0), centre_xy=(0.0, 0.0),
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


def project(objects: list[SceneObject], stage: Stage) -> tuple[Scene, NDArray[np.int16], Floats]:
    """The scene with its projected fields filled, the owner map and the objects' depth."""
    patches = [cast(item, stage) for item in objects]
    owner, depth = composite(patches, stage.size_hw)
    seen = tuple(measured(patch, stage, owner) for patch in patches)
    return Scene(stage.size_hw, seen), owner, depth


def _shadow(item: SceneObject, points: Vec, owner: NDArray[np.int16], stage: Stage) -> Floats:
    """Indices of the points (flat) that lie in the shadow of one object."""
    solid = SOLIDS[item.kind]
    bound = solid.bound * item.radius
    x, y, z = item.position_world
    away = (points[0] - x, points[1] - y, points[2] - z)
    light = stage.light
    toward = away[0] * light[0] + away[1] * light[1] + away[2] * light[2]
    inside = (toward < bound) & (squared(away) - toward * toward < bound * bound)
    if not solid.concave:
        inside &= owner != item.object_id
    near = np.flatnonzero(inside)
    step = SHADOW_OFFSET * item.radius
    start = (
        points[0][near] + light[0] * step,
        points[1][near] + light[1] * step,
        points[2][near] + light[2] * step,
    )
    origin = to_local(item, start, point=True)
    direction = to_local(item, constant(*light), point=False)
    return near[np.isfinite(SOLIDS[item.kind].entry(origin, direction))]


def _lit(objects: tuple[SceneObject, ...], points: Vec, owner: NDArray[np.int16],
         stage: Stage) -> Floats:
    """0 in shadow, 1 in full light; softened by one pixel on the ground. Flat, [H * W]."""
    lit = np.ones(owner.size, np.float32)
    for item in objects:
        lit[_shadow(item, points, owner.ravel(), stage)] = 0.0
    return np.where(owner.ravel() < 0, _softened(lit.reshape(owner.shape), owner < 0).ravel(), lit)


def _softened(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Mean over the known ones of each pixel's 3 x 3 neighbours."""
    weight = known.astype(np.float32)
    total = values * weight
    for axis in (0, 1):
        total, weight = _three(total, axis), _three(weight, axis)
    return total / np.maximum(weight, 1.0)


def _three(values: Floats, axis: int) -> Floats:
    """Each value plus its two neighbours along an axis; nothing beyond the border."""
    out = values.copy()
    low, high = [slice(None)] * 2, [slice(None)] * 2
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    out[tuple(high)] += values[tuple(low)]
    out[tuple(low)] += values[tuple(high)]
    return out


def _contact(objects: tuple[SceneObject, ...], x: Floats, z: Floats) -> Floats:
    """How much of the sky the ground sees, 0..1: darker close to where objects stand."""
    open_sky = np.ones_like(x)
    for item in objects:
        reach = SOLIDS[item.kind].footprint * item.radius
        dx, dz = x - item.position_world[0], z - item.position_world[2]
        closeness = 1.0 / (1.0 + (dx * dx + dz * dz) / (reach * reach))
        open_sky *= 1.0 - 0.45 * closeness * closeness
    return open_sky


def _object_pixels(item: SceneObject, at: NDArray[np.intp], points: Vec, direction: Vec,
                   lit: Floats, stage: Stage) -> Floats:
    """RGB of one object's visible pixels `at` (flat indices)."""
    where = (points[0][at], points[1][at], points[2][at])
    local = to_local(item, where, point=True)
    local_normal = SOLIDS[item.kind].normal(local)
    back = (-direction[0][at], -direction[1][at], -direction[2][at])
    size = length(back)
    view = (back[0] / size, back[1] / size, back[2] / size)
    normal = turned_back(item, local_normal)
    return shade.object_colour(item, local, local_normal, normal, view, stage.light, lit[at])


def _smooth_edges(image: Floats, owner: NDArray[np.int16]) -> Floats:
    """Blend pixels on outlines with their neighbours, as a lens would."""
    edge = np.zeros(owner.shape, bool)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    row, column = np.nonzero(edge)
    bottom, right = owner.shape[0] - 1, owner.shape[1] - 1
    mixed = 0.5 * image[row, column]
    for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        mixed += 0.125 * image[np.clip(row + dr, 0, bottom), np.clip(column + dc, 0, right)]
    image = image.copy()
    image[row, column] = mixed
    return image


def render(scene: Scene, stage: Stage) -> Rendered:
    """Draw the scene: image [H, W, 3] uint8 RGB, owner map, projected fields filled."""
    seen, owner, depth = project(list(scene.objects), stage)
    height, width = stage.size_hw
    blocks = rays(stage, (0, height), (0, width))
    dx, dy, dz = (np.broadcast_to(part, owner.shape).ravel() for part in blocks)
    ground_depth = np.where(dy < -1e-3, stage.camera.height / np.maximum(-dy, 1e-3), np.inf)
    t = np.where(owner.ravel() < 0, ground_depth, depth.ravel())
    sky = ~np.isfinite(t)
    t[sky] = 0.0
    points = along(constant(0.0, stage.camera.height, 0.0), (dx, dy, dz), t)
    lit = _lit(seen.objects, points, owner, stage)
    colours = np.empty((owner.size, 3), np.float32)
    colours[:] = np.array(stage.sky_colour, np.float32) / 255.0
    floor = np.flatnonzero((owner.ravel() < 0) & ~sky)
    x, z = points[0][floor], points[2][floor]
    colours[floor] = shade.ground_colour(stage, x, z, t[floor], lit[floor])
    colours[floor] *= _contact(seen.objects, x, z)[:, None]
    for item in seen.objects:
        at = np.flatnonzero(owner.ravel() == item.object_id)
        colours[at] = _object_pixels(item, at, points, (dx, dy, dz), lit, stage)
    image = _smooth_edges(np.minimum(colours, 1.0).reshape(height, width, 3), owner)
    return Rendered(seen, (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), owner)
