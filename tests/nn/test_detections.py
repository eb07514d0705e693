"""Answers of anchors joined to objects: a plain loop, and what must hold of any answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refseg.errors import ConfigError
from refseg.nn.detections import Found, Joining, join
from refseg.nn.ssd import Detected

CLASSES = 5


def plain(detected: Detected, joining: Joining) -> list[tuple[list[float], list[float]]]:
    """Take the surest, join what is one with it, go on with the rest."""
    left = [
        (tuple(box), tuple(row))
        for box, row in zip(detected.boxes.tolist(), detected.probabilities.tolist(), strict=True)
        if max(row[1:]) >= joining.least and box[2] > box[0] and box[3] > box[1]
    ]
    found = []
    while left and len(found) < joining.most:
        first = max(left, key=lambda one: max(one[1][1:]))
        joined = [one for one in left if together(first, one, joining)]
        left = [one for one in left if one not in joined]
        highest = np.max([row for _, row in joined], axis=0).tolist()
        found.append((list(first[0]), highest))
    return found


def together(a: tuple, b: tuple, joining: Joining) -> bool:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a[0], b[0]
    wide = max(0.0, min(ax1, bx1) - max(ax0, bx0))
    high = max(0.0, min(ay1, by1) - max(ay0, by0))
    whole = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - wide * high
    overlap = wide * high / whole
    same = a[1][1:].index(max(a[1][1:])) == b[1][1:].index(max(b[1][1:]))
    return overlap >= joining.any or (same and overlap >= joining.same)


def answers(seed: int, count: int) -> Detected:
    """Boxes in clusters; all probabilities differ."""
    rng = np.random.default_rng(seed)
    middle = rng.choice([20.0, 50.0, 80.0], (count, 2)) + rng.normal(0, 3, (count, 2))
    half = rng.uniform(5, 15, (count, 2))
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    chances = rng.permutation(count * CLASSES).reshape(count, CLASSES) / (count * CLASSES)
    return Detected(boxes.astype(np.float32), chances.astype(np.float32))


@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(0, 40), st.sampled_from([0.05, 0.5]), st.integers(1, 9),
    st.sampled_from([0.3, 0.6]),
)  # fmt: skip
def test_it_is_the_plain_loop(seed: int, count: int, least: float, most: int, same: float) -> None:
    joining = Joining(least=least, same=same, any=0.7, most=most)
    detected = answers(seed, max(count, 1)) if count else answers(0, 1)
    if not count:
        detected = Detected(detected.boxes[:0], detected.probabilities[:0])
    found = join(detected, joining)
    expected = plain(detected, joining)
    assert len(found) == len(expected)
    if expected:
        np.testing.assert_array_equal(found.boxes, np.array([b for b, _ in expected], np.float32))
        told = np.array([row for _, row in expected], np.float32)
        np.testing.assert_array_equal(found.probabilities, told)
    assert found.boxes.shape == (len(expected), 4)
    assert found.probabilities.shape == (len(expected), CLASSES)


@pytest.mark.parametrize("most", [5, 100, 1000])
def test_hundreds_of_detections_are_joined_and_cut(most: int) -> None:
    joining = Joining(least=0.05, same=0.6, any=0.7, most=most)
    detected = answers(3, 600)
    found, expected = join(detected, joining), plain(detected, joining)
    assert len(found) == len(expected) <= most
    np.testing.assert_array_equal(found.boxes, np.array([b for b, _ in expected], np.float32))


def one(*boxes: tuple[float, ...], classes: NDArray[np.float32] | list[list[float]]) -> Found:
    return join(Detected(np.array(boxes, np.float32), np.array(classes, np.float32)))


def test_two_classes_of_one_thing_are_one_object_in_doubt() -> None:
    """A box that is cat 0.6 to one anchor and dog 0.5 to another."""
    box = (10.0, 10.0, 50.0, 60.0)
    found = one(box, box, classes=[[0, 0.6, 0.2], [0, 0.1, 0.5]])
    assert len(found) == 1
    np.testing.assert_allclose(found.probabilities[0], [0, 0.6, 0.5])


def test_two_of_a_kind_side_by_side_stay_two() -> None:
    found = one((0, 0, 10, 10), (5, 0, 15, 10), classes=[[0, 0.6], [0, 0.5]])
    assert len(found) == 2


def test_nothing_and_what_is_nothing() -> None:
    """Class 0 is "nothing": however sure, it makes no object."""
    found = one((0, 0, 10, 10), (3, 3, 3, 9), classes=[[0.99, 0.01], [0, 0.9]])
    assert len(found) == 0
    assert found.probabilities.shape == (0, 2)


@pytest.mark.parametrize("wrong", [{"least": 0}, {"same": 1.5}, {"any": -1}, {"most": 0}])
def test_numbers_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        Joining(**wrong)  # type: ignore[arg-type]
