"""Where a scene stands: camera, light, ground and background; and the step from world to px.

The camera stands over the world's origin and looks along z, tilted down by `pitch`; it never
turns or rolls, so that left and right in the picture are left and right in the world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refseg.data.scenes.geometry import Vec
from refseg.data.scenes.model import SceneObject
from refseg.data.scenes.solids import SOLIDS

# Right and up of the pixel's centre, px: four rays in a turned square.
SUB_PIXELS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
GROUNDS = ("noise", "tiles", "planks", "speckles", "patches")


@dataclass(frozen=True)
class Camera:
    """height: world units over the ground. pitch: radians downwards. focal: px."""

    height: float
    pitch: float
    focal: float


@dataclass(frozen=True)
class Stage:
    """All of a picture that is not an object.

    light: unit vector towards the light, world. ground: one of `GROUNDS`. ground_colour,
    second_colour, sky_colour: RGB 0..255. ground_scale: world units of one tile. ground_turn:
    radians. seed: of the ground's noise.
    """

    size_hw: tuple[int, int]
    camera: Camera
    light: tuple[float, float, float]
    ground: str
    ground_colour: tuple[float, float, float]
    second_colour: tuple[float, float, float]
    sky_colour: tuple[float, float, float]
    ground_scale: float
    ground_turn: float
    seed: int


def constant(x: float, y: float, z: float) -> Vec:
    """A Vec that all rays share."""
    return (
        np.full(1, x, np.float32),
        np.full(1, y, np.float32),
        np.full(1, z, np.float32),
    )


def eye(stage: Stage) -> Vec:
    """Where the camera stands, world."""
    return constant(0.0, stage.camera.height, 0.0)


def rays(stage: Stage, rows: tuple[int, int], columns: tuple[int, int]) -> Vec:
    """Directions through the pixel centres of a block, shapes [1, w], [h, 1], [h, 1].

    Each has length 1 along the camera's axis, so a ray's parameter is the depth.
    """
    camera, (height, width) = stage.camera, stage.size_hw
    column = np.arange(*columns, dtype=np.float32)[None, :] + 0.5
    row = np.arange(*rows, dtype=np.float32)[:, None] + 0.5
    right = (column - width / 2) / camera.focal
    up = (height / 2 - row) / camera.focal
    sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
    return right, up * cosine - sine, up * sine + cosine


def nudged(stage: Stage, ray: Vec, right: float, up: float) -> Vec:
    """The rays of `rays`, moved by parts of a pixel."""
    sine, cosine = math.sin(stage.camera.pitch), math.cos(stage.camera.pitch)
    right, up = right / stage.camera.focal, up / stage.camera.focal
    return ray[0] + right, ray[1] + up * cosine, ray[2] + up * sine


def to_px(stage: Stage, x: float, y: float, z: float) -> tuple[float, float, float]:
    """World point -> column and row in px, and depth along the camera's axis."""
    camera, (height, width) = stage.camera, stage.size_hw
    sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
    y -= camera.height
    depth = z * cosine - y * sine
    up = y * cosine + z * sine
    safe = max(depth, 1e-6)
    return width / 2 + camera.focal * x / safe, height / 2 - camera.focal * up / safe, depth


def ground_point(stage: Stage, column: float, row: float) -> tuple[float, float] | None:
    """World x and z of the ground under a px position; None at or above the horizon."""
    camera, (height, width) = stage.camera, stage.size_hw
    sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
    up = (height / 2 - row) / camera.focal
    fall = sine - up * cosine
    if fall <= 1e-3:
        return None
    t = camera.height / fall
    return t * (column - width / 2) / camera.focal, t * (up * sine + cosine)


def to_local(item: SceneObject, v: Vec, *, point: bool) -> Vec:
    """World -> the object's frame: points are moved, turned and scaled; directions not moved."""
    x, y, z = v
    if point:
        x, y, z = (part - centre for part, centre in zip(v, item.position_world, strict=True))
    cosine, sine = math.cos(item.yaw), math.sin(item.yaw)
    scale = 1.0 / item.radius
    return (x * cosine + z * sine) * scale, y * scale, (z * cosine - x * sine) * scale


def turned_back(item: SceneObject, v: Vec) -> Vec:
    """Unit directions in the object's frame -> world."""
    cosine, sine = math.cos(item.yaw), math.sin(item.yaw)
    return v[0] * cosine - v[2] * sine, v[1], v[0] * sine + v[2] * cosine


def screen_box(item: SceneObject, stage: Stage) -> tuple[int, int, int, int]:
    """Rows and columns (row0, row1, column0, column1) outside which the object cannot be.

    They hold the projected corners of the object's box, clipped to the picture; empty if the
    object reaches behind the camera.
    """
    half = [part * item.radius for part in SOLIDS[item.kind].half]
    cosine, sine = math.cos(item.yaw), math.sin(item.yaw)
    x, y, z = item.position_world
    columns, rows = [], []
    for i in (-half[0], half[0]):
        for k in (-half[2], half[2]):
            for j in (-half[1], half[1]):
                column, row, depth = to_px(
                    stage, x + i * cosine - k * sine, y + j, z + i * sine + k * cosine
                )
                if depth < 0.1:
                    return 0, 0, 0, 0
                columns.append(column)
                rows.append(row)
    height, width = stage.size_hw
    top, bottom = max(0, math.floor(min(rows))), min(height, math.ceil(max(rows)))
    left, right = max(0, math.floor(min(columns))), min(width, math.ceil(max(columns)))
    return (top, bottom, left, right) if top < bottom and left < right else (0, 0, 0, 0)
