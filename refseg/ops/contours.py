"""Contours: the outline of a mask, a few points of it, their bins, and the way back to a mask.

Points are [P, 2] float64, x before y, continuous px of the mask's frame: the origin is the upper
left corner of the upper left pixel, a pixel's centre lies at + 0.5. Contours are closed without
repeating their first vertex. They run down the left side first (counter-clockwise on the screen).
Source: SeqTR (ECCV 2022) and Partial-RES (CVPR 2023) in their released code, where named.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.ops.masks import Mask, polygons_to_mask

Points = NDArray[np.float64]
Rule = Literal["uniform", "stride", "rays"]

# Steps between pixels in the order in which one turns: counter-clockwise on the screen from right.
_STEPS = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
# Where the side of a pixel towards such a step starts, from the pixel's upper left corner.
_CORNERS = {0: (1, 1), 2: (1, 0), 4: (0, 0), 6: (0, 1)}
# Degrees to both sides of a ray in which a point is looked for, near ones first.
_SEARCH = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
# Points nearer than this to one line, px, enclose nothing.
_THIN = 1e-3


def outer_contour(mask: Mask, *, edges: bool = True) -> Points:
    """Outline [M, 2] of the largest part of a mask [H, W] bool; [0, 2] without pixels.

    Pixels that touch at a corner are of one part; holes count as filled; the largest has the
    greatest area inside of the outline that is asked for, of equal ones it is the first from the
    top. The first vertex is the topmost, of those the leftmost.

    edges: along the outer edges of the pixels, one vertex at every corner of a pixel that it
    passes, so that steps are 1 px long and the polygon is the region. False: through the centres
    of the boundary pixels, as the papers' code has it; there they are numbered by whole numbers,
    here 0.5 is added, which puts them in the same frame. Such a polygon is half a pixel too small
    all around, and a line of one pixel's width encloses nothing.
    """
    found: Any = cv2.findContours(
        np.ascontiguousarray(mask, bool).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]
    if not found:
        return np.zeros((0, 2))
    centres = max((part[:, 0] for part in found), key=lambda part: _size(part, edges)).astype(int)
    return _edges(centres).astype(np.float64) if edges else centres + 0.5


def _size(centres: NDArray[Any], edges: bool) -> tuple[float, ...]:
    """What parts are compared by: area, then which comes first in reading order."""
    area, (x, y) = cv2.contourArea(centres), centres[0]
    # Pick's theorem: the pixels on and inside of a walk through their centres.
    pixels = area + len(centres) / 2 + 1 if len(centres) > 1 else 1.0
    return pixels if edges else area, -y, -x


def _edges(centres: NDArray[np.int64]) -> NDArray[np.int64]:
    """From a walk through the centres [M, 2] of boundary pixels to one along their outer edges."""
    flat = centres[:, 0] + 3 * centres[:, 1]
    steps = np.concatenate([flat[1:], flat[:1]]) - flat + 4
    come = np.concatenate([steps[-1:], steps[:-1]])
    corners = (centres[:, None] + _PASSED[0][come, steps])[_PASSED[1][come, steps]]
    # The walk starts at the topmost, leftmost pixel, but with which of its sides depends on the
    # last step. Its upper left corner is no other pixel's.
    first = int(np.argmax((corners[:4] == centres[0]).all(axis=1)))
    return np.concatenate([corners[first:], corners[:first]])


def _passed() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The sides that a walk passes at a pixel: their starts [9, 9, 4, 2], which exist [9, 9, 4].

    By the step to the pixel and the step from it, each as 3 * dy + dx + 4. The walk turns from
    where it came from, past neighbours that are background, to where it goes.
    """
    starts, exist = np.zeros((9, 9, 4, 2), np.int64), np.zeros((9, 9, 4), bool)
    starts[4, 4], exist[4, 4] = [_CORNERS[n] for n in (4, 6, 0, 2)], True  # one pixel: no steps
    codes = [3 * dy + dx + 4 for dx, dy in _STEPS]
    for come, go in product(range(8), repeat=2):
        back = come + 4
        turn = (go - back - 1) % 8 + 1  # straight back is a full turn
        passed = [_CORNERS[n % 8] for n in range(back + 1, back + turn) if n % 2 == 0]
        starts[codes[come], codes[go], : len(passed)] = np.reshape(passed, (-1, 2))
        exist[codes[come], codes[go], : len(passed)] = True
    return starts, exist


_PASSED = _passed()


def sample(contour: Points, count: int, rule: Rule) -> Points:
    """At most `count` points (1 or more) of a closed contour [M, 2], by one of the rules.

    "uniform": `sample_uniform`; "stride": `sample_stride`; "rays": `sample_rays`.
    """
    if rule == "uniform":
        return sample_uniform(contour, count)
    return sample_stride(contour, count) if rule == "stride" else sample_rays(contour, count)


