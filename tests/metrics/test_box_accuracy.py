from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.metrics.boxes import box_hit, paired_box_iou, rec_accuracy
from refseg.ops.boxes import box_iou

boxes = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).uniform(0, 9, (2, 6, 4)).astype(np.float32)
)


@given(boxes)
def test_pairs_are_the_diagonal_of_all_pairs(pair):
    a, b = pair
    np.testing.assert_allclose(paired_box_iou(a, b), np.diag(box_iou(a, b)), atol=1e-12)


def test_exactly_one_half_is_a_hit_only_when_inclusive():
    target, half = np.array([0, 0, 4, 4]), np.array([0, 0, 2, 4])
    assert paired_box_iou(half, target)[0] == 0.5
    assert not box_hit(half, target)
    assert box_hit(half, target, inclusive=True)
    assert box_hit(half, target, threshold=0.49)
    assert not box_hit(None, target, inclusive=True)


def test_accuracy_is_the_share_of_hits():
    target = np.tile(np.array([0, 0, 4, 4]), (4, 1))
    predicted = np.array([[0, 0, 4, 4], [0, 0, 2, 4], [0, 0, 3, 4], [5, 5, 6, 6]])
    assert rec_accuracy(predicted, target) == 0.5
    assert rec_accuracy(predicted, target, inclusive=True) == 0.75
    for strict in (True, False):
        hits = [box_hit(p, t, inclusive=strict) for p, t in zip(predicted, target, strict=True)]
        assert rec_accuracy(predicted, target, inclusive=strict) == np.mean(hits)


def test_counts_must_agree_and_not_be_zero():
    with pytest.raises(DataError, match="2 predicted boxes but 1"):
        paired_box_iou(np.zeros((2, 4)), np.zeros((1, 4)))
    with pytest.raises(DataError, match="no box"):
        rec_accuracy(np.zeros((0, 4)), np.zeros((0, 4)))
