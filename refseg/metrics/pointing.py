"""Pointing: does the highest point of a response lie on the object?

PointIt asks whether it lies in the object's box, PointM whether it lies on its mask. Both as in
TRIS's evaluation: the point is the first maximum in row-major order of the map at the image's
own size; boxes are cut to whole numbers and include their far edges; a map without any response
points at pixel (0, 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError

Point = tuple[int, int]


def peak(response: NDArray[np.float32]) -> Point:
    """(row, column) of the first maximum, rows first, of a map [H, W].

    Raises DataError if the map has a value that is not a number.
    """
    if np.isnan(response).any():
        raise DataError("a response holds values that are not numbers", remedy="did it diverge?")
    row, column = np.unravel_index(int(np.argmax(response)), response.shape)
    return int(row), int(column)


def whole_box(box_xyxy: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """A px box as TRIS cuts it: x, y, width and height truncated, far edge = near + size.

    Float32 corners carry a rounding error of the size; COCO gives two decimals, so the size is
    rounded to three before it is truncated.
    """
    x0, y0, x1, y1 = (float(n) for n in box_xyxy)
    left, top = int(round(x0, 3)), int(round(y0, 3))
    return left, top, left + int(round(x1 - x0, 3)), top + int(round(y1 - y0, 3))


def points_in_box(point: Point, box_xyxy: NDArray[np.float32]) -> bool:
    """PointIt for one expression: the point is in the truncated box, far edges included."""
    row, column = point
    left, top, right, bottom = whole_box(box_xyxy)
    return left <= column <= right and top <= row <= bottom


def points_on_mask(point: Point, mask: NDArray[np.bool_]) -> bool:
    """PointM for one expression: the point is a pixel of the mask [H, W]."""
    return bool(mask[point])
