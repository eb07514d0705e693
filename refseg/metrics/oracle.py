"""The oracle bound: how good a method could be that chose its best candidate every time.

A method that first proposes masks and then chooses one by the words can be no better than its
best proposal. The bound says which of the two halves to blame.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from refseg.metrics.iou import Mask, pairwise_iou
from refseg.ops.masks import response_to_mask
from refseg.types import Geometry, Prediction

_BYTES = 1 << 26  # px masks of candidates held at a time


class OracleBound:
    """The best IoU of each target over the candidates, at the image's own size.

    Candidates are thresholded at 0.5 after resizing, as responses are. Add the expressions about
    one image one after the other: candidates that are one array are resized once for all of them.
    """

    def __init__(self) -> None:
        self._candidates: NDArray[np.float32] | None = None
        self._geometry: Geometry | None = None
        self._targets: list[Mask] = []
        self._best: list[float] = []

    def add(self, prediction: Prediction, target: Mask | None) -> None:
        """Count one expression with its px target [H, W].

        One without a target, or from a method without candidates, is left out.
        Raises DataError where the target has another size than the image.
        """
        if prediction.candidates is None or target is None:
            return
        shared = prediction.candidates is self._candidates
        if not shared or prediction.geometry != self._geometry:
            self._close()
            self._candidates, self._geometry = prediction.candidates, prediction.geometry
        self._targets.append(target)

    def result(self) -> dict[str, float]:
        """oracle: mean best IoU; oracle Pr@0.5: share above 0.5. Empty if nothing was counted."""
        self._close()
        if not self._best:
            return {}
        covered = sum(iou > 0.5 for iou in self._best)
        count = len(self._best)
        return {"oracle": math.fsum(self._best) / count, "oracle Pr@0.5": covered / count}

    def _close(self) -> None:
        """Score the targets of the image that has been added last."""
        if self._candidates is not None and self._geometry is not None and self._targets:
            targets = np.stack(self._targets)
            self._best += best_iou(self._candidates, self._geometry, targets).tolist()
        self._candidates, self._geometry, self._targets = None, None, []


def best_iou(
    candidates: NDArray[np.float32], geometry: Geometry, targets: Mask
) -> NDArray[np.float64]:
    """The best IoU [M] of any of the candidates [N, h, w] (net) with each px target [M, H, W].

    0 where there is no candidate. Raises DataError for targets of another size than the image.
    """
    best = np.zeros(len(targets))
    step = max(1, _BYTES // math.prod(geometry.original_hw))
    for start in range(0, len(candidates), step):
        some = candidates[start : start + step]
        masks = np.stack([response_to_mask(one, geometry) for one in some])
        best = np.maximum(best, pairwise_iou(masks, targets).max(axis=0))
    return best
