"""Where the light reaches: shadows, and the dimmer ground around what stands on it.

Shadow rays are cast only from points inside the tube that an object's bounding ball drags away
from the light.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.geometry import Floats, Vec, dot
from refseg.data.scenes.model import SceneObject
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import Stage, constant, to_local

SHADOW_OFFSET = 4e-3
CONTACT_DIMMING = 0.45


def shadowed(
    objects: tuple[SceneObject, ...], points: Vec, owner: NDArray[np.int16], stage: Stage
) -> NDArray[np.bool_]:
    """Which surface points [N] (world) lie in the shadow of an object.

    owner: [N] object_id of each point, -1 on the ground. A convex object's own dark side is not
    counted: there the surface faces away from the light.
    """
    dark = np.zeros(owner.shape, bool)
    for item in objects:
        near = _downstream(item, points, owner, stage)
        step = SHADOW_OFFSET * item.radius
        start = (
            points[0][near] + stage.light[0] * step,
            points[1][near] + stage.light[1] * step,
            points[2][near] + stage.light[2] * step,
        )
        origin = to_local(item, start, point=True)
        direction = to_local(item, constant(*stage.light), point=False)
        dark[near[np.isfinite(SOLIDS[item.kind].entry(origin, direction))]] = True
    return dark


def _downstream(
    item: SceneObject, points: Vec, owner: NDArray[np.int16], stage: Stage
) -> NDArray[np.intp]:
    """Indices of the points whose shadow ray may meet the object's bounding ball."""
    solid = SOLIDS[item.kind]
    bound = solid.bound * item.radius
    x, y, z = item.position_world
    away = (points[0] - x, points[1] - y, points[2] - z)
    light = stage.light
    toward = away[0] * light[0] + away[1] * light[1] + away[2] * light[2]
    inside = (toward < bound) & (dot(away, away) - toward * toward < bound * bound)
    if not solid.concave:
        inside &= owner != item.object_id
    return np.flatnonzero(inside)


def soft_light(dark: NDArray[np.bool_], owner: NDArray[np.int16]) -> Floats:
    """0 in shadow to 1 in full light, [H, W]; softened by a pixel on the ground."""
    lit = (~dark).astype(np.float32)
    ground = (owner < 0).astype(np.float32)
    total, weight = lit * ground, ground
    for axis in (0, 1):
        total, weight = _three(total, axis), _three(weight, axis)
    return np.where(owner < 0, total / np.maximum(weight, 1.0), lit)


def _three(values: Floats, axis: int) -> Floats:
    """Each value plus its two neighbours along an axis; nothing beyond the border."""
    out = values.copy()
    low, high = [slice(None)] * 2, [slice(None)] * 2
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    out[tuple(high)] += values[tuple(low)]
    out[tuple(low)] += values[tuple(high)]
    return out


def open_sky(objects: tuple[SceneObject, ...], x: Floats, z: Floats) -> Floats:
    """How much of the sky ground points see, 0..1: less close to where objects stand."""
    seen = np.ones_like(x)
    for item in objects:
        reach = SOLIDS[item.kind].footprint * item.radius
        dx, dz = x - item.position_world[0], z - item.position_world[2]
        closeness = 1.0 / (1.0 + (dx * dx + dz * dz) / (reach * reach))
        seen *= 1.0 - CONTACT_DIMMING * closeness * closeness
    return seen
