"""Intersection over union: counting pixels, and adding up counts exactly.

Two numbers are called IoU in the literature and both are kept apart here: mIoU is the mean of
the expressions' IoUs, oIoU is the sum of intersections over the sum of unions ("cIoU" in some
papers). Pixels are counted as integers and IoUs are summed with one final rounding (`fsum`), so
results do not depend on the order of the samples or on how many processes scored them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]
Repeats = Literal["refuse", "once"]

PR_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

_CHUNK_BYTES = 1 << 18  # packed masks worked on at a time: they stay in the core's cache


def mask_counts(predicted: Mask, target: Mask) -> tuple[int, int]:
    """Pixels in the intersection and in the union of two bool masks of one shape."""
    _same_shape(predicted.shape, target.shape)
    intersection = int(np.count_nonzero(predicted & target))
    both = int(np.count_nonzero(predicted)) + int(np.count_nonzero(target))
    return intersection, both - intersection


def pack_masks(masks: Mask) -> NDArray[np.uint64]:
    """Masks [N, ...] bool as rows of bits, [N, ceil(pixels / 64)] uint64, zero-padded."""
    flat = np.asarray(masks, bool).reshape(len(masks), math.prod(np.shape(masks)[1:]))
    rows = np.packbits(flat, axis=1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    return np.ascontiguousarray(rows).view(np.uint64)


def batch_counts(predicted: Mask, target: Mask) -> tuple[Counts, Counts]:
    """Intersections and unions of N pairs, both [N] int64; masks are [N, ...] bool.

    Equals `mask_counts` pair by pair; 64 pixels are compared at a time.
    """
    _same_shape(np.shape(predicted), np.shape(target))
    count = len(predicted)
    intersection, union = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for rows in _chunks(count, math.prod(np.shape(predicted)[1:])):
        a, b = pack_masks(predicted[rows]), pack_masks(target[rows])
        intersection[rows] = _ones(a & b)
        union[rows] = _ones(a | b)
    return intersection, union


def pairwise_counts(a: Mask, b: Mask) -> tuple[Counts, Counts]:
    """Intersections and unions of every mask of a [N, ...] with every one of b [M, ...], [N, M]."""
    _same_shape(np.shape(a)[1:], np.shape(b)[1:])
    first, second = pack_masks(a), pack_masks(b)
    intersection = np.zeros((len(first), len(second)), np.int64)
    for rows in _chunks(len(second), math.prod(np.shape(b)[1:])):
        for i, bits in enumerate(first):
            intersection[i, rows] = _ones(bits & second[rows])
    return intersection, _ones(first)[:, None] + _ones(second)[None] - intersection


def pairwise_iou(a: Mask, b: Mask, *, empty: float = 0.0) -> NDArray[np.float64]:
    """IoU of every pair, [N, M]; `empty` where both masks are empty."""
    intersection, union = pairwise_counts(a, b)
    return iou_values(intersection, union, empty)


def iou_values(intersection: Counts, union: Counts, empty: float = 0.0) -> NDArray[np.float64]:
    """I / U element by element, `empty` where U is 0."""
    iou = np.full(np.shape(union), empty, np.float64)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def _ones(bits: NDArray[np.uint64]) -> Counts:
    counts: Counts = np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)
    return counts


def _chunks(count: int, pixels: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // max(1, pixels // 8))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    if a != b:
        raise DataError(
            f"masks of different shapes cannot be compared: {a} and {b}",
            remedy="bring both to one size first (EXIF rotation is a common cause)",
        )


class Row(NamedTuple):
    """What one expression adds: pixel counts, its IoU by the protocol's rules, two flags."""

    intersection: int
    union: int
    iou: float
    target_empty: bool = False
    predicted_empty: bool = False


