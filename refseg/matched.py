"""How well the proposals of a method stand for the objects that expressions mean.

What a method writes about a region, and what it learns from an expression, is about the one
proposal that stands for the object. This is told beside the bound of a perfect choice
(`refseg.metrics.oracle`), which looks at all proposals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from refseg.data.dataset import ReferDataset
from refseg.describe import MATCHED
from refseg.types import Batch


@dataclass(frozen=True)
class Matched:
    """iou: annotation id -> IoU of the object and its proposal, NaN where none stands for it."""

    iou: dict[int, float] = field(default_factory=dict)

    def add(
        self, method: Any, outputs: Any, batch: Batch, targets: Sequence[int | None] | None = None
    ) -> None:
        """Count the objects that the batch's expressions mean, found by their shape alone.

        targets: rows in the batch's objects, None for an expression that means no single one;
        None: as the batch itself tells.
        """
        matching = method.match(outputs.proposals, batch, by_class=False)
        assert batch.objects is not None
        assert batch.targets is not None
        rows = batch.targets
        if targets is not None:
            rows = torch.tensor([-1 if t is None else t for t in targets]).to(rows)
        meant = rows >= 0
        place = batch.image_of[meant], rows[meant]
        fits = matching.iou[place].tolist()
        self.iou.update(zip(batch.objects.ann_ids[place].tolist(), fits, strict=True))

    def result(self) -> dict[str, float]:
        """ "matching recall": share of the objects whose proposal has an IoU of `MATCHED` or more
        (on the grid of the proposals' masks); "unmatched": share that none stands for. An object
        that several expressions mean counts once. Empty if nothing was counted.
        """
        values = self.iou.values()
        if not values:
            return {}
        found = {
            "matching recall": sum(value >= MATCHED for value in values),
            "unmatched": sum(map(math.isnan, values)),
        }
        return {name: count / len(values) for name, count in found.items()}


def matches(method: Any) -> bool:
    """Whether objects are matched to something, and are not the proposals themselves."""
    return hasattr(method, "match") and not getattr(method, "reads_objects", False)


def with_objects(dataset: ReferDataset) -> ReferDataset:
    """The same items with all objects of their images. Raises LabelsError; see `ReferDataset`."""
    return dataset if dataset.options.objects else dataset.with_options(objects=True)
