"""Comprehension among annotated objects against loops that count the plain way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refseg.data.catalog import open_data
from refseg.errors import DataError
from refseg.evaluate import Options
from refseg.evaluate_objects import evaluate_objects
from refseg.types import Labels
from tests.evaluate.fakes import LABELS, Chooser, Refs, by_letters, opened, write_refer

IMAGE_OF = {1: 10, 2: 10, 3: 11, 4: 11, 5: 12, 6: 11}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Targets that are one object, several, none of them (a crowd) and the only one there is."""
    refs: Refs = [
        (1, "val", ["left bus", "the bus"]),
        ([3, 4], "val", ["both"]),
        (6, "val", ["the crowd"]),
        (3, "val", ["first bus"]),
        (5, "val", ["the only bus"]),
    ]
    return write_refer(tmp_path / "odd", IMAGE_OF, refs, crowds=[6])


def test_accuracy_equals_a_plain_loop() -> None:
    data = opened("scenes", "train")  # the larger split: not every image has a rival
    hits, chance, rivals = [], [], []
    for index in range(len(data)):
        sample = data[index]
        scores = by_letters(sample)
        best = max(range(len(scores)), key=lambda row: scores[row])
        hits.append(best == sample.target)
        chance.append(1 / len(scores))
        names = list(sample.objects.categories)
        name = names.pop(sample.target)
        rivals.append(name in names)
    report = evaluate_objects(Chooser(by_letters), data)
    assert (report.n, report.absent, report.rivals) == (len(data), 0, sum(rivals))
    assert report.metrics["accuracy"] == np.mean(hits)
    assert report.metrics["chance"] == pytest.approx(np.mean(chance))
    hard = [hit for hit, rival in zip(hits, rivals, strict=True) if rival]
    assert 0 < len(hard) < len(hits)
    assert report.metrics["accuracy with rivals"] == np.mean(hard)
    for name in ("accuracy", "accuracy with rivals"):
        low, high = report.intervals[name]
        assert low <= report.metrics[name] <= high


def test_who_knows_the_target_is_always_right() -> None:
    data = opened("scenes")
    target = {data[i].key: data[i].target for i in range(len(data))}
    knowing = Chooser(lambda s: [float(row == target[s.key]) for row in range(len(s.objects))])
    assert evaluate_objects(knowing, data).metrics["accuracy"] == 1


def test_targets_that_are_no_single_object_count_as_wrong(odd: Path) -> None:
    first = Chooser(lambda sample: [-row for row in range(len(sample.objects))])
    report = evaluate_objects(first, opened(odd))
    assert (report.n, report.absent) == (6, 2)
    # Annotations 1, 3 and 5 are the first of their images; "both" and the crowd are not.
    assert report.metrics["accuracy"] == pytest.approx(4 / 6)
    assert report.metrics["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1) / 6)
    assert report.rivals == 3
    assert report.metrics["accuracy with rivals"] == 1


def test_an_image_without_objects_is_a_miss(tmp_path: Path) -> None:
    refs: Refs = [(1, "val", ["a crowd"]), (2, "val", ["a bus"])]
    data = opened(write_refer(tmp_path / "crowd", {1: 10, 2: 11}, refs, crowds=[1]))
    report = evaluate_objects(Chooser(by_letters), data)
    assert report.samples["chosen"] == [-1, 0]
    assert report.metrics["accuracy"] == 0.5


def test_what_cannot_be_meant_is_not_chosen(odd: Path) -> None:
    report = evaluate_objects(
        Chooser(lambda s: [-np.inf] + [0.0] * (len(s.objects) - 1)), opened(odd)
    )
    # Second of two; the only object of its image cannot be meant, so none is.
    assert sorted(set(report.samples["chosen"])) == [-1, 1]
    assert report.metrics["accuracy"] == 0


def test_the_model_sees_the_objects_but_not_which_is_meant() -> None:
    model = Chooser(by_letters)
    evaluate_objects(model, opened("scenes"))
    for sample in model.shown:
        assert len(sample.objects) > 1
        assert sample.target is None
        assert sample.box_xyxy is None
        assert sample.category is None
        assert sample.mask is None


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_batches_change_nothing(batch_size: int) -> None:
    model, steps = Chooser(by_letters), []
    options = Options(batch_size=batch_size, progress=steps.append)
    report = evaluate_objects(model, opened("scenes"), options=options)
    plain = evaluate_objects(Chooser(by_letters), opened("scenes"))
    assert (report.metrics, report.samples) == (plain.metrics, plain.samples)
    assert max(model.calls) <= batch_size
    assert sum(steps) == report.n


def test_limit_and_perturbed_words() -> None:
    model = Chooser(by_letters)
    options = Options(limit=3, perturb=lambda text, rng: text.upper(), text="loud")
    report = evaluate_objects(model, opened("scenes"), options=options)
    assert (report.n, report.text) == (3, "loud")
    assert all(sample.text == sample.text.upper() for sample in model.shown)


@pytest.mark.parametrize(
    "scores", [lambda s: [float("nan")] * len(s.objects), lambda s: [0.0] * (len(s.objects) + 1)]
)
def test_scores_that_are_none_are_refused(scores) -> None:
    with pytest.raises(DataError, match="scores of its"):
        evaluate_objects(Chooser(scores), opened("scenes"))


def test_data_without_objects_is_refused() -> None:
    data = open_data("scenes", "val", LABELS, pixels=False)
    with pytest.raises(DataError, match="without the objects"):
        evaluate_objects(Chooser(by_letters), data)


def test_without_categories_there_are_no_rivals() -> None:
    data = open_data("scenes", "val", Labels.parse("text+box"), objects=True, pixels=False)
    report = evaluate_objects(Chooser(by_letters), data)
    assert report.rivals == 0
    assert "accuracy with rivals" not in report.metrics


def test_the_report_is_json(odd: Path) -> None:
    told = json.loads(json.dumps(evaluate_objects(Chooser(by_letters), opened(odd)).to_json()))
    assert (told["protocol"], told["n"], told["absent"]) == ("annotated objects", 6, 2)
    assert set(told["metrics"]) == {"accuracy", "accuracy with rivals", "chance"}


@pytest.mark.data
def test_real_boxes_are_chosen_by_chance_without_words(shared_data: Path) -> None:
    """Chance by the formula is what a blind draw reaches, within its own spread."""
    data = open_data(shared_data / "refcoco_boxes" / "refcoco", "testA", LABELS, objects=True,
                     pixels=False)  # fmt: skip
    report = evaluate_objects(
        Chooser(by_letters), data, options=Options(limit=2000, batch_size=500)
    )
    spread = np.sqrt(report.metrics["chance"] * (1 - report.metrics["chance"]) / report.n)
    assert abs(report.metrics["accuracy"] - report.metrics["chance"]) < 4 * spread
    assert report.n == 2000
