"""Random scenes that are worth talking about: twins of one kind, things half hidden, near and far.

Everything comes from the generator that is passed in; a candidate object that would hide another
one too much, stand in it, or be too small to see is thrown away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refseg.data.scenes.cast import Patch, cast, composite, measured, projected
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, SIZES, Scene, SceneObject
from refseg.data.scenes.solids import SOLIDS
from refseg.data.scenes.stage import GROUNDS, Camera, Stage, ground_point, to_px

MIN_AREA_SHARE = 60 / (128 * 128)
MIN_VISIBLE_SHARE = 0.35
RADII = {"small": 0.48, "medium": 0.76, "large": 1.16}
SIDES, SIDE_WEIGHTS = (128, 160, 192, 224, 256), (0.52, 0.27, 0.11, 0.06, 0.04)
COUNTS, COUNT_WEIGHTS = (3, 4, 5, 6, 7), (0.12, 0.25, 0.27, 0.21, 0.15)
PATTERN_WEIGHTS = (0.52, 0.18, 0.15, 0.15)
PATTERN_RADIUS_PX = 8.0
CAMERA_NEAR, CAMERA_FAR = 4.7, 10.8
# Grounds and skies are pale and greyish, so that every object colour stands out.
GROUND_PAIRS = (
    ((150, 148, 142), (172, 170, 164)),
    ((178, 164, 140), (158, 144, 122)),
    ((128, 144, 126), (150, 164, 144)),
    ((136, 148, 162), (160, 170, 180)),
    ((168, 150, 150), (186, 172, 170)),
    ((112, 110, 112), (134, 132, 132)),
    ((196, 190, 178), (176, 170, 160)),
    ((164, 140, 116), (142, 120, 100)),
)
SKIES = ((206, 214, 222), (222, 216, 204), (190, 200, 206), (214, 206, 212), (176, 184, 196))


@dataclass(frozen=True)
class Staged:
    """A scene and the stage it stands on: `render(staged.scene, staged.stage)` draws it."""

    scene: Scene
    stage: Stage


def _rounded(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 4)


def _choice(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    return int(rng.choice(len(weights), p=weights))


def sample_stage(rng: np.random.Generator, size_hw: tuple[int, int] | None = None) -> Stage:
    """A random camera, light, ground and sky; a random size from `SIDES` unless one is given."""
    if size_hw is None:
        first = SIDES[_choice(rng, SIDE_WEIGHTS)]
        second = first if rng.random() < 0.55 else SIDES[_choice(rng, SIDE_WEIGHTS)]
        size_hw = (first, second)
    height, width = size_hw
    focal = _rounded(rng, 1.05, 1.35) * math.sqrt(height * width)
    tall = math.atan(height / 2 / focal)
    pitch = _rounded(rng, 0.36, 0.60) + max(0.0, tall - 0.45) * 0.5
    side = rng.choice((-1.0, 1.0)) * rng.uniform(0.25, 1.0)
    raw = (float(side), float(rng.uniform(1.0, 1.7)), float(rng.uniform(-1.0, 0.0)))
    size = math.sqrt(sum(part * part for part in raw))
    light = (round(raw[0] / size, 4), round(raw[1] / size, 4), round(raw[2] / size, 4))
    pair = GROUND_PAIRS[int(rng.integers(len(GROUND_PAIRS)))]
    sky = SKIES[int(rng.integers(len(SKIES)))]
    gain = _rounded(rng, 0.9, 1.08)
    return Stage(
        size_hw=size_hw,
        camera=Camera(_rounded(rng, 3.0, 4.4), round(pitch, 4), round(focal, 4)),
        light=light,
        ground=GROUNDS[int(rng.integers(len(GROUNDS)))],
        ground_colour=_scaled(pair[0], gain),
        second_colour=_scaled(pair[1], gain),
        sky_colour=_scaled(sky, 1.0),
        ground_scale=_rounded(rng, 0.7, 1.8),
        ground_turn=_rounded(rng, 0.0, 1.57),
        seed=int(rng.integers(2**31)),
    )


def _scaled(rgb: tuple[int, int, int], gain: float) -> tuple[float, float, float]:
    return round(rgb[0] * gain, 2), round(rgb[1] * gain, 2), round(rgb[2] * gain, 2)


def _attributes(rng: np.random.Generator, count: int) -> list[tuple[str, str, str, str, str]]:
    """Kind, colour, size, material, pattern of each object, with twins on purpose."""
    main = KINDS[int(rng.integers(len(KINDS)))]
    twins = int(rng.integers(2, min(count, 4) + 1)) if rng.random() < 0.88 else 1
    palette = [int(i) for i in rng.permutation(len(COLOURS))[: int(rng.integers(3, 7))]]
    rows = []
    for index in range(count):
        kind = main if index < twins else KINDS[int(rng.integers(len(KINDS)))]
        colour = COLOURS[palette[int(rng.integers(len(palette)))]]
        size = SIZES[_choice(rng, (0.36, 0.38, 0.26))]
        material = MATERIALS[_choice(rng, (0.58, 0.42))]
        pattern = PATTERNS[_choice(rng, PATTERN_WEIGHTS)]
        rows.append((kind, colour, size, material, pattern))
    return [rows[int(i)] for i in rng.permutation(count)]


def _yaw(rng: np.random.Generator, kind: str) -> float:
    """Any, but the ring shows its hole, the capsule its length and the mug its handle."""
    if kind == "ring":
        return _rounded(rng, -0.95, 0.95)
    if kind == "capsule":
        return _rounded(rng, -1.05, 1.05)
    if kind == "mug":
        return _rounded(rng, -math.pi - 0.75, 0.75)
    return _rounded(rng, 0.0, 2 * math.pi)


def _place(
    rng: np.random.Generator, stage: Stage, placed: list[SceneObject], reach: float
) -> tuple[float, float] | None:
    """A spot on the ground: anywhere in the picture, or just behind or before another object."""
    height, width = stage.size_hw
    if placed and rng.random() < 0.4:
        other = placed[int(rng.integers(len(placed)))]
        gap = reach + SOLIDS[other.kind].footprint * other.radius
        x, _, z = other.position_world
        side = (1.0 if rng.random() < 0.5 else -1.0) * rng.uniform(0.25, 0.8) * gap
        back = math.sqrt(max(gap * gap - side * side, 0.0)) * rng.uniform(1.02, 1.5)
        if rng.random() < 0.35:
            back = -back
        return x + float(side), z + float(back)
    column = rng.uniform(0.06, 0.94) * width
    row = rng.uniform(0.05, 0.97) * height
    return ground_point(stage, float(column), float(row))


def _candidate(
    rng: np.random.Generator,
    stage: Stage,
    placed: list[SceneObject],
    wish: tuple[str, str, str, str, str],
) -> SceneObject | None:
    kind, colour, size, material, pattern = wish
    radius = round(RADII[size] * float(rng.uniform(0.93, 1.07)), 4)
    solid = SOLIDS[kind]
    reach = solid.footprint * radius
    spot = _place(rng, stage, placed, reach)
    yaw = _yaw(rng, kind)
    if spot is None:
        return None
    x, z = round(spot[0], 4), round(spot[1], 4)
    depth = to_px(stage, x, 0.0, z)[2]
    if not CAMERA_NEAR <= depth <= CAMERA_FAR:
        return None
    for other in placed:
        gap = reach + SOLIDS[other.kind].footprint * other.radius
        dx, dz = x - other.position_world[0], z - other.position_world[2]
        if dx * dx + dz * dz < gap * gap:
            return None
    if stage.camera.focal * radius / depth < PATTERN_RADIUS_PX:
        pattern = "plain"
    y = round(solid.half[1] * radius, 4)
    return SceneObject(len(placed), kind, colour, size, material, pattern, (x, y, z), radius, yaw)


def _in_frame(item: SceneObject, patch: Patch, stage: Stage) -> bool:
    """At least about four fifths of the object's height and width lie inside the picture."""
    height, width = stage.size_hw
    column, row, depth = to_px(stage, *item.position_world)
    half = 0.55 * stage.camera.focal * item.radius / depth
    return half <= column <= width - half and half <= row <= height - half and patch.pixels > 0


