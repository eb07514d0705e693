"""What a surface looks like: colours, patterns, ground textures, light and highlight.

All in display space (0..1 of the final picture), since it is pleasant looks and separable
colours that are wanted, not physics. Arrays hold one value for each pixel being shaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refseg.data.scenes.geometry import Floats, Vec, dot, length, turn, unit
from refseg.data.scenes.model import SceneObject
from refseg.data.scenes.solids import RING_MAJOR
from refseg.data.scenes.stage import Stage

Colour = tuple[float, float, float]

# First the colour that gives the object its name, then the pattern's second one. Bright colours
# get a dark second one, dark colours a pale one; never one of the other named hues.
COLOUR_RGB: dict[str, tuple[Colour, Colour]] = {
    "red": ((212, 32, 38), (250, 205, 200)),
    "green": ((36, 148, 52), (205, 238, 205)),
    "blue": ((36, 70, 208), (198, 212, 250)),
    "yellow": ((246, 216, 30), (108, 92, 10)),
    "orange": ((248, 128, 16), (255, 226, 190)),
    "purple": ((136, 44, 170), (232, 204, 244)),
    "cyan": ((48, 208, 220), (8, 92, 104)),
    "brown": ((112, 66, 32), (214, 184, 152)),
    "white": ((240, 240, 238), (128, 128, 134)),
    "black": ((34, 34, 38), (136, 136, 142)),
}

DIFFUSE, AMBIENT, SKYLIGHT = 0.50, 0.50, 0.11
# Pattern sizes in units of the object's radius; four, eight or twelve cells close a round trip.
CELL, STRIPE, BASE_SHARE, DOT_RADIUS = 0.4, 0.48, 0.6, 0.34
BULGE = {"cube": 2.0, "pyramid": 1.5, "cylinder": 1.0}
UPRIGHT = ("cylinder", "mug", "cone")


def _surface_ball(p: Vec, _: Vec) -> tuple[Floats, Floats]:
    return turn(p[0], p[2]) * 3.2, p[1] + 0.25 * p[0]


def _surface_flat(p: Vec, n: Vec) -> tuple[Floats, Floats]:
    top = np.abs(n[1]) > 0.8
    along_x = np.abs(n[0]) > np.abs(n[2])
    return (
        np.where(top, p[0], np.where(along_x, p[2], p[0])) + 0.01,
        np.where(top, p[2], p[1]) + 0.01,
    )


def _surface_round(p: Vec, n: Vec) -> tuple[Floats, Floats]:
    cap = np.abs(n[1]) > 0.8
    return np.where(cap, p[0], turn(p[0], p[2]) * 3.2), np.where(cap, p[2], p[1])


def _surface_mug(p: Vec, _: Vec) -> tuple[Floats, Floats]:
    return turn(p[0], p[2]) * 3.2, p[1] - 0.02


def _surface_capsule(p: Vec, _: Vec) -> tuple[Floats, Floats]:
    return turn(p[1], p[2]) * 3.2, p[0]


def _surface_ring(p: Vec, _: Vec) -> tuple[Floats, Floats]:
    rho = np.sqrt(p[0] * p[0] + p[1] * p[1])
    return turn(rho - RING_MAJOR, p[2]) * 1.6, turn(p[0], p[1]) * 4.8


_SURFACE: dict[str, Callable[[Vec, Vec], tuple[Floats, Floats]]] = {
    "ball": _surface_ball,
    "cube": _surface_flat,
    "pyramid": _surface_flat,
    "cylinder": _surface_round,
    "cone": _surface_round,
    "mug": _surface_mug,
    "capsule": _surface_capsule,
    "ring": _surface_ring,
}


def _ball_spots() -> list[Colour]:
    """Thirty directions spread evenly (a Fibonacci spiral)."""
    golden = math.pi * (3.0 - math.sqrt(5.0))
    spots = []
    for i in range(30):
        y = 1.0 - (2 * i + 1) / 30
        out = math.sqrt(1.0 - y * y)
        spots.append((out * math.cos(golden * i), y, out * math.sin(golden * i)))
    return spots


_SPOTS = _ball_spots()


def second_colour(item: SceneObject, p: Vec, n: Vec) -> NDArray[np.bool_]:
    """Where the pattern's second colour lies; p and n are in the object's frame."""
    if item.pattern == "dotted" and item.kind == "ball":
        near = np.zeros(p[0].shape, bool)
        for x, y, z in _SPOTS:
            near |= p[0] * x + p[1] * y + p[2] * z > 0.965
        return near
    u, v = _SURFACE[item.kind](p, n)
    if item.pattern == "striped":
        phase = v / STRIPE
        return phase - np.floor(phase) > BASE_SHARE
    if item.pattern == "checkered":
        odd: NDArray[np.bool_] = (np.floor(u / CELL) + np.floor(v / CELL)) % 2 == 1
        return odd
    u, v = u / CELL, v / CELL
    u = u + 0.5 * (np.floor(v) % 2)
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return du * du + dv * dv < DOT_RADIUS * DOT_RADIUS


def _mixed(first: Colour, second: Colour, share: Floats) -> list[Floats]:
    pairs = zip(first, second, strict=True)
    return [a / 255.0 + share * np.float32((b - a) / 255.0) for a, b in pairs]


def object_colour(
    item: SceneObject, share: Floats, normal: Vec, light: Colour, lit: Floats
) -> Floats:
    """RGB [N, 3], about 0..1, of N surface points, without gloss.

    share: of the pattern's second colour, [N] or [1]. normal, light: unit vectors, world.
    lit: 0 in shadow to 1 in full light.
    """
    base = _mixed(*COLOUR_RGB[item.colour], share)
    facing = np.maximum(normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2], 0.0)
    bright = AMBIENT + SKYLIGHT * normal[1] + DIFFUSE * facing * lit
    return np.stack([part * bright for part in base], axis=-1)


def gloss_normal(kind: str, p: Vec, n: Vec) -> Vec:
    """Normals for the highlight, in the object's frame.

    Flat faces are taken as bulging, else most would never show the light, and nobody could tell
    a shiny cube from a matte one.
    """
    bulge = BULGE.get(kind, 0.0)
    bent = (n[0] + bulge * p[0], n[1] + bulge * p[1], n[2] + bulge * p[2])
    return unit(bent)


def gloss(kind: str, normal: Vec, bent: Vec, view: Vec, light: Colour, lit: Floats) -> Floats:
    """White added by a shiny surface [N]: the light's highlight, and the sky at flat angles.

    bent: world normals from `gloss_normal`. The walls of upright things are like rods, whose
    highlight is a line; that of flat faces is wide.
    """
    half = (view[0] + light[0], view[1] + light[1], view[2] + light[2])
    across = np.sqrt(half[0] * half[0] + half[2] * half[2])
    size = length(half)
    spot = np.maximum(dot(bent, half) / np.maximum(size, 1e-6), 0.0)
    if kind in UPRIGHT:
        line = (normal[0] * half[0] + normal[2] * half[2]) / np.maximum(across, 1e-6)
        spot = np.maximum(spot, np.maximum(line, 0.0))
    for _ in range(4 if kind in ("cube", "pyramid") else 5):
        spot = spot * spot
    toward = dot(normal, view)
    up = 2.0 * toward * normal[1] - view[1]
    rim = np.clip(1.0 - toward, 0.0, 1.0)
    sky = np.clip((up - 0.35) * 6.0, 0.0, 1.0)
    return 0.9 * spot * (0.25 + 0.75 * lit) + sky * (0.06 + 0.25 * rim * rim * rim)


def _noise(table: Floats, x: Floats, z: Floats) -> Floats:
    """Smooth noise 0..1: a table of random values that repeats, blended between its entries."""
    size = table.shape[0]
    column, row = np.floor(x), np.floor(z)
    fx, fz = x - column, z - row
    fx, fz = fx * fx * (3.0 - 2.0 * fx), fz * fz * (3.0 - 2.0 * fz)
    i, k = column.astype(np.int32) % size, row.astype(np.int32) % size
    i1, k1 = (i + 1) % size, (k + 1) % size
    flat = table.ravel()
    near = flat[k * size + i] * (1 - fx) + flat[k * size + i1] * fx
    far = flat[k1 * size + i] * (1 - fx) + flat[k1 * size + i1] * fx
    value: Floats = near * (1 - fz) + far * fz
    return value


def _ground_share(stage: Stage, x: Floats, z: Floats, table: Floats) -> Floats:
    """Share of the ground's second colour, 0..1."""
    scale = stage.ground_scale
    if stage.ground == "tiles":
        return ((np.floor(x / scale) + np.floor(z / scale)) % 2).astype(np.float32)
    if stage.ground == "planks":
        plank = np.floor(x / scale)
        tone = table[0][plank.astype(np.int32) % table.shape[0]]
        gap = (x / scale - plank < 0.06).astype(np.float32)
        grain = 0.6 * _noise(table, x * 6.0, z * 0.7) * tone + 0.3 * tone
        boards: Floats = np.maximum(grain, gap)
        return boards
    if stage.ground == "speckles":
        return np.clip((_noise(table, x * 7.0, z * 7.0) - 0.62) * 5.0, 0.0, 1.0)
    if stage.ground == "patches":
        return np.clip((_noise(table, x / scale, z / scale) - 0.5) * 6.0 + 0.5, 0.0, 1.0)
    return 0.65 * _noise(table, x * 1.1, z * 1.1) + 0.35 * _noise(table, x * 4.3, z * 4.3)


