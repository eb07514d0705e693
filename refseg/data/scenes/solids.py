"""The kinds of objects as solids: where a ray comes in, which way the surface faces.

Frame: the object's own; origin at its centre, y up, one unit = the object's `radius`. The mug
subtracts its cavity from its body; the ring and the mug's handle are walked to along the distance
to a torus; all else is convex.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refseg.data.scenes.geometry import (
    Floats,
    Vec,
    both,
    entry,
    march,
    planes,
    slab,
    sphere,
    torus_distance,
    tube,
    unit,
)

CUBE_HALF = 0.78
CYLINDER_RADIUS, CYLINDER_HALF = 0.68, 0.9
CONE_RADIUS, CONE_HALF = 0.88, 1.0
PYRAMID_HALF, PYRAMID_HEIGHT = 0.9, 1.6
CAPSULE_RADIUS, CAPSULE_HALF = 0.5, 0.62
RING_MAJOR, RING_MINOR = 0.74, 0.24
MUG_OUTER, MUG_INNER, MUG_HALF, MUG_FLOOR = 0.66, 0.53, 0.74, 0.14
HANDLE_MAJOR, HANDLE_MINOR = 0.4, 0.11


def _ball(o: Vec, d: Vec) -> Floats:
    return entry(sphere(o, d, 1.0))


def _cube(o: Vec, d: Vec) -> Floats:
    sides = [slab(o[axis], d[axis], -CUBE_HALF, CUBE_HALF) for axis in range(3)]
    return entry(both(both(sides[0], sides[1]), sides[2]))


def _cylinder(o: Vec, d: Vec) -> Floats:
    height = slab(o[1], d[1], -CYLINDER_HALF, CYLINDER_HALF)
    return entry(both(tube(o, d, CYLINDER_RADIUS), height))


def _cone(o: Vec, d: Vec) -> Floats:
    """Inside x^2 + z^2 <= k^2 (top - y)^2 below the apex; a steep ray meets each nappe once."""
    k = CONE_RADIUS / (2.0 * CONE_HALF)
    above, fall = CONE_HALF - o[1], -d[1]
    a = d[0] * d[0] + d[2] * d[2] - k * k * fall * fall
    b = o[0] * d[0] + o[2] * d[2] - k * k * above * fall
    c = o[0] * o[0] + o[2] * o[2] - k * k * above * above
    a = np.where(np.abs(a) < 1e-7, 1e-7, a)
    inner = b * b - a * c
    root = np.sqrt(np.maximum(inner, 0.0))
    first, second = (-b - root) / a, (-b + root) / a
    low, high = np.minimum(first, second), np.maximum(first, second)
    steep = a < 0
    missed = ~steep & (inner < 0)
    enter = np.where(steep, np.where(fall > 0, high, -np.inf), np.where(missed, np.inf, low))
    leave = np.where(steep, np.where(fall > 0, np.inf, low), np.where(missed, -np.inf, high))
    return entry(both((enter, leave), slab(o[1], d[1], -CONE_HALF, CONE_HALF)))


def _pyramid_planes() -> tuple[tuple[float, float, float, float], ...]:
    half, height = PYRAMID_HALF, PYRAMID_HEIGHT
    norm = math.hypot(height, half)
    out, up = height / norm, half / norm
    top = up * height / 2
    sides = [(out, up, 0.0), (-out, up, 0.0), (0.0, up, out), (0.0, up, -out)]
    return (*((x, y, z, top) for x, y, z in sides), (0.0, -1.0, 0.0, height / 2))


PYRAMID_PLANES = _pyramid_planes()


def _pyramid(o: Vec, d: Vec) -> Floats:
    return entry(planes(o, d, PYRAMID_PLANES))


def _capsule(o: Vec, d: Vec) -> Floats:
    """A cylinder along x; where the ray comes in beyond its ends, the end's ball counts."""
    turned_o, turned_d = (o[1], o[0], o[2]), (d[1], d[0], d[2])
    enter, leave = tube(turned_o, turned_d, CAPSULE_RADIUS)
    x = o[0] + np.where(np.isfinite(enter), enter, 0.0) * d[0]
    end = np.where(x > 0, CAPSULE_HALF, -CAPSULE_HALF).astype(np.float32)
    ball = sphere((o[0] - end, o[1], o[2]), d, CAPSULE_RADIUS)
    middle = np.abs(x) <= CAPSULE_HALF
    enter = np.where(middle | ~np.isfinite(enter), enter, ball[0])
    return entry((enter, np.where(middle, leave, ball[1])))


