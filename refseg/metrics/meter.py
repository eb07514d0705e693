"""What the evaluator feeds: one `update` per expression, all metrics of a protocol at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError
from refseg.metrics.boxes import box_hit
from refseg.metrics.compare import Comparison, compare
from refseg.metrics.iou import IoUAccumulator, Mask, Repeats, pairwise_iou
from refseg.metrics.pointing import points_in_box, points_on_mask
from refseg.metrics.protocols import Protocol
from refseg.ops.masks import mask_to_box
from refseg.types import Prediction

HITS = ("REC@0.5", "PointIt", "PointM")


class Meter:
    """Scores predictions under one protocol; meters of several processes merge exactly.

    Box and pointing scores cover expressions with a target; pointing also needs a response.
    The box of a prediction is the tight box of its own px mask, in every protocol.
    repeats: see `IoUAccumulator`.
    """

    def __init__(self, protocol: Protocol, *, repeats: Repeats = "refuse") -> None:
        self.protocol = protocol
        self._iou = IoUAccumulator(
            thresholds=protocol.pr_thresholds,
            inclusive=protocol.pr_inclusive,
            empty=protocol.empty,
            repeats=repeats,
        )
        self._hits: dict[str, dict[str, bool]] = {name: {} for name in HITS}

    def __len__(self) -> int:
        return len(self._iou)

    def update(
        self,
        key: str,
        prediction: Prediction,
        target_mask: Mask | None,
        target_box: NDArray[np.float32] | None = None,
        parts: int = 1,
    ) -> Comparison:
        """Count one expression and return how it was scored.

        target_mask: px [H, W] bool, None if the expression means nothing in the image.
        target_box: annotated px box [4] xyxy; without it the tight box of the mask is used.
        Raises DataError if the key was counted before (unless repeats is "once") or sizes differ.
        """
        score = compare(prediction, target_mask, self.protocol, parts=parts, with_peak=True)
        self._iou.add(score.row, key)
        if target_mask is not None:
            box = mask_to_box(target_mask) if target_box is None else target_box
            for name, hit in self._hit(prediction, score, target_mask, box).items():
                self._hits[name][key] = hit and self._hits[name].get(key, True)
        return score

    def _hit(
        self,
        prediction: Prediction,
        score: Comparison,
        mask: Mask,
        box: NDArray[np.float32] | None,
    ) -> dict[str, bool]:
        hits: dict[str, bool] = {}
        if box is not None:
            own = None if prediction.empty else mask_to_box(prediction.mask)
            hits["REC@0.5"] = box_hit(own, box, inclusive=self.protocol.rec_inclusive)
            if score.peak is not None:
                hits["PointIt"] = points_in_box(score.peak, box)
        if score.peak is not None:
            hits["PointM"] = points_on_mask(score.peak, mask)
        return hits

    def result(self) -> dict[str, float]:
        """Metrics as fractions in 0..1; see `IoUAccumulator.result` for those of masks.

        REC@0.5 where targets have boxes, PointIt and PointM where predictions have responses.
        Raises DataError if nothing was counted.
        """
        metrics = self._iou.result()
        for name, hits in self._hits.items():
            if hits:
                metrics[name] = sum(hits.values()) / len(hits)
        return metrics

    def samples(self) -> dict[str, list[Any]]:
        """Per expression, sorted by key: key, intersection, union, iou, target_empty."""
        rows = self._iou.items()
        return {
            "key": [key for key, _ in rows],
            "intersection": [row.intersection for _, row in rows],
            "union": [row.union for _, row in rows],
            "iou": [row.iou for _, row in rows],
            "target_empty": [row.target_empty for _, row in rows],
        }

    def state(self) -> dict[str, Any]:
        """Everything counted, in values that JSON and pickle carry."""
        hits = {name: dict(sorted(found.items())) for name, found in self._hits.items()}
        return {"protocol": self.protocol.name, "rows": self._iou.state(), "hits": hits}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another meter's `state`; expressions in both are counted once.

        Where two processes scored an expression differently, the lower score stays, so that the
        order of merging does not matter. Raises DataError if the protocols differ.
        """
        if state["protocol"] != self.protocol.name:
            raise DataError(
                f'a meter of protocol "{state["protocol"]}" cannot be merged into one of '
                f'"{self.protocol.name}"',
                remedy="score all parts under one protocol",
            )
        self._iou.merge_state(state["rows"])
        for name, found in state["hits"].items():
            mine = self._hits[name]
            for key, hit in found.items():
                mine[key] = hit and mine.get(key, True)


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[Any] | None = None,
    empty: float = 0.0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, or of a ratio of sums.

    values: [N] (the mean, for mIoU or Pr@X), or [N, 2] numerators and denominators (the ratio
    of their sums, for oIoU). groups: [N] labels, such as image ids; whole groups are drawn then,
    since expressions about one image are not independent. n: resamples. empty: the ratio where
    the denominators add up to nothing, as in a protocol.
    Raises DataError if there is no value.
    """
    pairs = np.asarray(values, np.float64)
    if pairs.ndim == 1:
        pairs = np.stack([pairs, np.ones_like(pairs)], axis=1)
    if len(pairs) == 0:
        raise DataError("an interval needs at least one value")
    if groups is not None:
        _, inverse = np.unique(np.asarray(groups), return_inverse=True)
        pairs = np.stack([np.bincount(inverse, column) for column in pairs.T], axis=1)
    rng = np.random.default_rng(seed)
    size = len(pairs)
    means = np.empty(n)
    step = max(1, 2_000_000 // size)  # resamples at a time: at most 16 MB of indices
    for start in range(0, n, step):
        drawn = pairs[rng.integers(0, size, (min(step, n - start), size))].sum(axis=1)
        ratio = np.full(len(drawn), empty)
        np.divide(drawn[:, 0], drawn[:, 1], out=ratio, where=drawn[:, 1] > 0)
        means[start : start + step] = ratio
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pairwise_consistency(masks: Sequence[Mask]) -> float:
    """Mean IoU over all pairs of masks [H, W] predicted for different expressions of one object.

    1 means that the wording does not matter (VEGA, figures 7 and 9). Two empty masks agree (1).
    Raises DataError for fewer than two masks or different shapes.
    """
    if len(masks) < 2:
        raise DataError("consistency needs at least two predictions of one object")
    if len({mask.shape for mask in masks}) > 1:
        raise DataError("the masks of one object have different shapes")
    stack = np.stack(masks)
    iou = pairwise_iou(stack, stack, empty=1.0)
    return math.fsum(iou[np.triu_indices(len(masks), k=1)]) / math.comb(len(masks), 2)
