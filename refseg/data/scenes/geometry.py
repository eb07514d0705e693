"""Rays and the simple bodies they meet: slabs, balls, tubes, half spaces, tori.

A `Vec` is x, y and z as three float32 arrays that broadcast against each other ([1] for what is
common to all rays). A convex body is an interval (in, out) of the ray's parameter; (inf, -inf)
is empty. Only + - * / sqrt and comparisons touch arrays: these are exact by IEEE 754, so a scene
has the same bytes on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 throughout; NumPy's type stubs call float32 * float a float64, so the type does not say.
Floats = NDArray[Any]
Vec = tuple[Floats, Floats, Floats]
Interval = tuple[Floats, Floats]

MARCH_STEPS = 28
MARCH_NEAR = 2e-3


def dot(a: Vec, b: Vec) -> Floats:
    """Scalar product, broadcast."""
    product: Floats = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


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


def between_roots(a: Floats, b: Floats, c: Floats) -> Interval:
    """Where a t^2 + 2 b t + c <= 0 for a > 0; an empty interval is (inf, -inf)."""
    a = np.maximum(a, 1e-9)
    inner = b * b - a * c
    root = np.sqrt(np.maximum(inner, 0.0))
    hit = inner >= 0
    return np.where(hit, (-b - root) / a, np.inf), np.where(hit, (-b + root) / a, -np.inf)


def both(first: Interval, second: Interval) -> Interval:
    """Common part of two bodies."""
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def entry(interval: Interval) -> Floats:
    """Where the ray comes in, in front of its origin; inf if it does not."""
    return np.where((interval[0] <= interval[1]) & (interval[0] > 0), interval[0], np.inf)


def slab(o: Floats, d: Floats, low: float, high: float) -> Interval:
    """Between two planes across one axis; o and d are that axis's components."""
    safe = np.where(np.abs(d) < 1e-9, 1e-9, d)
    first, second = (low - o) / safe, (high - o) / safe
    return np.minimum(first, second), np.maximum(first, second)


def sphere(o: Vec, d: Vec, radius: float) -> Interval:
    """Ball around the origin."""
    return between_roots(dot(d, d), dot(o, d), dot(o, o) - radius * radius)


def tube(o: Vec, d: Vec, radius: float) -> Interval:
    """Endless cylinder around the y axis."""
    return between_roots(
        d[0] * d[0] + d[2] * d[2],
        o[0] * d[0] + o[2] * d[2],
        o[0] * o[0] + o[2] * o[2] - radius * radius,
    )


def planes(o: Vec, d: Vec, planes: tuple[tuple[float, float, float, float], ...]) -> Interval:
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


def torus_distance(p: Vec, centre_x: float, major: float, minor: float) -> Floats:
    """Distance to a torus around the z axis through (centre_x, 0, 0)."""
    x = p[0] - centre_x
    across = np.sqrt(x * x + p[1] * p[1]) - major
    distance: Floats = np.sqrt(across * across + p[2] * p[2]) - minor
    return distance


def march(o: Vec, d: Vec, bound: Interval, distance: Callable[[Vec], Floats]) -> Floats:
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


def unit(v: Vec) -> Vec:
    """The same directions with length 1."""
    size = np.maximum(length(v), 1e-9)
    return v[0] / size, v[1] / size, v[2] / size
