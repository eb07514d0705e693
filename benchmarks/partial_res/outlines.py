"""Outlines of masks and masks of outlines, each beside a twin in NumPy and plain Python.

The twins are a Moore border tracing, which also tells the sides that it turns past, and an even-odd
scanline fill. Before anything is timed, outlines must be equal, vertex for vertex, and so must
masks filled from whole outlines; of polygons with few points, whose slanted sides COCO's rasteriser
rounds its own way, masks must agree by an IoU of 0.97 each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.mutual.measuring import Table, compared
from refseg.ops.contours import Points, fill_polygon, outer_contour, sample_uniform
from refseg.ops.masks import Mask

COUNT = 12  # points of an object, the paper's setting
MASKS = 8
TWIN, OURS = "NumPy and plain Python", "ours"
# From the upper left corner of a pixel to where its side to the right, top, left, bottom starts.
CORNER = np.array([[1, 1], [1, 0], [0, 0], [0, 1]])


def outlines(runs: int = 7) -> dict[str, Table]:
    """By what is done: the forms with "ms" an object, "per_second", and times "as_fast"."""
    tables = {}
    for side in (128, 640):
        masks = blobs(side)
        whole = [outer_contour(mask) for mask in masks]
        few = [sample_uniform(contour, COUNT) for contour in whole]
        agree(masks, whole, few)
        vertices = f"{np.mean([len(contour) for contour in whole]):.0f} vertices"
        for name, edges in (("edges", True), ("centres", False)):
            tables[f"{side} px: {COUNT} points of a mask, outline along {name} of pixels"] = timed(
                {
                    TWIN: partial(sampled, lambda mask, edges=edges: traced(mask)[edges], masks),
                    OURS: partial(sampled, partial(outer_contour, edges=edges), masks),
                },
                runs,
            )
        for name, polygons in ((f"{COUNT} points", few), (f"whole outlines, {vertices}", whole)):
            tables[f"{side} px: mask of {name}"] = timed(
                {
                    TWIN: partial(all_filled, scanned, polygons, (side, side)),
                    OURS: partial(all_filled, fill_polygon, polygons, (side, side)),
                },
                runs,
            )
    return tables


def timed(tasks: Mapping[str, Callable[[], object]], runs: int) -> Table:
    """`compared`, an object of the MASKS that a task does."""
    table = compared(tasks, runs)
    for row in table.values():
        row["ms"] /= MASKS
        row["per_second"] = 1000 / row["ms"]
    return table


def sampled(outline: Callable[[Mask], Points], masks: list[Mask]) -> list[Points]:
    return [sample_uniform(outline(mask), COUNT) for mask in masks]


def all_filled(
    fill: Callable[[Points, tuple[int, int]], Mask], polygons: list[Points], hw: tuple[int, int]
) -> list[Mask]:
    return [fill(polygon, hw) for polygon in polygons]


def agree(masks: list[Mask], whole: list[Points], few: list[Points]) -> None:
    """Stop the run where a twin differs."""
    for mask, contour, points in zip(masks, whole, few, strict=True):
        centres, edges = traced(mask)
        assert np.array_equal(edges, contour)
        assert np.array_equal(centres, outer_contour(mask, edges=False))
        assert np.array_equal(scanned(contour, mask.shape), fill_polygon(contour, mask.shape))
        ours, twin = fill_polygon(points, mask.shape), scanned(points, mask.shape)
        assert np.count_nonzero(ours & twin) >= 0.97 * np.count_nonzero(ours | twin)


def blobs(side: int) -> list[Mask]:
    """One part each, wavy, of a tenth to a third of the image's side in radius."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    angle, reach = np.arctan2(y, x), np.hypot(x, y)
    masks = []
    for radius in np.linspace(0.1, 0.33, MASKS) * side:
        waves = sum(
            0.3 * rng.uniform(-1, 1) / k**0.5 * np.cos(k * angle + rng.uniform(0, 7))
            for k in range(2, 7)
        )
        masks.append(reach < radius * np.clip(1 + waves, 0.2, 1.5))
    return masks


# -- twins -----------------------------------------------------------------------------------


def traced(mask: Mask) -> tuple[Points, Points]:
    """The outline of the only part through the centres of its pixels, and along their edges."""
    padded = np.pad(mask, 1)
    width = padded.shape[1]
    cells = padded.ravel().tolist()
    steps = (1, 1 - width, -width, -1 - width, -1, width - 1, width, width + 1)
    start = at = int(np.argmax(padded))
    centres, sides, back, first, before = [start], [], 2, -1, 0
    while True:
        for turn in range(1, 9):
            to = (back + turn) % 8
            if cells[at + steps[to]]:
                break
            if to % 2 == 0:
                sides.append((at, to // 2))
        else:  # one pixel
            break
        if at == start and to == first:  # the sides before the first step were passed again
            centres.pop()
            del sides[len(sides) - before :]
            break
        if first < 0:
            first, before = to, len(sides)
        at += steps[to]
        centres.append(at)
        back = (to + 4) % 8
    pixels, which = np.array(sides).T
    return places(np.array(centres), width) + 0.5, places(pixels, width) + CORNER[which]


def places(flat: NDArray[np.int64], width: int) -> Points:
    """x, y of the upper left corners of pixels that are counted with a border of one."""
    return np.stack([flat % width - 1.0, flat // width - 1.0], axis=1)


def scanned(points: Points, hw: tuple[int, int]) -> Mask:
    """Pixels whose centre an odd number of sides lies to the left of."""
    height, width = hw
    (x, y), (u, v) = points.T[..., None], np.roll(points, -1, axis=0).T[..., None]
    rows = np.arange(height) + 0.5
    side, row = np.nonzero((y <= rows) != (v <= rows))
    x, y, u, v = (ends[side, 0] for ends in (x, y, u, v))
    at = x + (rows[row] - y) * (u - x) / (v - y)
    columns = np.clip(np.ceil(at - 0.5), 0, width).astype(np.int64)
    flips = np.bincount(row * (width + 1) + columns, minlength=height * (width + 1))
    odd: Mask = np.cumsum(flips.reshape(height, -1), axis=1)[:, :width] % 2 > 0
    return odd
