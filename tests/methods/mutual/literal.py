"""The paper's inference, the slow, plain way: one expression, one pixel at a time.

The plain ways of the other parts stand beside their tests: a file of tests, a part.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from refseg.types import Geometry

Map = NDArray[np.float64]


def interpolated(values: Map, hw: tuple[int, int]) -> Map:
    """Bilinear, pixel areas aligned: the centre of a new pixel in the old grid, its four
    neighbours, and the border's own value beyond the border.
    """
    found = np.zeros(hw)
    for y in range(hw[0]):
        for x in range(hw[1]):
            down = (y + 0.5) * values.shape[0] / hw[0] - 0.5
            across = (x + 0.5) * values.shape[1] / hw[1] - 0.5
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                at = math.floor(down) + row, math.floor(across) + column
                share = (1 - abs(down - at[0])) * (1 - abs(across - at[1]))
                inside = tuple(min(max(i, 0), n - 1) for i, n in zip(at, values.shape, strict=True))
                found[y, x] += share * values[inside]
    return found


def decoded(scores: Map, logits: Map, geometry: Geometry) -> tuple[NDArray[np.bool_], float]:
    """scores [N], mask logits [N, h, w] of one expression -> (mask px, probability of its choice).

    The logits to the padded input, the padding cut, to the original size, and only then > 0.
    """
    best, total = 0, 0.0
    for i, score in enumerate(scores):
        total += math.exp(score)
        if score > scores[best]:
            best = i
    in_net = interpolated(logits[best], geometry.net_hw)
    (height, width), (x, y) = geometry.original_hw, geometry.offset_xy
    right, below = x + width * geometry.scale_xy[0], y + height * geometry.scale_xy[1]
    content = in_net[round(y) : round(below), round(x) : round(right)]
    return interpolated(content, geometry.original_hw) > 0, math.exp(scores[best]) / total
