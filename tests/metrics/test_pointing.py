from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.metrics.pointing import peak, points_in_box, points_on_mask, whole_box
from refseg.ops.masks import mask_to_box


def test_peak_is_the_first_maximum_in_row_major_order():
    response = np.zeros((3, 4), np.float32)
    assert peak(response) == (0, 0)
    response[1, 3] = response[2, 0] = 0.7
    assert peak(response) == (1, 3)
    response[0, 0] = np.nan
    with pytest.raises(DataError, match="not numbers"):
        peak(response)


def test_box_edges_are_inclusive_after_truncation():
    box = np.array([2.9, 3.0, 2.9 + 4.7, 3.0 + 5.0], np.float32)
    assert whole_box(box) == (2, 3, 6, 8)  # the size is truncated too: 4.7 -> 4
    inside = [(3, 2), (8, 6), (3, 6), (8, 2)]
    outside = [(2, 4), (9, 4), (5, 1), (5, 7)]
    assert all(points_in_box(point, box) for point in inside)
    assert not any(points_in_box(point, box) for point in outside)


@given(st.integers(0, 60_000), st.integers(0, 60_000))
def test_float32_corners_do_not_lose_a_pixel(near, size):
    x, w = near / 100, size / 100  # COCO's two decimals
    box = np.array([x, 0, np.float32(x + w), 1], np.float32)
    left, _, right, _ = whole_box(box)
    assert (left, right - left) == (int(x), int(w))


@given(st.integers(0, 2**31))
def test_on_the_mask_implies_in_its_box(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) > 0.7
    mask[rng.integers(7), rng.integers(9)] = True
    box = mask_to_box(mask)
    for point in np.ndindex(mask.shape):
        assert points_on_mask(point, mask) == mask[point]
        assert not mask[point] or points_in_box(point, box)
