"""Random walk between pixels: a response spreads as far as the edges of the image let it.

Source: IRNet (CVPR 2019), its inter-pixel relations and random walk, as TRIS (ICCV 2023) refines
its maps. Frame: the cells [h, w] of an edge map, one in four pixels each way in the papers; cells
are numbered row by row, N = h * w. IRNet squares a dense [N, N] matrix eight times; here a step
touches the neighbours within the radius alone, which gives the same numbers.

Matrices are `scipy.sparse.dia_array`, a diagonal for each offset and each opposite: a stencil, in
which nothing is looked up. It is faster than compressed rows for one map, and for several of
float32; those win for about five maps of float64 and more (`benchmarks/tris/walking.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from refseg.errors import ConfigError, DataError

Cells = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


def offsets(radius: int) -> Cells:
    """Where the neighbours of a cell lie: [K, 2] int64, dy before dx, in reading order.

    Half of the plane, so that each pair of cells is met once: dy > 0, or dy = 0 and dx > 0. IRNet
    counts what is nearer than the radius, dy^2 + dx^2 < radius^2, the circle itself left out: 34
    offsets for radius 5, 152 for 10, none for 1. Raises ConfigError for a radius below 1.
    """
    if radius < 1:
        raise ConfigError(f"a radius of {radius} cells", remedy="1 or more; the paper walks with 5")
    dy, dx = np.mgrid[:radius, 1 - radius : radius].reshape(2, -1)
    near = (dy**2 + dx**2 < radius**2) & ((dy > 0) | (dx > 0))
    return np.stack([dy[near], dx[near]], axis=1)


def line(dy: int, dx: int) -> Cells:
    """The cells [P, 2] int64 (dy, dx) from (0, 0) to an offset that is not (0, 0), both included.

    IRNet's rule: all cells of the rectangle between the ends whose centres are nearer than one
    cell to the straight line. Such a line is two or three cells thick where it is slanted, and it
    hangs together by sides of cells. Hence it meets every unbroken wall between its ends, even one
    whose cells touch at corners only; a line of rounded points would slip through that.
    """
    y, x = np.mgrid[min(dy, 0) : max(dy, 0) + 1, min(dx, 0) : max(dx, 0) + 1].reshape(2, -1)
    near = (dy * x - dx * y) ** 2 < dy**2 + dx**2
    return np.stack([y[near], x[near]], axis=1)


def affinity(edge: Floats, radius: int = 5) -> Any:
    """How freely one moves between two cells: symmetric `dia_array` [N, N] of the edge's dtype.

    a_ij = 1 - max edge over the `line` from i to j for cells nearer than the radius (`offsets`),
    1 for a cell and itself, whatever its edge, and 0 elsewhere: what would lie outside of the
    image is no neighbour. edge: [h, w] probabilities, float32 or float64. An unbroken wall of
    edge 1, one cell thick, straight or slanted, leaves no way across if it is closed or ends at
    the image's border; its own cells have no neighbour.
    Raises DataError for another shape or type and for what is no probability, ConfigError for a
    radius below 1.
    """
    _check_edge(edge)
    height, width = edge.shape
    found = [(dy, dx) for dy, dx in offsets(radius).tolist() if dy < height and abs(dx) < width]
    # In a narrow image two offsets may be of one diagonal; no cell has both.
    above = {dy * width + dx for dy, dx in found}
    diagonals = sorted({0, *above, *(-d for d in above)})
    row = {d: n for n, d in enumerate(diagonals)}
    # A diagonal holds what belongs to column j in its place j.
    data = np.zeros((len(diagonals), height, width), edge.dtype)
    data[row[0]] = 1
    for dy, dx in found:
        free = 1 - _highest(edge, dy, dx)
        d = dy * width + dx
        data[row[d]][_part(edge, dy, dx)] = free
        data[row[-d]][_part(edge, -dy, -dx)] = free
    return sparse.dia_array((data.reshape(len(diagonals), -1), diagonals), shape=(edge.size,) * 2)


def _part(edge: Floats, dy: int, dx: int) -> tuple[slice, slice]:
    """The cells that are reached by an offset from some cell of the image."""
    height, width = edge.shape
    rows = slice(max(dy, 0), height + min(dy, 0))
    return rows, slice(max(dx, 0), width + min(dx, 0))


def _highest(edge: Floats, dy: int, dx: int) -> Floats:
    """The highest edge on the line from each cell that has a neighbour there, to it."""
    starts = _part(edge, -dy, -dx)
    highest = edge[starts].copy()
    for y, x in line(dy, dx).tolist():
        rows, columns = (
            slice(s.start + n, s.stop + n) for s, n in zip(starts, (y, x), strict=True)
        )
        np.maximum(highest, edge[rows, columns], out=highest)
    return highest


def transition(affinity: Any, beta: float = 10) -> Any:
    """The chances T of a step: T_ij = a_ij^beta / sum_k a_kj^beta, `dia_array` [N, N].

    Columns sum to 1, as in IRNet, so that x T gives each cell a mean of its neighbours. affinity:
    as `affinity` gives it; a cell is its own neighbour, so no sum is 0. beta: how much an edge
    counts. Raises ConfigError if it is not above 0.
    """
    if not beta > 0:
        raise ConfigError(f"beta of {beta}", remedy="it must be above 0; the paper's is 10")
    scaled = affinity.data**beta
    # Sums of float32 would be off by some of its roundings, each step anew.
    scaled /= scaled.sum(axis=0, dtype=np.float64)
    return sparse.dia_array((scaled, affinity.offsets), shape=affinity.shape)


def walk(
    maps: Floats, edge: Floats, *, radius: int = 5, beta: float = 10, steps: int = 256
) -> Floats:
    """Maps [..., h, w] after a random walk: x T^steps with x = (1 - edge) * maps, a row each.

    The same as IRNet's, whose steps are 2^8, for any whole number of them; 0 gives x. maps: 0 or
    more, float32 or float64, any number of them for one edge map [h, w] (see `affinity`), which
    shares its matrix among them. The dtype stays, or is float64 if either is; 256 steps of float32
    are off by some 2e-4 of a value. Every value lies between the lowest and the highest of x but
    for rounding. What lies at an edge of exactly 1 gives nothing and gets nothing; nothing crosses
    an unbroken wall of those.
    Raises DataError for shapes that do not fit, types, and values that are negative or not finite,
    ConfigError for a radius below 1, a beta of 0 or less, or a negative number of steps.
    """
    _check_edge(edge)
    _check_maps(maps, edge.shape)
    if steps < 0:
        raise ConfigError(f"{steps} steps of a walk", remedy="0 or more; the paper takes 256")
    edge = edge.astype(np.result_type(edge, maps), copy=False)
    weighted = maps * (1 - edge)
    # A row times T is the transposed T times a column.
    chances = transition(affinity(edge, radius), beta).T
    rows = weighted.reshape(-1, edge.size)
    for n, row in enumerate(rows):
        # One by one: scipy's product of diagonals with several columns is many times slower.
        for _ in range(steps):
            row = chances @ row
        rows[n] = row
    return rows.reshape(maps.shape)


def _check_edge(edge: Floats) -> None:
    if edge.ndim != 2 or edge.size == 0 or edge.dtype not in (np.float32, np.float64):
        raise DataError(
            f"edges of shape {edge.shape}, {edge.dtype}", remedy="[h, w] of float32 or float64"
        )
    if not (edge.min() >= 0 and edge.max() <= 1):  # so that NaN is met, too
        raise DataError(
            f"edges from {edge.min()} to {edge.max()} are no probabilities",
            remedy="take the sigmoid of logits",
        )


def _check_maps(maps: Floats, hw: tuple[int, ...]) -> None:
    if maps.shape[-2:] != hw or maps.dtype not in (np.float32, np.float64):
        raise DataError(
            f"maps of shape {maps.shape}, {maps.dtype}, for edges of {hw}",
            remedy="[..., h, w] of float32 or float64 with the edges' h and w",
        )
    if maps.size and not (maps.min() >= 0 and np.isfinite(maps.max())):
        raise DataError(
            f"maps from {maps.min()} to {maps.max()}", remedy="finite values of 0 or more"
        )
