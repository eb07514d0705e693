"""How well scores put what is right before what is not, whatever the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError


def average_precision(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> float | None:
    """Mean, over the rows that are right, of the share that is right among those scored as high.

    scores, right: [N]. Rows of one score come together: none is before the others. 1 where all
    right rows come first; the share of right rows where scores say nothing. None without a right
    row. Raises DataError for scores that are no numbers or of another length.
    """
    if scores.shape != right.shape or not np.isfinite(scores).all():
        raise DataError(
            f"scores {scores.shape} for {right.shape} rows cannot be ranked",
            remedy="give each row one finite score",
        )
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(right[order])
    last = np.searchsorted(-ordered, -ordered, side="right")  # rows scored as high, per row
    shares = hits[last - 1] / last
    return float(shares[right[order]].mean())
