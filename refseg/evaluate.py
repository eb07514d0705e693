"""Scores of a model on a data set, each under the name of its protocol.

    report = evaluate(load("vega-scenes"), open_data("scenes", "val", ALL_LABELS))
    report.metrics["mIoU"], report.intervals["mIoU"]

Expressions about one image are asked together, so a method that can encodes the image once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar, cast
from typing import Protocol as Shape

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.data.selection import MaskRule
from refseg.errors import DataError, LabelsError
from refseg.matched import Matched, matches, with_objects
from refseg.metrics.meter import Meter, bootstrap_interval, pairwise_consistency
from refseg.metrics.oracle import OracleBound
from refseg.metrics.protocols import Protocol, get_protocol
from refseg.models import Model
from refseg.types import Batch, Prediction, Sample

Perturb = Callable[[str, np.random.Generator], str]
Keep = Callable[[Sample, Prediction, float], None]
Job = TypeVar("Job")
Done = TypeVar("Done")


class Answers(Shape):
    """What is evaluated: a `Model`, or anything with a name, a card and `predict`."""

    name: str
    card: dict[str, Any]

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample."""


@dataclass(frozen=True)
class Report:
    """One model on one split under one protocol.

    labels: what the model learned from. n: expressions counted. metrics: fractions in 0..1.
    intervals: 95 % bootstrap intervals of mIoU and oIoU over the expressions with a target and,
    where there are others, of gIoU and cIoU over all; images drawn as wholes.
    samples: per expression, sorted by key: key, intersection, union, iou, target_empty. text: how
    the expressions were changed.
    """

    model: str
    data: str
    split: str
    protocol: str
    labels: str
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, list[Any]] = field(default_factory=dict, repr=False)
    text: str = "as written"

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the single samples."""
        names = ("model", "data", "split", "protocol", "labels", "n", "text")
        told = {name: getattr(self, name) for name in names}
        intervals = {name: list(pair) for name, pair in self.intervals.items()}
        return {**told, "metrics": dict(self.metrics), "intervals": intervals}


@dataclass(frozen=True)
class Options:
    """limit: the first so many expressions. batch_size: expressions asked at once.

    progress(steps): told of every batch. perturb: changes an expression before it is asked, with
    a generator that depends on the expression's key alone; text: its name for the report.
    keep(sample, prediction, iou): sees every expression with its IoU under the first protocol.
    mask_rule: how targets are joined, in place of each protocol's own rule; a protocol that it
    changes is reported as "original+lavt_compat" or the like.
    """

    limit: int | None = None
    batch_size: int = 32
    progress: Callable[[int], None] | None = None
    perturb: Perturb | None = None
    text: str = "as written"
    keep: Keep | None = None
    mask_rule: MaskRule | None = None


def evaluate(
    model: Answers,
    dataset: ReferDataset,
    protocol: str = "original",
    *,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    perturb: Perturb | None = None,
    keep: Keep | None = None,
    mask_rule: MaskRule | None = None,
) -> Report:
    """The report under one protocol; see `evaluate_all` and `Options`."""
    text = "as written" if perturb is None else "perturbed"
    options = Options(limit, batch_size, progress, perturb, text, keep, mask_rule)
    return evaluate_all(model, dataset, [protocol], options=options)[0]


def evaluate_all(
    model: Answers,
    dataset: ReferDataset,
    protocols: Sequence[str],
    *,
    options: Options = Options(),
) -> list[Report]:
    """A report per protocol, all from one pass of the model over `dataset`.

    "consistency" among the metrics is the mean IoU over pairs of predictions for different
    expressions of one object (VEGA, figures 7 and 9), where there are such. "oracle" and "oracle
    Pr@0.5" are those of a perfect choice among the candidates, where the method has such; always
    at the image's own size (see `refseg.metrics.oracle`). "matching recall" and "unmatched" are
    those of `refseg.matched`, where the method matches objects to proposals of its own.
    Raises UnknownName (protocol, mask rule), LabelsError (masks not granted), DataError (nothing
    to score).
    """
    if not dataset.labels.allows("mask"):
        raise LabelsError("scores need masks, which are not granted", remedy='grant "mask"')
    if matches(getattr(model, "method", None)):
        dataset = with_objects(dataset)
    meters = [Meter(_ruled(get_protocol(name), options.mask_rule)) for name in protocols]
    targets = {rule: with_rule(dataset, rule) for rule in {m.protocol.mask_rule for m in meters}}
    if count_expressions(dataset, options) == 0:
        raise DataError(
            f"{dataset.name}: split {dataset.split} holds no expression", remedy="another --split"
        )
    agreement, image_of, matched = _Agreement(), {}, Matched()
    bounds = {rule: OracleBound() for rule in targets}
    for samples, truths in _batches(dataset, targets, options):
        asked = [as_asked(sample, options) for sample in samples]
        predictions = _predicted(model, asked, samples, matched)
        for index, prediction in enumerate(predictions):
            sample = samples[index]
            scores = [
                _update(meter, prediction, truths[meter.protocol.mask_rule][index])
                for meter in meters
            ]
            image_of[sample.key] = sample.image_id
            agreement.add(sample, prediction)
            for rule, bound in bounds.items():
                bound.add(prediction, target_mask(truths[rule][index]))
            if options.keep is not None:
                options.keep(asked[index], prediction, scores[0])
        if options.progress is not None:
            options.progress(len(samples))
    about = (model.name, dataset.name, dataset.split)
    labels = str(model.card.get("labels used", "unknown"))
    consistency = agreement.mean()
    same = {} if consistency is None else {"consistency": consistency}
    same |= matched.result()
    more = {rule: same | bound.result() for rule, bound in bounds.items()}
    return [
        _report(meter, about, labels, options.text, more[meter.protocol.mask_rule], image_of)
        for meter in meters
    ]


def _predicted(
    model: Answers, asked: Sequence[Sample], truths: Sequence[Sample], matched: Matched
) -> list[Prediction]:
    """Predictions, and `matched` told of the proposals that they were chosen from."""
    method = getattr(model, "method", None)
    if not matches(method):
        return model.predict(asked)
    targets = [truth.target for truth in truths]

    def seen(outputs: Any, batch: Batch) -> None:
        matched.add(method, outputs, batch, targets)

    return cast(Model, model).predict(asked, seen)


def _ruled(protocol: Protocol, rule: MaskRule | None) -> Protocol:
    """The protocol with another rule for masks, under a name that says so."""
    if rule in (None, protocol.mask_rule):
        return protocol
    return replace(protocol, name=f"{protocol.name}+{rule}", mask_rule=rule)


def count_expressions(dataset: ReferDataset, options: Options) -> int:
    """How many expressions an evaluation with these options will ask."""
    return min(len(dataset), len(dataset) if options.limit is None else options.limit)


def with_rule(dataset: ReferDataset, rule: MaskRule) -> ReferDataset:
    """The same items with masks joined by `rule` (see `refseg.ops.masks.decode_segmentation`)."""
    if dataset.options.mask_rule == rule:
        return dataset
    return dataset.with_options(mask_rule=rule)


Truths = Mapping[MaskRule, list[Sample]]


def _batches(
    dataset: ReferDataset, targets: Mapping[MaskRule, ReferDataset], options: Options
) -> Iterator[tuple[list[Sample], Truths]]:
    """Samples with their targets under each mask rule; the next batch is read meanwhile."""

    def read(rows: list[int]) -> tuple[list[Sample], Truths]:
        truths = {rule: view.samples(rows) for rule, view in targets.items()}
        return next(iter(truths.values())), truths

    return read_ahead(read, packed(dataset.groups_by_image(), options.batch_size, options.limit))


def read_ahead(read: Callable[[Job], Done], jobs: Iterable[Job]) -> Iterator[Done]:
    """`read` of every job in order; the next one runs in a thread while the present is used."""
    with ThreadPoolExecutor(1) as reader:
        waiting: list[Future[Done]] = []
        for job in jobs:
            waiting.append(reader.submit(read, job))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()


def packed(
    groups: Sequence[Sequence[int]], batch_size: int, limit: int | None = None
) -> Iterator[list[int]]:
    """Item numbers in batches that keep the items of an image together where they fit."""
    batch: list[int] = []
    items = (number for group in groups for number in group)
    kept = set(islice(items, limit))
    for group in groups:
        left = [number for number in group if number in kept]
        if batch and len(batch) + len(left) > batch_size:
            yield batch
            batch = []
        while len(left) > batch_size:
            yield left[:batch_size]
            left = left[batch_size:]
        batch = batch + left
    if batch:
        yield batch


def as_asked(sample: Sample, options: Options) -> Sample:
    """What the model sees: no label of the expression, the words perhaps perturbed.

    The objects of the image stay where the data set was opened with them: they are what some
    methods choose among. Which of them is meant does not.
    """
    text = sample.text
    if options.perturb is not None:
        seed = zlib.crc32(sample.key.encode())
        text = options.perturb(text, np.random.default_rng(seed))
    return replace(
        sample, text=text, mask=None, box_xyxy=None, category=None, empty=None, parts=0, target=None
    )


def _update(meter: Meter, prediction: Prediction, truth: Sample) -> float:
    mask = target_mask(truth)
    return meter.update(truth.key, prediction, mask, truth.box_xyxy, max(truth.parts, 1)).iou


def target_mask(sample: Sample) -> NDArray[np.bool_] | None:
    """What the sample is scored against: its mask, or None where the expression means nothing.

    Raises DataError for an expression that means something nobody has drawn.
    """
    if sample.mask is None and not sample.empty:
        raise DataError(
            f"expression {sample.key} of image {sample.image_id} has a target without a mask",
            remedy="score on data whose targets all have masks; see `refseg data check`",
        )
    return None if sample.empty else sample.mask


class _Agreement:
    """Mean pairwise IoU over the expressions of each object, one image in memory at a time."""

    def __init__(self) -> None:
        self._image: int | None = None
        self._masks: dict[int, list[NDArray[np.bool_]]] = {}
        self._values: list[float] = []

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Items of one image must come one after the other."""
        if sample.image_id != self._image:
            self._close()
            self._image = sample.image_id
        self._masks.setdefault(sample.ref_id, []).append(prediction.mask)

    def mean(self) -> float | None:
        """The mean over all objects with two expressions or more; None if there is none."""
        self._close()
        return float(np.mean(self._values)) if self._values else None

    def _close(self) -> None:
        several = (masks for masks in self._masks.values() if len(masks) > 1)
        self._values += [pairwise_consistency(masks) for masks in several]
        self._masks = {}


