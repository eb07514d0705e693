"""How well a map of scores tells the pixels of a mask from the others, whatever the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auc(scores: NDArray[Any], mask: NDArray[np.bool_]) -> float | None:
    """Chance that a pixel inside the mask scores higher than one outside; ties count half.

    scores, mask: of one shape. 0.5 is chance, 1 perfect. None when all pixels are on one side.
    """
    inside = mask.ravel()
    hits = int(inside.sum())
    misses = inside.size - hits
    if hits == 0 or misses == 0:
        return None
    ranks = rankdata(scores.ravel())
    return float((ranks[inside].sum() - hits * (hits + 1) / 2) / (hits * misses))