def ground_colour(stage: Stage, x: Floats, z: Floats, depth: Floats, lit: Floats) -> Floats:
    """RGB [N, 3], about 0..1, of ground points; far ground fades into the sky's colour."""
    table = np.random.default_rng(stage.seed).random((64, 64), dtype=np.float32)
    cosine, sine = math.cos(stage.ground_turn), math.sin(stage.ground_turn)
    turned_x, turned_z = x * cosine + z * sine, z * cosine - x * sine
    share = _ground_share(stage, turned_x, turned_z, table)
    calm = np.clip(1.6 - depth / 14.0, 0.15, 1.0)
    share = 0.5 + (share - 0.5) * calm
    grain = 0.94 + 0.12 * _noise(table, turned_x * 9.0 + 0.5, turned_z * 9.0) * calm
    bright = (AMBIENT + SKYLIGHT + DIFFUSE * stage.light[1] * lit) * grain
    fog = np.clip((depth - 12.0) / 18.0, 0.0, 1.0)
    base = _mixed(stage.ground_colour, stage.second_colour, share)
    parts = [
        part * bright * (1.0 - fog) + fog * np.float32(sky / 255.0)
        for part, sky in zip(base, stage.sky_colour, strict=True)
    ]
    return np.stack(parts, axis=-1)
