"""Ray meets solid, in each solid's own frame: where it is hit, which way the surface faces.

Local frame: origin at the object's centre, y up, one unit = the object's `radius`. A `Vec` is x, y
and z as three float32 arrays that broadcast against each other ([1] for what is common to all
rays). Only + - * / sqrt and comparisons touch arrays: these are exact by IEEE 754, so a scene has
the same bytes on every processor.

Convex solids are intervals of the ray's parameter (in, out), intersected; the mug subtracts its
cavity from its body; the ring and the mug's handle walk along the distance to a torus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Vec = tuple[Floats, Floats, Floats]
Interval = tuple[Floats, Floats]

MARCH_STEPS = 28
MARCH_NEAR = 2e-3

CUBE_HALF = 0.78
CYLINDER_RADIUS, CYLINDER_HALF = 0.68, 0.9
CONE_RADIUS, CONE_HALF = 0.88, 1.0
PYRAMID_HALF, PYRAMID_HEIGHT = 0.9, 1.6
CAPSULE_RADIUS, CAPSULE_HALF = 0.5, 0.62
RING_MAJOR, RING_MINOR = 0.74, 0.24
MUG_OUTER, MUG_INNER, MUG_HALF, MUG_FLOOR = 0.66, 0.53, 0.74, 0.14
HANDLE_MAJOR, HANDLE_MINOR = 0.4, 0.11


def dot(a: Vec, b: Vec) -> Floats:
    """Scalar product, broadcast."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(origin: Vec, direction: Vec, t: Floats) -> Vec:
    """Points `origin + t * direction`."""
    return (
        origin[0] + t * direction[0],
        origin[1] + t * direction[1],
        origin[2] + t * direction[2],
    )


def length(a: Vec) -> Floats:
    """Euclidean length, broadcast."""
    return np.sqrt(dot(a, a))


def turn(x: Floats, z: Floats) -> Floats:
    """Angle of (x, z) in turns, 0..1, from a polynomial (Abramowitz and Stegun 4.4.49)."""
    wide, high = np.abs(x), np.abs(z)
    small, large = np.minimum(wide, high), np.maximum(wide, high)
    a = small / np.maximum(large, 1e-12)
    s = a * a
    poly = 0.9998660 + s * (-0.3302995 + s * (0.1801410 + s * (-0.0851330 + s * 0.0208351)))
    angle = a * poly / (2.0 * math.pi)
    angle = np.where(high > wide, 0.25 - angle, angle)
    angle = np.where(x < 0, 0.5 - angle, angle)
    return np.where(z < 0, 1.0 - angle, angle)


def _between_roots(a: Floats, b: Floats, c: Floats) -> Interval:
    """Where a t^2 + 2 b t + c <= 0 for a > 0; an empty interval is (inf, -inf)."""
    a = np.maximum(a, 1e-9)
    inner = b * b - a * c
    root = np.sqrt(np.maximum(inner, 0.0))
    hit = inner >= 0
    return np.where(hit, (-b - root) / a, np.inf), np.where(hit, (-b + root) / a, -np.inf)


def _both(first: Interval, second: Interval) -> Interval:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def _entry(interval: Interval) -> Floats:
    """Where the ray comes in, in front of its origin; inf if it does not."""
    return np.where((interval[0] <= interval[1]) & (interval[0] > 0), interval[0], np.inf)


def _slab(o: Floats, d: Floats, low: float, high: float) -> Interval:
    safe = np.where(np.abs(d) < 1e-9, 1e-9, d)
    first, second = (low - o) / safe, (high - o) / safe
    return np.minimum(first, second), np.maximum(first, second)


def _sphere(o: Vec, d: Vec, radius: float) -> Interval:
    return _between_roots(dot(d, d), dot(o, d), dot(o, o) - radius * radius)


def _tube(o: Vec, d: Vec, radius: float) -> Interval:
    """Endless cylinder around the y axis."""
    return _between_roots(
        d[0] * d[0] + d[2] * d[2],
        o[0] * d[0] + o[2] * d[2],
        o[0] * o[0] + o[2] * o[2] - radius * radius,
    )


def _planes(o: Vec, d: Vec, planes: tuple[tuple[float, float, float, float], ...]) -> Interval:
    """Common part of half spaces nx x + ny y + nz z <= c."""
    shape = np.broadcast_shapes(o[0].shape, d[0].shape)
    enter = np.full(shape, -np.inf, np.float32)
    leave = np.full(shape, np.inf, np.float32)
    for nx, ny, nz, c in planes:
        slope = nx * d[0] + ny * d[1] + nz * d[2]
        gap = c - (nx * o[0] + ny * o[1] + nz * o[2])
        slope = np.where(np.abs(slope) < 1e-9, 1e-9, slope)
        t = gap / slope
        enter = np.where(slope < 0, np.maximum(enter, t), enter)
        leave = np.where(slope > 0, np.minimum(leave, t), leave)
    return enter, leave


def _torus_distance(p: Vec, centre_x: float, major: float, minor: float) -> Floats:
    """Distance to a torus around the z axis through (centre_x, 0, 0)."""
    x = p[0] - centre_x
    across = np.sqrt(x * x + p[1] * p[1]) - major
    return np.sqrt(across * across + p[2] * p[2]) - minor