def _ring(o: Vec, d: Vec) -> Floats:
    reach = RING_MAJOR + RING_MINOR
    bound = both(sphere(o, d, reach), slab(o[2], d[2], -RING_MINOR, RING_MINOR))
    return march(o, d, bound, lambda p: torus_distance(p, 0.0, RING_MAJOR, RING_MINOR))


def _handle_distance(p: Vec) -> Floats:
    """The torus outside the middle of the mug's wall."""
    wall = (MUG_OUTER + MUG_INNER) / 2
    inside = wall - np.sqrt(p[0] * p[0] + p[2] * p[2])
    handle = torus_distance(p, MUG_OUTER, HANDLE_MAJOR, HANDLE_MINOR)
    distance: Floats = np.maximum(handle, inside)
    return distance


def _mug(o: Vec, d: Vec) -> Floats:
    """Body without cavity: come in through the wall, or fall in and meet the wall from inside."""
    body = both(tube(o, d, MUG_OUTER), slab(o[1], d[1], -MUG_HALF, MUG_HALF))
    cavity = both(tube(o, d, MUG_INNER), slab(o[1], d[1], MUG_FLOOR - MUG_HALF, 2 * MUG_HALF))
    empty = cavity[0] > cavity[1]
    enter, leave = body
    outside = empty | (enter < cavity[0]) | (enter > cavity[1])
    first = np.where((enter <= leave) & (enter > 0) & outside, enter, np.inf)
    again = np.maximum(cavity[1], enter)
    inner = np.where(~empty & (again < leave) & (again > 0), again, np.inf)
    centre = (o[0] - MUG_OUTER, o[1], o[2])
    near = sphere(centre, d, HANDLE_MAJOR + HANDLE_MINOR)
    near = both(near, slab(o[2], d[2], -HANDLE_MINOR, HANDLE_MINOR))
    handle = march(o, d, near, _handle_distance)
    return np.minimum(np.minimum(first, inner), handle)


def _ball_normal(p: Vec) -> Vec:
    return unit(p)


def _cube_normal(p: Vec) -> Vec:
    wide = [np.abs(part) for part in p]
    most = np.maximum(np.maximum(wide[0], wide[1]), wide[2])
    x = wide[0] >= most
    y = ~x & (wide[1] >= most)
    z = ~x & ~y
    return (np.sign(p[0]) * x, np.sign(p[1]) * y, np.sign(p[2]) * z)


def _cylinder_normal(p: Vec) -> Vec:
    rho = np.sqrt(p[0] * p[0] + p[2] * p[2])
    cap = CYLINDER_HALF - np.abs(p[1]) < CYLINDER_RADIUS - rho
    side = np.where(cap, 0.0, 1.0 / np.maximum(rho, 1e-9))
    return p[0] * side, np.sign(p[1]) * cap, p[2] * side


def _cone_normal(p: Vec) -> Vec:
    slant = math.hypot(2 * CONE_HALF, CONE_RADIUS)
    out, up = 2 * CONE_HALF / slant, CONE_RADIUS / slant
    rho = np.maximum(np.sqrt(p[0] * p[0] + p[2] * p[2]), 1e-9)
    base = p[1] < -CONE_HALF + 1e-4
    side = np.where(base, 0.0, out / rho)
    return p[0] * side, np.where(base, -1.0, up).astype(np.float32), p[2] * side


def _pyramid_normal(p: Vec) -> Vec:
    best = np.full(p[0].shape, -np.inf, np.float32)
    normal = [np.zeros_like(best) for _ in range(3)]
    for nx, ny, nz, c in PYRAMID_PLANES:
        value = nx * p[0] + ny * p[1] + nz * p[2] - c
        better = value > best
        best = np.where(better, value, best)
        normal = [
            np.where(better, part, old) for part, old in zip((nx, ny, nz), normal, strict=True)
        ]
    return normal[0], normal[1], normal[2]


