"""From a scene and its stage to the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes import light, shade
from refseg.data.scenes.cast import cast, projected
from refseg.data.scenes.edges import smooth_edges
from refseg.data.scenes.geometry import Floats, Vec, along, dot, length
from refseg.data.scenes.model import Rendered, Scene, SceneObject
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import (
    SUB_PIXELS,
    Stage,
    eye,
    nudged,
    rays,
    to_local,
    turned_back,
)


def _object_pixels(
    item: SceneObject, at: NDArray[np.intp], points: Vec, direction: Vec, lit: Floats, stage: Stage
) -> Floats:
    """RGB of one object's visible pixels `at` (flat indices)."""
    local = to_local(item, (points[0][at], points[1][at], points[2][at]), point=True)
    local_normal = SOLIDS[item.kind].normal(local)
    ray = (direction[0][at], direction[1][at], direction[2][at])
    share = _pattern(item, local, local_normal, ray, stage)
    normal = turned_back(item, local_normal)
    colour = shade.object_colour(item, share, normal, stage.light, lit[at])
    if item.material == "shiny":
        size = -length(ray)
        view = (ray[0] / size, ray[1] / size, ray[2] / size)
        bent = turned_back(item, shade.gloss_normal(item.kind, local, local_normal))
        colour += shade.gloss(item.kind, normal, bent, view, stage.light, lit[at])[:, None]
    return colour


def _pattern(item: SceneObject, local: Vec, normal: Vec, ray: Vec, stage: Stage) -> Floats:
    """Share of the pattern's second colour in each pixel: four rays to the tangent plane."""
    if item.pattern == "plain":
        return np.zeros(1, np.float32)
    origin = to_local(item, eye(stage), point=True)
    to_plane = dot((local[0] - origin[0], local[1] - origin[1], local[2] - origin[2]), normal)
    share = np.zeros(local[0].shape, np.float32)
    for right, up in SUB_PIXELS:
        shifted = to_local(item, nudged(stage, ray, right, up), point=False)
        slope = np.minimum(dot(shifted, normal), -1e-3)
        t = to_plane / slope
        share += shade.second_colour(item, along(origin, shifted, t), normal)
    return share / len(SUB_PIXELS)


def _background(stage: Stage, direction: Vec, depth: Floats, lit: Floats, scene: Scene) -> Floats:
    """RGB [N, 3] of pixels that no object owns; depth [N] is inf above the horizon."""
    colours = np.empty((depth.size, 3), np.float32)
    colours[:] = np.array(stage.sky_colour, np.float32) / 255.0
    floor = np.flatnonzero(np.isfinite(depth))
    t = depth[floor]
    x, z = t * direction[0][floor], t * direction[2][floor]
    ground = shade.ground_colour(stage, x, z, t, lit[floor])
    colours[floor] = ground * light.open_sky(scene.objects, x, z)[:, None]
    return colours


def render(scene: Scene, stage: Stage) -> Rendered:
    """Draw the scene: image [H, W, 3] uint8 RGB, owner map, projected fields filled.

    The same scene and stage give the same bytes; projected fields given are ignored.
    """
    patches = [cast(item, stage) for item in scene.objects]
    seen, owner, depth = projected(patches, stage)
    height, width = stage.size_hw
    flat = owner.ravel()
    blocks = rays(stage, (0, height), (0, width))
    dx, dy, dz = (np.broadcast_to(part, owner.shape).ravel() for part in blocks)
    ground = np.where(dy < -1e-3, stage.camera.height / np.maximum(-dy, 1e-3), np.inf)
    depth = np.where(flat < 0, ground, depth.ravel())
    points = along(eye(stage), (dx, dy, dz), np.where(np.isfinite(depth), depth, 0.0))
    dark = light.shadowed(seen.objects, points, flat, stage)
    lit = light.soft_light(dark.reshape(owner.shape), owner).ravel()
    colours = np.empty((owner.size, 3), np.float32)
    rest = np.flatnonzero(flat < 0)
    rays_there = (dx[rest], dy[rest], dz[rest])
    colours[rest] = _background(stage, rays_there, depth[rest], lit[rest], seen)
    for item in seen.objects:
        at = np.flatnonzero(flat == item.object_id)
        colours[at] = _object_pixels(item, at, points, (dx, dy, dz), lit, stage)
    image = np.clip(colours, 0.0, 1.0).reshape(height, width, 3)
    image = smooth_edges(image, owner, patches, (dx, dy, dz), stage)
    return Rendered(seen, (image * 255.0 + 0.5).astype(np.uint8), owner)