def _march(
    o: Vec, d: Vec, bound: Interval, distance: Callable[[Vec], Floats]
) -> Floats:
    """Sphere tracing inside `bound` for the rays that meet it; inf where nothing is met."""
    start, stop = np.broadcast_arrays(np.maximum(bound[0], 1e-4), bound[1])
    found = np.full(start.shape, np.inf, np.float32)
    rays = np.flatnonzero(start < stop)
    if not rays.size:
        return found
    full = [np.broadcast_to(part, start.shape).ravel()[rays] for part in (*o, *d)]
    origin, direction = (full[0], full[1], full[2]), (full[3], full[4], full[5])
    speed = length(direction)
    t, stop = start.ravel()[rays], stop.ravel()[rays]
    gap = t
    for _ in range(MARCH_STEPS):
        gap = distance(along(origin, direction, t))
        t = t + gap / speed
    hit = (gap < MARCH_NEAR) & (t < stop)
    found.ravel()[rays[hit]] = t[hit]
    return found


def _ball(o: Vec, d: Vec) -> Floats:
    return _entry(_sphere(o, d, 1.0))


def _cube(o: Vec, d: Vec) -> Floats:
    sides = [_slab(o[axis], d[axis], -CUBE_HALF, CUBE_HALF) for axis in range(3)]
    return _entry(_both(_both(sides[0], sides[1]), sides[2]))


def _cylinder(o: Vec, d: Vec) -> Floats:
    height = _slab(o[1], d[1], -CYLINDER_HALF, CYLINDER_HALF)
    return _entry(_both(_tube(o, d, CYLINDER_RADIUS), height))


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
    return _entry(_both((enter, leave), _slab(o[1], d[1], -CONE_HALF, CONE_HALF)))


def _pyramid_planes() -> tuple[tuple[float, float, float, float], ...]:
    half, height = PYRAMID_HALF, PYRAMID_HEIGHT
    norm = math.hypot(height, half)
    out, up = height / norm, half / norm
    top = up * height / 2
    sides = [(out, up, 0.0), (-out, up, 0.0), (0.0, up, out), (0.0, up, -out)]
    return (*((x, y, z, top) for x, y, z in sides), (0.0, -1.0, 0.0, height / 2))


PYRAMID_PLANES = _pyramid_planes()


def _pyramid(o: Vec, d: Vec) -> Floats:
    return _entry(_planes(o, d, PYRAMID_PLANES))


def _capsule(o: Vec, d: Vec) -> Floats:
    """A cylinder along x; where the ray comes in beyond its ends, the end's ball counts."""
    turned_o, turned_d = (o[1], o[0], o[2]), (d[1], d[0], d[2])
    enter, leave = _tube(turned_o, turned_d, CAPSULE_RADIUS)
    x = o[0] + np.where(np.isfinite(enter), enter, 0.0) * d[0]
    end = np.where(x > 0, CAPSULE_HALF, -CAPSULE_HALF).astype(np.float32)
    ball = _sphere((o[0] - end, o[1], o[2]), d, CAPSULE_RADIUS)
    middle = np.abs(x) <= CAPSULE_HALF
    enter = np.where(middle | ~np.isfinite(enter), enter, ball[0])
    return _entry((enter, np.where(middle, leave, ball[1])))


def _ring(o: Vec, d: Vec) -> Floats:
    reach = RING_MAJOR + RING_MINOR
    bound = _both(_sphere(o, d, reach), _slab(o[2], d[2], -RING_MINOR, RING_MINOR))
    return _march(o, d, bound, lambda p: _torus_distance(p, 0.0, RING_MAJOR, RING_MINOR))


def _handle_distance(p: Vec) -> Floats:
    """The torus outside the middle of the mug's wall."""
    wall = (MUG_OUTER + MUG_INNER) / 2
    inside = wall - np.sqrt(p[0] * p[0] + p[2] * p[2])
    return np.maximum(_torus_distance(p, MUG_OUTER, HANDLE_MAJOR, HANDLE_MINOR), inside)


def _mug(o: Vec, d: Vec) -> Floats:
    """Body without cavity: come in through the wall, or fall in and meet the wall from inside."""
    body = _both(_tube(o, d, MUG_OUTER), _slab(o[1], d[1], -MUG_HALF, MUG_HALF))
    cavity = _both(_tube(o, d, MUG_INNER), _slab(o[1], d[1], MUG_FLOOR - MUG_HALF, 2 * MUG_HALF))
    empty = cavity[0] > cavity[1]
    enter, leave = body
    outside = empty | (enter < cavity[0]) | (enter > cavity[1])
    first = np.where((enter <= leave) & (enter > 0) & outside, enter, np.inf)
    again = np.maximum(cavity[1], enter)
    inner = np.where(~empty & (again < leave) & (again > 0), again, np.inf)
    centre = (o[0] - MUG_OUTER, o[1], o[2])
    near = _sphere(centre, d, HANDLE_MAJOR + HANDLE_MINOR)
    near = _both(near, _slab(o[2], d[2], -HANDLE_MINOR, HANDLE_MINOR))
    handle = _march(o, d, near, _handle_distance)
    return np.minimum(np.minimum(first, inner), handle)


def _unit(v: Vec) -> Vec:
    size = np.maximum(length(v), 1e-9)
    return v[0] / size, v[1] / size, v[2] / size


def _ball_normal(p: Vec) -> Vec:
    return _unit(p)


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
    return _unit((p[0] - np.clip(p[0], -CAPSULE_HALF, CAPSULE_HALF), p[1], p[2]))


def _torus_normal(p: Vec, centre_x: float, major: float) -> Vec:
    x = p[0] - centre_x
    rho = np.maximum(np.sqrt(x * x + p[1] * p[1]), 1e-9)
    scale = 1.0 - major / rho
    return _unit((x * scale, p[1] * scale, p[2]))


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