def _capsule_normal(p: Vec) -> Vec:
    return unit((p[0] - np.clip(p[0], -CAPSULE_HALF, CAPSULE_HALF), p[1], p[2]))


def _torus_normal(p: Vec, centre_x: float, major: float) -> Vec:
    x = p[0] - centre_x
    rho = np.maximum(np.sqrt(x * x + p[1] * p[1]), 1e-9)
    scale = 1.0 - major / rho
    return unit((x * scale, p[1] * scale, p[2]))


def _ring_normal(p: Vec) -> Vec:
    return _torus_normal(p, 0.0, RING_MAJOR)


def _mug_normal(p: Vec) -> Vec:
    """The surface that lies nearest to the point decides."""
    rho = np.maximum(np.sqrt(p[0] * p[0] + p[2] * p[2]), 1e-9)
    radial = (p[0] / rho, np.zeros_like(rho), p[2] / rho)
    inward = (-radial[0], radial[1], -radial[2])
    still = np.zeros_like(rho)
    up, down = (still, still + 1, still), (still, still - 1, still)
    floor = np.where(rho < MUG_INNER, np.abs(p[1] - (MUG_FLOOR - MUG_HALF)), 9.0)
    surfaces = [
        (np.abs(rho - MUG_OUTER), radial),
        (np.where(p[1] > MUG_FLOOR - MUG_HALF - 1e-3, np.abs(rho - MUG_INNER), 9.0), inward),
        (np.abs(p[1] - MUG_HALF), up),
        (np.abs(p[1] + MUG_HALF), down),
        (floor, up),
        (np.abs(_handle_distance(p)), _torus_normal(p, MUG_OUTER, HANDLE_MAJOR)),
    ]
    best, normal = surfaces[0]
    for gap, candidate in surfaces[1:]:
        better = gap < best
        best = np.where(better, gap, best)
        normal = (
            np.where(better, candidate[0], normal[0]),
            np.where(better, candidate[1], normal[1]),
            np.where(better, candidate[2], normal[2]),
        )
    return normal


@dataclass(frozen=True)
class Solid:
    """A kind's shape, in units of its radius.

    half: the box that holds it, half extents x, y, z; half[1] is the centre's height above the
    ground it stands on. footprint: radius of the circle it covers on the ground. concave: it can
    throw a shadow on itself. entry(o, d): first t > 0 at which rays come in, inf if never.
    normal(p): outward unit normal at surface points.
    """

    half: tuple[float, float, float]
    footprint: float
    concave: bool
    entry: Callable[[Vec, Vec], Floats]
    normal: Callable[[Vec], Vec]

    @property
    def bound(self) -> float:
        """Radius of a ball around the centre that holds the solid."""
        return math.hypot(*self.half)


_MUG_REACH = MUG_OUTER + HANDLE_MAJOR + HANDLE_MINOR
_RING_REACH = RING_MAJOR + RING_MINOR
_CAPSULE_REACH = CAPSULE_HALF + CAPSULE_RADIUS

SOLIDS = {
    "ball": Solid((1.0, 1.0, 1.0), 0.9, False, _ball, _ball_normal),
    "cube": Solid((CUBE_HALF, CUBE_HALF, CUBE_HALF), 1.05, False, _cube, _cube_normal),
    "cylinder": Solid(
        (CYLINDER_RADIUS, CYLINDER_HALF, CYLINDER_RADIUS), 0.7, False, _cylinder, _cylinder_normal
    ),
    "cone": Solid((CONE_RADIUS, CONE_HALF, CONE_RADIUS), 0.85, False, _cone, _cone_normal),
    "ring": Solid((_RING_REACH, _RING_REACH, RING_MINOR), 0.8, True, _ring, _ring_normal),
    "mug": Solid((_MUG_REACH, MUG_HALF, MUG_OUTER), 0.95, True, _mug, _mug_normal),
    "pyramid": Solid(
        (PYRAMID_HALF, PYRAMID_HEIGHT / 2, PYRAMID_HALF), 1.1, False, _pyramid, _pyramid_normal
    ),
    "capsule": Solid(
        (_CAPSULE_REACH, CAPSULE_RADIUS, CAPSULE_RADIUS), 1.0, False, _capsule, _capsule_normal
    ),
}
