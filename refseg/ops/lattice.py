"""The permutohedral lattice: a Gaussian filter among points of several dimensions, in linear time.

Source: Adams, Baek and Davis (Eurographics 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import helmert

Values = NDArray[np.float32]


def lattice_filter(points: NDArray[np.floating[Any]]) -> Callable[[Values], Values]:
    """values [N] float32 -> about sum_j exp(-|x_i - x_j|^2 / 2) values_j, but for one factor.

    points: [N, D], in sigmas. Space is cut into simplices whose corners form the permutohedral
    lattice. A point gives its value to the D + 1 corners around it, by its barycentric weights;
    every corner takes half of both neighbours' along each of D + 1 directions in turn; the point
    takes back from the same corners. Only corners around points exist. In the lattice's own
    coordinates corners are the whole numbers, and a simplex is what sorting the fractions finds.
    Takes some 600 bytes a point for D = 5 while it is made.
    """
    count, dims = points.shape
    basis = helmert(dims + 1)
    cells = math.sqrt(2 / 3) * points @ (basis[:, dims:] - basis[:, :dims])
    base = np.floor(cells)
    fractions = cells - base
    order = np.argsort(-fractions, axis=1, kind="stable")
    falling = np.take_along_axis(fractions, order, axis=1)
    weights = -np.diff(falling, axis=1, prepend=1, append=0).astype(np.float32)
    # A corner's coordinates as one number, each with one more place than corners take up: there
    # fall the neighbours beyond both ends, so that none is mistaken for a corner.
    corners = (base - base.min(axis=0)).astype(np.int64)
    places = np.cumprod(np.append(1, corners.max(axis=0)[:-1] + 3))
    # From a simplex' first corner to its last, a step along each axis, the largest fraction first.
    walk = np.concatenate([(corners @ places)[:, None], places[order]], axis=1).cumsum(axis=1)
    known, index = np.unique(walk, return_inverse=True)
    size = len(known)
    shape = (count, size)
    ends = np.arange(0, count * (dims + 1) + 1, dims + 1)
    take = sparse.csr_array((weights.ravel(), index.ravel(), ends), shape=shape)
    neighbours = []
    for step in (*places, places.sum()):
        at = np.searchsorted(known, [known - step, known + step]).clip(max=size - 1)
        neighbours.append(np.where(known[at] == [known - step, known + step], at, size))

    def apply(values: Values) -> Values:
        held = np.zeros(size + 1, np.float32)  # the last one stands for those that do not exist
        held[:size] = take.T @ values
        for before, after in neighbours:
            held[:size] += (held[before] + held[after]) / 2
        return np.asarray(take @ held[:size])

    return apply
