"""Scores during training: every expression of the evaluation rows once, over all processes.

Beside them, for methods that choose among proposals which they predict, how well the objects that
are meant were matched: by shape alone, as a region is that somebody asks about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch.distributed as dist
from torch import nn

from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.evaluate import target_mask
from refseg.method import Method
from refseg.methods.mutual.matching import FITS
from refseg.metrics.meter import Meter
from refseg.metrics.protocols import get_protocol
from refseg.types import Batch

PROTOCOL = "original"


@dataclass
class Scorer:
    """Call it with a method: metric -> value in 0..1, the same in every process.

    rows: dataset rows to score. Expressions about one image share its encoding. The dataset
    must be opened with the label "mask".
    """

    dataset: ReferDataset
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    rows: list[int]
    batch_size: int = 32

    def __call__(self, method: nn.Module) -> dict[str, float]:
        """All metrics of the protocol `original`.

        For a method with predicted proposals also "matching recall", the share of the objects that
        are meant whose proposal has an IoU of `FITS` or more, and "unmatched", the share that no
        proposal stands for (on the grid of the proposals' masks). An object that several
        expressions mean counts once.
        """
        rank, world = _place()
        meter, matched = Meter(get_protocol(PROTOCOL)), Matched()
        shown = _with_objects(self.dataset) if _matches(method) else self.dataset
        batches = self._batches()
        # Every process takes the same number of batches: a sharded method's forward is a
        # collective. The ones too many are computed and not counted.
        for start in range(0, len(batches), world):
            mine = start + rank
            rows, count = batches[mine % len(batches)], mine < len(batches)
            self._update(meter, matched, method, shown, rows, count=count)
        if world > 1:
            meter = _merged(meter)
            matched = Matched({k: v for part in _gathered(matched.iou) for k, v in part.items()})
        if len(meter) != len(self.rows):
            raise AssertionError(f"{len(meter)} expressions counted of {len(self.rows)}")
        return {**meter.result(), **matched.result()}

    def _batches(self) -> list[list[int]]:
        wanted = set(self.rows)
        ordered = [r for group in self.dataset.groups_by_image() for r in group if r in wanted]
        size = self.batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _update(
        self,
        meter: Meter,
        matched: Matched,
        method: nn.Module,
        shown: ReferDataset,
        rows: list[int],
        *,
        count: bool,
    ) -> None:
        samples = shown.samples(rows)
        batch = collate(samples, self.tokenizer, self.preprocess, share_images=True)
        batch = batch.to(next(method.parameters()).device)
        verbs = cast(Method, method)
        outputs = verbs(batch)
        predictions = verbs.decode(outputs, batch)
        if not count:
            return
        for sample, prediction in zip(samples, predictions, strict=True):
            target = target_mask(sample)
            meter.update(sample.key, prediction, target, sample.box_xyxy, sample.parts)
        if shown is not self.dataset:
            matched.add(method, outputs, batch)


@dataclass(frozen=True)
class Matched:
    """iou: annotation id -> IoU of the object and its proposal, NaN where none stands for it."""

    iou: dict[int, float] = field(default_factory=dict)

    def add(self, method: Any, outputs: Any, batch: Batch) -> None:
        """Count the objects that the batch's expressions mean."""
        matching = method.match(outputs.proposals, batch, by_class=False)
        assert batch.objects is not None
        assert batch.targets is not None
        meant = batch.targets >= 0
        place = batch.image_of[meant], batch.targets[meant]
        fits = matching.iou.masked_fill(matching.proposal < 0, math.nan)[place]
        self.iou.update(zip(batch.objects.ann_ids[place].tolist(), fits.tolist(), strict=True))

    def result(self) -> dict[str, float]:
        """ "matching recall", "unmatched"; empty if nothing was counted."""
        values = self.iou.values()
        if not values:
            return {}
        found = {
            "matching recall": sum(value >= FITS for value in values),
            "unmatched": sum(map(math.isnan, values)),
        }
        return {name: count / len(values) for name, count in found.items()}


def _matches(method: Any) -> bool:
    """Whether objects are matched to something, and are not the proposals themselves."""
    return hasattr(method, "match") and not getattr(method, "reads_objects", False)


def _with_objects(dataset: ReferDataset) -> ReferDataset:
    """The same items with all objects of their images."""
    options = replace(dataset.options, objects=True)
    parts = (dataset.store, dataset.folder, dataset.split, dataset.labels, dataset.finder)
    return ReferDataset(*parts, options)


def _place() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _merged(meter: Meter) -> Meter:
    whole = Meter(get_protocol(PROTOCOL))
    for state in _gathered(meter.state()):
        whole.merge(state)
    return whole


def _gathered(mine: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """What each process has. A collective."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
