"""How well a mask fits a box, by the shadows that both cast on the axes.

Source: Partial-RES (CVPR 2023), selection of pseudo labels; the measure is the projection term of
BoxInst (CVPR 2021). It tests how tight a mask lies in its box, never its shape: an ellipse that
touches all four sides, even a thin cross, fits as well as the filled box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError
from refseg.ops.boxes import Boxes

_EPSILON = 1e-5  # the paper's: two empty shadows agree in nothing


def projection_score(mask: NDArray[np.bool_], box_xyxy: Boxes) -> float:
    """Projection distance of a mask from a box: 0 is perfect, 2 the worst.

    With b the filled box it is D(max_y mask, max_y b) + D(max_x mask, max_x b), where
    D(a, c) = 1 - 2 sum(ac) / (sum a^2 + sum c^2 + 1e-5). An empty mask or box scores 2.
    mask: [H, W] bool, px. box_xyxy: [4] px, its edges cut to whole numbers as in the paper's code
    and clipped to the image. Raises DataError for a box that is not finite.
    """
    if not np.isfinite(box_xyxy).all():
        raise DataError(
            f"box {np.asarray(box_xyxy).tolist()} is not finite",
            remedy="leave out what has no known box",
        )
    height, width = mask.shape
    x0, y0, x1, y1 = np.clip(np.trunc(box_xyxy), 0, [width, height, width, height]).astype(int)
    # What a filled box casts on an axis is a run of ones as long as the box, if it has any area.
    if x1 <= x0 or y1 <= y0:
        x1, y1 = x0, y0
    columns, rows = np.asarray(mask.any(axis=0)), np.asarray(mask.any(axis=1))
    return _apart(columns, x0, x1) + _apart(rows, y0, y1)


def _apart(shadow: NDArray[np.bool_], start: int, end: int) -> float:
    """D of a shadow [N] bool and the run start .. end."""
    shared = np.count_nonzero(shadow[start:end])
    return float(1 - 2 * shared / (np.count_nonzero(shadow) + (end - start) + _EPSILON))
