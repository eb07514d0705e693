"""Scores during training: every expression of the evaluation rows once, over all processes.

Beside them, for methods that choose among proposals which they predict: the score of always having
chosen the best (`refseg.metrics.oracle`), and how well the objects that are meant were matched, by
shape alone, as a region is that somebody asks about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch.distributed as dist
from torch import nn

from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.errors import DataError
from refseg.evaluate import target_mask
from refseg.matched import Matched, matches, with_objects
from refseg.method import Method
from refseg.metrics.boxes import box_hit
from refseg.metrics.meter import Meter
from refseg.metrics.oracle import OracleBound
from refseg.metrics.protocols import get_protocol
from refseg.ops.masks import mask_to_box
from refseg.types import Batch, Prediction, Sample

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

        For a method with predicted proposals also "oracle" and "oracle Pr@0.5", those of
        `refseg.evaluate`, and what `Matched` tells.
        """
        rank, world = place()
        counts = Counts()
        shown = with_objects(self.dataset) if matches(method) else self.dataset
        batches = batches_of(self.dataset, self.rows, self.batch_size)
        # Every process takes the same number of batches: a sharded method's forward is a
        # collective. The ones too many are computed and not counted.
        for start in range(0, len(batches), world):
            mine = start + rank
            rows, count = batches[mine % len(batches)], mine < len(batches)
            self._update(counts, method, shown, rows, count=count)
        return together(everyone(counts.told()), len(self.rows))

    def _update(
        self,
        counts: Counts,
        method: nn.Module,
        shown: ReferDataset,
        rows: list[int],
        *,
        count: bool,
    ) -> None:
        samples = shown.samples(rows)
        batch = self._batch(method, samples)
        verbs = cast(Method, method)
        outputs = verbs(batch)
        predictions = verbs.decode(outputs, batch)
        if not count:
            return
        for sample, prediction in zip(samples, predictions, strict=True):
            counts.add(sample, prediction)
        if shown is not self.dataset:
            counts.matched.add(method, outputs, batch)

    def _batch(self, method: nn.Module, samples: list[Sample]) -> Batch:
        """The samples as the method sees them, where it is."""
        wanted = getattr(method, "wants_originals", False)
        batch = collate(
            samples, self.tokenizer, self.preprocess, share_images=True, originals=wanted
        )
        return batch.to(next(method.parameters()).device)


@dataclass
class BoxScorer(Scorer):
    """REC@0.5 of the protocol `original` alone, where boxes are granted and masks are not.

    The box of an answer is the tight one of its mask; expressions whose box is not stated are left
    out.
    """

    def __call__(self, method: nn.Module) -> dict[str, float]:
        rank, world = place()
        hits, inclusive = dict[str, bool](), get_protocol(PROTOCOL).rec_inclusive
        batches = batches_of(self.dataset, self.rows, self.batch_size)
        for start in range(0, len(batches), world):
            mine = start + rank
            rows, count = batches[mine % len(batches)], mine < len(batches)
            samples = self.dataset.samples(rows)
            batch = self._batch(method, samples)
            verbs = cast(Method, method)
            for sample, answer in zip(samples, verbs.decode(verbs(batch), batch), strict=True):
                if count and sample.box_xyxy is not None:
                    own = None if answer.empty else mask_to_box(answer.mask)
                    hits[sample.key] = box_hit(own, sample.box_xyxy, inclusive=inclusive)
        for part in everyone({"hits": hits}):
            hits.update(part["hits"])
        if not hits:
            raise DataError(
                f"{self.dataset.name} {self.dataset.split} states no box",
                remedy="set data.evaluate=null, or grant what it has in data.labels",
            )
        return {"REC@0.5": sum(hits.values()) / len(hits)}


@dataclass
class Counts:
    """What one process has counted. bounded: expressions that `bound` is about."""

    meter: Meter = field(default_factory=lambda: Meter(get_protocol(PROTOCOL)))
    bound: OracleBound = field(default_factory=OracleBound)
    bounded: int = 0
    matched: Matched = field(default_factory=lambda: Matched())

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Count one expression."""
        target = target_mask(sample)
        self.meter.update(sample.key, prediction, target, sample.box_xyxy, sample.parts)
        self.bound.add(prediction, target)
        self.bounded += prediction.candidates is not None and target is not None

    def told(self) -> dict[str, Any]:
        """What `together` takes, in values that pickle carries."""
        bound = (self.bounded, self.bound.result())
        return {"meter": self.meter.state(), "bound": bound, "iou": self.matched.iou}


def together(parts: Sequence[Mapping[str, Any]], rows: int) -> dict[str, float]:
    """All metrics of `rows` expressions, each counted by one of the processes or more."""
    meter, iou = Meter(get_protocol(PROTOCOL)), {}
    for part in parts:
        meter.merge(part["meter"])
        iou.update(part["iou"])
    if len(meter) != rows:
        raise AssertionError(f"{len(meter)} expressions counted of {rows}")
    bounds = [part["bound"] for part in parts if part["bound"][0]]
    count = sum(one for one, _ in bounds)
    bound = {
        name: math.fsum(one * scores[name] for one, scores in bounds) / count
        for name in (bounds[0][1] if bounds else ())
    }
    return {**meter.result(), **bound, **Matched(iou).result()}


def batches_of(dataset: ReferDataset, rows: Iterable[int], size: int) -> list[list[int]]:
    """The rows in batches, those about one image together."""
    wanted = set(rows)
    ordered = [r for group in dataset.groups_by_image() for r in group if r in wanted]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def place() -> tuple[int, int]:
    """This process's rank, of how many."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def everyone(mine: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each process has. A collective."""
    _, world = place()
    if world == 1:
        return [mine]
    told: list[Any] = [None] * world
    dist.all_gather_object(told, mine)
    return told