def _acceptable(patches: list[Patch], stage: Stage) -> bool:
    height, width = stage.size_hw
    owner, _ = composite(patches, stage.size_hw)
    for patch in patches:
        seen = measured(patch, stage, owner)
        if seen.area < MIN_AREA_SHARE * height * width:
            return False
        if seen.visible_share < MIN_VISIBLE_SHARE:
            return False
    return True


def sample_scene(
    rng: np.random.Generator, *, size_hw: tuple[int, int] | None = None, attempts: int = 25
) -> Staged:
    """A scene of 3 to 7 objects with its projected fields filled.

    Each object shows at least 60 px of a 128 x 128 picture (in proportion for other sizes) and at
    least 0.35 of its own outline. attempts: spots tried for each object before it is left out.
    """
    while True:
        stage = sample_stage(rng, size_hw)
        wishes = _attributes(rng, COUNTS[_choice(rng, COUNT_WEIGHTS)])
        placed: list[SceneObject] = []
        patches: list[Patch] = []
        for wish in wishes:
            for _ in range(attempts):
                item = _candidate(rng, stage, placed, wish)
                if item is None:
                    continue
                patch = cast(item, stage)
                if _in_frame(item, patch, stage) and _acceptable([*patches, patch], stage):
                    placed.append(item)
                    patches.append(patch)
                    break
        if len(placed) >= 3:
            return Staged(projected(patches, stage)[0], stage)
