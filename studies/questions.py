"""What was asked, answer by answer: the kind of expression, the size of its target, and which
object of the picture the mask that came back lies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.data.scenes.grammar import UnparsableExpression, parse
from refseg.metrics.iou import pairwise_iou
from refseg.metrics.meter import bootstrap_interval
from refseg.ops.masks import decode_segmentation
from refseg.types import Prediction, Sample

KINDS = ("appearance only", "location", "ordinal", "superlative", "relation")
SIZES = ("small", "medium", "large")
POINTED = ("right", "wrong", "nothing")
_SUPERLATIVES = ("biggest", "smallest")
_ORDINALS = ("rank_left", "rank_right")


def kind_of(text: str) -> str:
    """One of KINDS, by what is said of the target itself (not of its landmarks).

    Who says a relation is counted there, whatever else he says; then ordinals, superlatives and
    places. "unknown" for text outside the language of the scenes.
    """
    try:
        tree = parse(text)
    except UnparsableExpression:
        return "unknown"
    if tree.relations:
        return "relation"
    if tree.selector is None:
        return "appearance only"
    if tree.selector.name in _ORDINALS:
        return "ordinal"
    return "superlative" if tree.selector.name in _SUPERLATIVES else "location"


@dataclass(frozen=True)
class Answer:
    """One scored expression. area_share: of the picture's pixels that are the target's.

    pointed: whether the mask overlaps the target more (by IoU) than any other object ("right"),
    another object more ("wrong"), or no object at all ("nothing").
    """

    key: str
    image_id: int
    text: str
    iou: float
    area_share: float
    pointed: str


class Objects:
    """Masks of all annotated objects of a picture. The last picture's are kept."""

    def __init__(self, dataset: ReferDataset) -> None:
        self._records = dataset.records
        ids = self._records.column("images", "image_id").tolist()
        self._row_of = {int(image_id): row for row, image_id in enumerate(ids)}
        refs = self._records.column("refs", "ref_id").tolist()
        self._ref_row = {int(ref_id): row for row, ref_id in enumerate(refs)}
        self._last: tuple[int, NDArray[np.bool_]] | None = None

    def masks(self, image_id: int, hw: tuple[int, int]) -> NDArray[np.bool_]:
        """[M, H, W]; an object without a mask has no pixel."""
        if self._last is None or self._last[0] != image_id:
            rows = self._records.annotation_rows(self._row_of[image_id])
            decoded = [self._decoded(row, hw) for row in rows]
            self._last = (image_id, np.stack(decoded))
        return self._last[1]

    def target(self, sample: Sample) -> int:
        """The place of a sample's (first) target among `masks`."""
        first = self._records.annotation_rows(self._row_of[sample.image_id]).start
        return self._records.ann_rows(self._ref_row[sample.ref_id])[0] - first

    def _decoded(self, row: int, hw: tuple[int, int]) -> NDArray[np.bool_]:
        segmentation = self._records.segmentation(row)
        if segmentation is None:
            return np.zeros(hw, np.bool_)
        return decode_segmentation(segmentation, hw, rasteriser=self._records.meta.rasteriser)[0]


class Answers:
    """Collects an `Answer` per expression; give it as `keep` to the evaluation."""

    def __init__(self, dataset: ReferDataset) -> None:
        self.objects = Objects(dataset)
        self.rows: list[Answer] = []

    def __call__(self, sample: Sample, prediction: Prediction, iou: float) -> None:
        """See `refseg.evaluate.Options.keep`."""
        hw = (sample.image.shape[0], sample.image.shape[1])
        masks = self.objects.masks(sample.image_id, hw)
        target = self.objects.target(sample)
        overlap = pairwise_iou(prediction.mask[None], masks)[0]
        self.rows.append(
            Answer(
                sample.key,
                sample.image_id,
                sample.text,
                iou,
                float(masks[target].mean()),
                pointed_at(overlap, target),
            )
        )


def pointed_at(overlap: NDArray[np.float64], target: int) -> str:
    """One of POINTED from the IoU of one mask with every object of the picture [M]."""
    if not overlap.any():
        return "nothing"
    return "right" if overlap[target] >= overlap.max() else "wrong"


def thirds(shares: Sequence[float]) -> tuple[list[str], tuple[float, float]]:
    """A size for every target, and the two bounds that cut the targets into thirds."""
    values = np.asarray(shares, np.float64)
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    return [SIZES[int(v > low) + int(v > high)] for v in values.tolist()], (float(low), float(high))


def grouped(
    rows: Sequence[Answer], name_of: Callable[[int], str], order: Iterable[str]
) -> list[dict[str, Any]]:
    """Scores of the answers by group, in `order`; empty groups are left out.

    name_of: the group of the answer at a place in `rows`. Intervals are 95 % bootstrap
    intervals; pictures are drawn as wholes, whatever the style of the expressions about them.
    """
    members: dict[str, list[Answer]] = {}
    for place, row in enumerate(rows):
        members.setdefault(name_of(place), []).append(row)
    return [{"group": name, **scores(members[name])} for name in order if name in members]


def scores(rows: Sequence[Answer]) -> dict[str, Any]:
    """n, mIoU with its interval, Pr@0.5, and where the masks lie, all as shares of the rows."""
    iou = np.array([row.iou for row in rows])
    right = iou[[row.pointed == "right" for row in rows]]
    return {
        "n": len(rows),
        "mIoU": float(iou.mean()),
        "interval": bootstrap_interval(iou, groups=[row.image_id for row in rows]),
        "Pr@0.5": float((iou > 0.5).mean()),
        **{name: sum(row.pointed == name for row in rows) / len(rows) for name in POINTED},
        "mIoU where right": float(right.mean()) if len(right) else None,
    }