def sample_uniform(contour: Points, count: int) -> Points:
    """Exactly `count` points at equal distances along a closed contour [M, 2]; [0, 2] of none.

    The first is the contour's first vertex, the others may lie between vertices. The
    contour may have fewer vertices than `count`. Not the papers' rule: theirs gives fewer points
    for small objects.
    """
    if len(contour) == 0:
        return np.zeros((0, 2))
    closed = np.concatenate([contour, contour[:1]])
    at = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    wanted = np.arange(count) * (at[-1] / count)
    return np.stack([np.interp(wanted, at, values) for values in closed.T], axis=1)


def sample_stride(contour: Points, count: int) -> Points:
    """Every ceil(M / count)-th vertex of a contour [M, 2] from the first: the papers' rule.

    Gives ceil(M / ceil(M / count)) points, which may be far fewer than `count`: 9 of 12 where
    M = 25. Where M <= count it gives all.
    """
    return contour[:: max(-(-len(contour) // count), 1)].copy()


def sample_rays(contour: Points, count: int) -> Points:
    """Where rays from the centre of mass meet a contour [M, 2] last: the papers' other option.

    A ray every floor(360 / count) degrees (1 at least), the first one up, counter-clockwise on the
    screen, at most `count` of them. Each takes the farthest vertex within half a degree of it,
    or else of the ray 1, -1, 2, ... -5 degrees away, or none; two rays may take the same one.
    Which ray is the first, and that bins are about the ray, is our reading. Where the centre
    lies outside of the contour, or nothing is enclosed, it is `sample_stride`.
    """
    outline = contour.astype(np.float32)
    moments = cv2.moments(outline) if len(outline) else {"m00": 0.0}
    if moments["m00"] == 0:
        return sample_stride(contour, count)
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    if cv2.pointPolygonTest(outline, tuple(centre.tolist()), False) < 0:
        return sample_stride(contour, count)
    x, y = (contour - centre).T
    degrees = np.rint(np.degrees(np.arctan2(-x, -y))).astype(int) % 360
    nearest_first = np.argsort(np.hypot(x, y), kind="stable")
    farthest = np.full(360, -1)
    farthest[degrees[nearest_first]] = nearest_first  # of equal places the last one stays
    rays = np.arange(0, 360, max(360 // count, 1))[:count]
    near = farthest[(rays[:, None] + np.array(_SEARCH)) % 360]
    picked = near[np.arange(len(rays)), np.argmax(near >= 0, axis=1)]
    points: Points = contour[picked[picked >= 0]]
    return points


def quantise(values: Any, size: Any, bins: int) -> NDArray[np.int64]:
    """The bins 0 .. bins - 1 of coordinates, any shape [...] to the same, int64.

    floor(value / size * bins), clipped: the interval 0 .. size is closed, its far end is in the
    last bin, and what lies outside is in the first or the last. size: of the frame, a number or
    [2] (width, height) for points [..., 2]. A value on the left edge of a bin as `dequantise`
    computes it is in that bin in spite of rounding, so that bins survive both ways back.
    Raises ValueError for NaN: any bin for it would be a coordinate that was never there.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise ValueError("NaN is no coordinate: leave out what has no place before quantising")
    near: NDArray[np.int64] = np.clip(np.floor(values / size * bins), 0, bins - 1).astype(np.int64)
    near = np.where(dequantise(near, size, bins, centre=False) > values, near - 1, near)
    near = np.where(dequantise(near + 1, size, bins, centre=False) <= values, near + 1, near)
    return near.clip(0, bins - 1)


def dequantise(tokens: Any, size: Any, bins: int, *, centre: bool = True) -> Points:
    """The coordinates of bins, any shape [...] to the same, float64 in the frame of `size`.

    centre: (token + 0.5) * size / bins, off by size / (2 * bins) at most. False: the left edge
    of the bin, token * size / bins, as the papers' code has it.
    """
    tokens = np.asarray(tokens, np.float64)
    coordinates: Points = (tokens + 0.5 if centre else tokens) * size / bins
    return coordinates


def fill_polygon(points: NDArray[np.floating], hw: tuple[int, int]) -> Mask:
    """The mask [H, W] bool of a closed polygon [P, 2] px, by COCO's rasteriser.

    Points may lie outside of the image. Where the outline crosses itself, COCO's rule decides:
    what is enclosed twice is outside. Fewer than three points, or points on one line, give an
    empty mask. Raises DataError for a coordinate that is not finite or absurdly far outside.
    """
    if len(points) < 3:
        return np.zeros(hw, bool)
    mask = polygons_to_mask([np.asarray(points, np.float64).reshape(-1).tolist()], hw)
    return np.zeros_like(mask) if _on_one_line(np.asarray(points, np.float64)) else mask


def _on_one_line(points: Points) -> bool:
    """COCO's rasteriser may give some pixels of a line, by the rounding of its inner points."""
    x, y = (points - points[0]).T
    length = np.hypot(x, y)
    far = int(np.argmax(length))
    return bool(np.abs(x * y[far] - y * x[far]).max() <= _THIN * length[far])
