"""Comprehension among annotated objects: does an expression pick the object that is meant?

    report = evaluate_objects(load(model), open_data(folder, "testA", labels, objects=True))
    report.metrics["accuracy"], report.intervals["accuracy"]

What published code calls accuracy on ground-truth boxes: the method is told where all objects of
the image are and has to choose one. No mask is compared, so data without pixels will do. It is
another, easier task than segmentation, and its numbers stand beside none of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.errors import DataError
from refseg.evaluate import Options, as_asked, count_expressions, packed, read_ahead
from refseg.metrics.meter import bootstrap_interval
from refseg.types import Objects, Sample

PROTOCOL = "annotated objects"


class Chooses(Protocol):
    """What is evaluated: a `Model` whose proposals are the annotated objects, or the like."""

    name: str
    card: dict[str, Any]

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Per sample [K] float32: how well its words fit each object; -inf: it cannot be meant."""


@dataclass(frozen=True)
class ObjectsReport:
    """One model's choices among the annotated objects of a split.

    labels: what the model learned from. n: expressions. absent: of these, how many mean none or
    several of the objects; they count as wrong. rivals: how many stand in an image with another
    object of the target's category. metrics: fractions in 0..1: accuracy; chance, that of a blind
    draw; accuracy with rivals, over those expressions. intervals: 95 %, images drawn as wholes.
    samples: per expression, sorted by key: key, image_id, target, chosen (rows among the objects,
    -1 for none), objects (their number), rival, hit. text: how the expressions were changed.
    """

    model: str
    data: str
    split: str
    labels: str
    n: int
    absent: int
    rivals: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, list[Any]] = field(default_factory=dict, repr=False)
    text: str = "as written"
    protocol: str = PROTOCOL

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the single samples."""
        names = ("model", "data", "split", "protocol", "labels", "n", "absent", "rivals", "text")
        intervals = {name: list(pair) for name, pair in self.intervals.items()}
        told = {name: getattr(self, name) for name in names}
        return {**told, "metrics": dict(self.metrics), "intervals": intervals}


class _Choice(NamedTuple):
    """One row of `ObjectsReport.samples`; rival is None where categories are not granted."""

    key: str
    image_id: int
    target: int
    chosen: int
    objects: int
    rival: bool | None
    hit: bool


def evaluate_objects(
    model: Chooses, dataset: ReferDataset, *, options: Options | None = None
) -> ObjectsReport:
    """How often the object that the model scores highest is the one that is meant.

    dataset: opened with its objects; with the label "category" the harder half, expressions with
    a rival of the target's category, is reported too. Of options all but keep and mask_rule
    apply. Of objects with equal scores the first counts as chosen.
    Raises DataError (no expression, opened without objects, scores that are not numbers).
    """
    options = options or Options()
    if count_expressions(dataset, options) == 0:
        raise DataError(
            f"{dataset.name}: split {dataset.split} holds no expression", remedy="another --split"
        )
    choices: list[_Choice] = []
    batches = packed(dataset.groups_by_image(), options.batch_size, options.limit)
    for samples in read_ahead(dataset.samples, batches):
        _check_objects(samples)
        asked = [as_asked(sample, options) for sample in samples]
        found = model.scores(asked)
        choices += [_choice(s, scores) for s, scores in zip(samples, found, strict=True)]
        if options.progress is not None:
            options.progress(len(samples))
    return _report(model, dataset, options.text, sorted(choices))


def _check_objects(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.objects is None:
            raise DataError(
                f"expression {sample.key} comes without the objects of its image",
                remedy="open the data with open_data(..., objects=True)",
            )


def _choice(sample: Sample, scores: NDArray[np.float32]) -> _Choice:
    objects = sample.objects
    assert objects is not None
    if scores.shape != (len(objects),) or not (scores < np.inf).all():
        raise DataError(
            f"expression {sample.key}: the scores of its {len(objects)} objects are not "
            f"{len(objects)} numbers",
            remedy="did the model diverge?",
        )
    target = -1 if sample.target is None else sample.target
    chosen = int(scores.argmax()) if (scores > -np.inf).any() else -1
    hit = sample.target is not None and chosen == target
    rival = _has_rival(objects, sample.target)
    return _Choice(sample.key, sample.image_id, target, chosen, len(objects), rival, hit)


def _has_rival(objects: Objects, target: int | None) -> bool | None:
    """Whether another object is of the target's category; None if categories are unknown."""
    if objects.categories is None:
        return None
    return target is not None and objects.categories.count(objects.categories[target]) > 1


def _report(
    model: Chooses, dataset: ReferDataset, text: str, choices: list[_Choice]
) -> ObjectsReport:
    columns = dict(zip(_Choice._fields, map(list, zip(*choices, strict=True)), strict=True))
    absent = sum(one.target < 0 for one in choices)
    by_chance = sum(1 / one.objects for one in choices if one.target >= 0)
    metrics, intervals = {}, {}
    rivals = [one for one in choices if one.rival]
    for name, counted in (("accuracy", choices), ("accuracy with rivals", rivals)):
        if counted:
            hits = np.array([one.hit for one in counted], np.float64)
            images = [one.image_id for one in counted]
            metrics[name] = float(hits.mean())
            intervals[name] = bootstrap_interval(hits, groups=images)
    metrics["chance"] = by_chance / len(choices)
    return ObjectsReport(
        model.name,
        dataset.name,
        dataset.split,
        str(model.card.get("labels used", "unknown")),
        len(choices),
        absent,
        len(rivals),
        metrics,
        intervals,
        columns,
        text,
    )