class IoUAccumulator:
    """Adds up expressions; merging is associative, commutative and counts each key once.

    thresholds, inclusive: Pr@X is the share of targets with IoU > X (>= if inclusive).
    empty: oIoU when no union has a pixel. repeats: a second `add` of a key is an error
    ("refuse"), or keeps the smaller row ("once", for samplers that pad by repeating). `merge`
    always keeps one. Rows without a key are all counted.
    """

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = PR_THRESHOLDS,
        inclusive: bool = False,
        empty: float = 0.0,
        repeats: Repeats = "refuse",
    ) -> None:
        self.thresholds = tuple(thresholds)
        self.inclusive = inclusive
        self.empty = empty
        self.repeats = repeats
        self._keyed: dict[str, Row] = {}
        self._loose: list[Row] = []

    def __len__(self) -> int:
        return len(self._keyed) + len(self._loose)

    def add(self, row: Row, key: str | None = None) -> None:
        """Count one expression. Raises DataError if `key` was added before and is refused."""
        if key is None:
            self._loose.append(row)
            return
        if key in self._keyed and self.repeats == "refuse":
            raise DataError(
                f'expression "{key}" was scored twice',
                remedy='keys must be unique in a split; for padded samplers use repeats="once"',
            )
        self._keyed[key] = min(row, self._keyed.get(key, row))

    def add_counts(
        self, intersection: Counts, union: Counts, keys: Sequence[str] | None = None
    ) -> None:
        """Count N expressions from pixel counts [N], with I / U, or `empty` where U is 0."""
        iou = iou_values(intersection, union, self.empty)
        rows = map(Row, intersection.tolist(), union.tolist(), iou.tolist())
        if keys is None:
            self._loose.extend(rows)
            return
        if len(keys) != len(union):
            raise DataError(f"{len(union)} masks but {len(keys)} keys")
        for key, row in zip(keys, rows, strict=True):
            self.add(row, key)

    def add_batch(self, predicted: Mask, target: Mask, keys: Sequence[str] | None = None) -> None:
        """Count N expressions from masks [N, ...] bool; as `add_counts`."""
        self.add_counts(*batch_counts(predicted, target), keys)

    def merge(self, other: IoUAccumulator) -> None:
        """Add what another process counted; a key in both is counted once (the smaller row)."""
        for key, row in other._keyed.items():
            self._keyed[key] = min(row, self._keyed.get(key, row))
        self._loose.extend(other._loose)

    def items(self) -> list[tuple[str | None, Row]]:
        """All rows: those with keys sorted by key, then those without, sorted by value."""
        keyed: list[tuple[str | None, Row]] = [(k, self._keyed[k]) for k in sorted(self._keyed)]
        return keyed + [(None, row) for row in sorted(self._loose)]

    def result(self) -> dict[str, float]:
        """mIoU, oIoU and Pr@X over expressions with a target; fractions in 0..1.

        If any expression has no target, also over all: gIoU (mean IoU, 1 for a recognised
        absence), cIoU (sum of I over sum of U), N-acc (absences recognised) and T-acc (targets
        not called absent). Raises DataError if nothing was counted.
        """
        rows = [*self._keyed.values(), *self._loose]
        if not rows:
            raise DataError("no expression was scored", remedy="is the split empty?")
        targets = [row for row in rows if not row.target_empty]
        metrics = self._over_targets(targets) if targets else {}
        if len(targets) < len(rows):
            metrics |= self._with_absences(rows, targets)
        return metrics

    def _over_targets(self, targets: list[Row]) -> dict[str, float]:
        metrics = {"mIoU": _mean(row.iou for row in targets), "oIoU": self._overall(targets)}
        iou = np.array([row.iou for row in targets])
        for threshold in self.thresholds:
            hits = iou >= threshold if self.inclusive else iou > threshold
            metrics[f"Pr@{threshold:g}"] = int(np.count_nonzero(hits)) / len(targets)
        return metrics

    def _with_absences(self, rows: list[Row], targets: list[Row]) -> dict[str, float]:
        absent = [row for row in rows if row.target_empty]
        metrics = {
            "gIoU": _mean(row.iou for row in rows),
            "cIoU": self._overall(rows),
            "N-acc": sum(row.predicted_empty for row in absent) / len(absent),
        }
        if targets:
            metrics["T-acc"] = sum(not row.predicted_empty for row in targets) / len(targets)
        return metrics

    def _overall(self, rows: list[Row]) -> float:
        union = sum(row.union for row in rows)
        return sum(row.intersection for row in rows) / union if union else self.empty

    def state(self) -> list[list[Any]]:
        """Everything counted, as lists that JSON and pickle carry: [key, I, U, IoU, flags]."""
        return [[key, *row] for key, row in self.items()]

    def merge_state(self, state: Sequence[Sequence[Any]]) -> None:
        """`merge` from what `state` gave."""
        other = IoUAccumulator(repeats="once")
        for key, *values in state:
            other.add(Row(*values), key)
        self.merge(other)


def _mean(values: Iterator[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)
