"""How good pseudo masks are before and after RPP's filter, and how evenly points lie.

For this one place the true masks of the training split are opened, to measure; what is trained
never sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.catalog import open_data
from refseg.label import LabelOptions, label
from refseg.metrics.iou import mask_counts
from refseg.ops.contours import outer_contour, sample_uniform
from refseg.recipes.base import Recipe
from refseg.recipes.opening import masked_refs
from refseg.types import Labels
from studies.kept import Trained

#: Pictures that are looked at, the first by id.
PICTURES = 1_000
#: A projection score that every mask passes: 2 is the worst.
ALL = 3.0
THRESHOLDS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Pseudo:
    """Pseudo masks of refs without true ones: IoU with the truth [N], projection score [N], and of
    the true masks their area [N] px and their share [N] of their box.
    """

    iou: NDArray[np.float64]
    projection: NDArray[np.float64]
    area: NDArray[np.float64]
    fill: NDArray[np.float64]

    def told(self) -> dict[str, Any]:
        """All of them, and what each threshold keeps."""
        rows = [{"agree": None, **self._quality(ALL)}]
        rows += [{"agree": threshold, **self._quality(threshold)} for threshold in THRESHOLDS]
        return {"n": len(self.iou), "rows": rows}

    def _quality(self, agree: float) -> dict[str, Any]:
        kept = self.projection < agree
        iou, some = self.iou[kept], bool(kept.any())
        return {
            "kept share": float(kept.mean()),
            "median area": float(np.median(self.area[kept])) if some else None,
            "fill": float(self.fill[kept].mean()) if some else None,
            **_scores(iou),
        }


def _scores(iou: NDArray[np.float64]) -> dict[str, Any]:
    some = len(iou) > 0
    return {
        "mIoU": float(iou.mean()) if some else None,
        "Pr@0.5": float((iou > 0.5).mean()) if some else None,
        "Pr@0.8": float((iou > 0.8).mean()) if some else None,
    }


def measure(run: Trained, recipe: Recipe, pictures: int = PICTURES) -> Pseudo:
    """Label the first pictures with the model, without a filter, and compare with the truth."""
    data = recipe.data
    out = run.scores / f"pseudo-{pictures}"
    label(
        LabelOptions(
            model=str(run.model),
            task="masks",
            data=data.name,
            out=out,
            split=data.train,
            agree=ALL,
            per_ref=True,
            skip_refs=masked_refs(recipe).ref_ids,
            limit=pictures,
            seed=recipe.train.seed,
        ),
        workers=1,
    )
    return compare(out, data.name, data.train)


def compare(made: Path, data: str, split: str) -> Pseudo:
    """A folder that `refseg label --agree` wrote against the true masks of its source."""
    labels = Labels.parse("text+mask")
    pseudo = open_data(made, split, labels, view="ref")
    truth = open_data(data, split, labels, view="ref")
    row_of = {truth.entry(row).ref_id: row for row in range(len(truth))}
    iou, projection, area, fill = [], [], [], []
    for row in range(len(pseudo)):
        told = pseudo.records.extra("refs", pseudo.entry(row).ref_row)
        mine, true = pseudo[row].mask, truth[row_of[int(told["source_ref_id"])]].mask
        assert mine is not None
        assert true is not None
        both, either = mask_counts(mine, true)
        iou.append(both / either if either else 1.0)
        projection.append(float(told["projection"]))
        area.append(float(true.sum()))
        fill.append(area[-1] / max(1, np.prod(np.ptp(np.argwhere(true), axis=0) + 1)))
    return Pseudo(*map(np.array, (iou, projection, area, fill)))


def spacing(outlines: Sequence[NDArray[np.floating]]) -> float:
    """How uneven points lie on their closed outlines: the mean of std / mean of the gaps.

    0 for points at equal distances. outlines: [P, 2] px each.
    """
    found = []
    for points in outlines:
        gaps = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
        if gaps.mean() > 0:
            found.append(float(gaps.std() / gaps.mean()))
    return float(np.mean(found))


def resampled(mask: NDArray[np.bool_], points: int) -> NDArray[np.float64]:
    """RPP's points of a filled pseudo mask: uniform on its outer contour."""
    return sample_uniform(outer_contour(mask), points)
