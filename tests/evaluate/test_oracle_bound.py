"""The oracle bound: candidates against a loop, resized once an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from refseg.data.catalog import open_data
from refseg.errors import DataError
from refseg.evaluate import evaluate, evaluate_all
from refseg.metrics import oracle
from refseg.metrics.oracle import OracleBound, best_iou
from refseg.types import Geometry, Labels, Prediction, Sample

LABELS = Labels.parse("text+box+mask")
PADDED = Geometry((30, 60), (32, 32), (32 / 60, 32 / 60), (0.0, 8.0))  # content rows 8 to 24


def blobs(count: int, hw: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth random probabilities [count, h, w]."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [cv2.resize(rng.random((4, 4), np.float32), (hw[1], hw[0])) for _ in range(count)]
    ).reshape(count, *hw)


class Proposes:
    """Answers with one of a few candidates, the same for all expressions about an image."""

    def __init__(self, count: int = 5) -> None:
        self.name, self.card, self.count = "proposes", {}, count

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        shared: dict[int, np.ndarray] = {}
        return [self._answer(s, shared) for s in samples]

    def _answer(self, sample: Sample, shared: dict[int, np.ndarray]) -> Prediction:
        height, width = sample.image.shape[:2]
        geometry = Geometry((height, width), (64, 64), (64 / width, 64 / height))
        found = shared.setdefault(sample.image_id, blobs(self.count, (32, 32), sample.image_id))
        chosen = found[len(sample.text) % self.count]
        mask = cv2.resize(chosen, (width, height)) > 0.5
        return Prediction(mask, 0.5, geometry, chosen, candidates=found)


def plain_best(candidates: np.ndarray, target: np.ndarray, rows: slice = slice(None)) -> float:
    """One by one: each candidate cut to the image's rows, stretched, thresholded, counted."""
    best = 0.0
    for one in candidates:
        mask = cv2.resize(one[rows], target.shape[::-1]) > 0.5
        either = int((mask | target).sum())
        best = max(best, int((mask & target).sum()) / either if either else 0.0)
    return best


@pytest.mark.parametrize("held", [1, 1 << 26])
def test_best_iou_equals_a_loop(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "_BYTES", held)
    candidates = blobs(4, (32, 32), 0)
    targets = blobs(3, (30, 60), 1) > 0.5
    expected = [plain_best(candidates, target, slice(8, 24)) for target in targets]
    assert best_iou(candidates, PADDED, targets).tolist() == pytest.approx(expected)
    assert len(set(expected)) == 3


def test_the_bound_of_an_evaluation_equals_a_loop() -> None:
    data = open_data("scenes", "val", LABELS)
    best = []
    for index in range(len(data)):
        sample = data[index]
        best.append(plain_best(blobs(5, (32, 32), sample.image_id), sample.mask))
    for batch_size in (1, 32):
        metrics = evaluate(Proposes(), data, batch_size=batch_size).metrics
        assert metrics["oracle"] == pytest.approx(np.mean(best))
        assert metrics["oracle Pr@0.5"] == np.mean(np.array(best) > 0.5)
        assert metrics["oracle"] >= metrics["mIoU"] > 0


def test_every_protocol_is_given_the_bound() -> None:
    data = open_data("scenes", "val", LABELS)
    first, second, third = evaluate_all(Proposes(), data, ["original", "lavt-480", "cris-035"])
    assert first.metrics["oracle"] == third.metrics["oracle"]
    assert "oracle" in second.metrics


def test_methods_without_candidates_have_no_bound() -> None:
    class Plain(Proposes):
        def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
            return [replace(p, candidates=None) for p in super().predict(samples)]

    data = open_data("scenes", "val", LABELS)
    assert not any(name.startswith("oracle") for name in evaluate(Plain(), data).metrics)


def test_candidates_of_an_image_are_resized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any) -> np.ndarray:
        calls.append(args)
        return real(*args)

    real = oracle.response_to_mask
    monkeypatch.setattr(oracle, "response_to_mask", counted)
    data = open_data("scenes", "val", LABELS)
    evaluate(Proposes(), data, batch_size=10_000)
    assert len(calls) == 5 * len(data.groups_by_image()) < 5 * len(data)


def prediction(candidates: np.ndarray | None, geometry: Geometry = PADDED) -> Prediction:
    return Prediction(np.zeros(geometry.original_hw, bool), 0.0, geometry, candidates=candidates)


def test_no_proposal_at_all_covers_nothing() -> None:
    bound, target = OracleBound(), np.ones((30, 60), bool)
    assert bound.result() == {}
    bound.add(prediction(np.zeros((0, 32, 32), np.float32)), target)
    bound.add(prediction(np.ones((1, 32, 32), np.float32)), target)
    bound.add(prediction(np.ones((1, 32, 32), np.float32)), None)  # means nothing: left out
    assert bound.result() == {"oracle": 0.5, "oracle Pr@0.5": 0.5}


def test_half_covered_is_not_above_half() -> None:
    bound, target = OracleBound(), np.zeros((30, 60), bool)
    target[:15] = True
    bound.add(prediction(np.ones((1, 32, 32), np.float32)), target)
    assert bound.result() == {"oracle": 0.5, "oracle Pr@0.5": 0.0}


def test_one_array_in_two_geometries_is_two_sets_of_candidates() -> None:
    one = np.zeros((1, 32, 32), np.float32)
    one[:, :16] = 1
    square = Geometry((30, 60), (32, 32), (32 / 60, 32 / 30))
    target = np.zeros((30, 60), bool)
    target[:15] = True
    alone = []
    for geometry in (PADDED, square):
        bound = OracleBound()
        bound.add(prediction(one, geometry), target)
        alone.append(bound.result()["oracle"])
    both = OracleBound()
    both.add(prediction(one, PADDED), target)
    both.add(prediction(one, square), target)
    assert both.result()["oracle"] == pytest.approx(np.mean(alone))


def test_a_target_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="different shapes"):
        best_iou(np.ones((1, 32, 32), np.float32), PADDED, np.ones((1, 60, 30), bool))