def _report(
    meter: Meter,
    about: tuple[str, str, str],
    labels: str,
    text: str,
    more: dict[str, float],
    image_of: Mapping[str, int],
) -> Report:
    metrics = meter.result() | more
    samples = meter.samples()
    images = np.array([image_of[key] for key in samples["key"]])
    name = meter.protocol.name
    intervals = _intervals(metrics, samples, images, meter.protocol.empty)
    return Report(*about, name, labels, len(meter), metrics, intervals, samples, text)


def _intervals(
    metrics: Mapping[str, float], samples: Mapping[str, Any], images: NDArray[Any], empty: float
) -> dict[str, tuple[float, float]]:
    """Of each mean and each overall IoU, over the expressions that it counts."""
    iou = np.array(samples["iou"], np.float64)
    pairs = np.stack([samples["intersection"], samples["union"]], axis=1).astype(np.float64)
    targets = ~np.array(samples["target_empty"], np.bool_)
    everything = np.ones_like(targets)
    counted = {
        "mIoU": (iou, targets),
        "oIoU": (pairs, targets),
        "gIoU": (iou, everything),
        "cIoU": (pairs, everything),
    }
    return {
        name: bootstrap_interval(values[rows], groups=images[rows].tolist(), empty=empty)
        for name, (values, rows) in counted.items()
        if name in metrics
    }
