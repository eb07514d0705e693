from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.ops.boxes import (
    box_area,
    box_giou,
    box_iou,
    boxes_to_net,
    boxes_to_px,
    clip_boxes,
    cxcywh_to_xyxy,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)
from refseg.ops.images import letterbox, resize_square
from refseg.ops.masks import mask_in_net, mask_to_box

boxes = st.lists(
    st.tuples(*[st.integers(0, 40)] * 4).map(
        lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
    ),
    min_size=1,
    max_size=5,
).map(lambda rows: np.array(rows, np.float32))


def iou_by_pixels(a, b):
    canvas = np.zeros((2, 41, 41), bool)
    for layer, (x0, y0, x1, y1) in zip(canvas, (a.astype(int), b.astype(int)), strict=True):
        layer[y0:y1, x0:x1] = True
    union = np.count_nonzero(canvas.any(0))
    return np.count_nonzero(canvas.all(0)) / union if union else 0.0


@given(boxes, boxes)
def test_iou_of_whole_boxes_is_that_of_their_pixels(a, b):
    expected = [[iou_by_pixels(first, second) for second in b] for first in a]
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-12)
    assert np.array_equal(box_iou(a, b), box_iou(b, a).T)


def giou_by_hand(a, b):
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.tolist(), b.tolist()
    inter = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return (inter / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)


@given(boxes, boxes)
def test_giou_equals_the_formula_and_never_exceeds_iou(a, b):
    expected = [[giou_by_hand(first, second) for second in b] for first in a]
    giou = box_giou(a, b)
    np.testing.assert_allclose(giou, expected, atol=1e-12)
    assert (giou <= box_iou(a, b) + 1e-12).all()
    assert (giou >= -1).all()


def test_giou_golden():
    # Two unit boxes with a gap of one between them: hull 3, union 2.
    assert box_giou(np.array([[0, 0, 1, 1]]), np.array([[2, 0, 3, 1]]))[0, 0] == pytest.approx(
        -1 / 3
    )


@given(boxes)
def test_conversions_return(a):
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(a)), a)
    np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(a)), a)
    assert xyxy_to_xywh(a[0]).tolist() == [a[0, 0], a[0, 1], a[0, 2] - a[0, 0], a[0, 3] - a[0, 1]]


def test_degenerate_boxes_have_no_area():
    assert box_area(np.array([[3, 3, 1, 9], [0, 0, 2, 3]])).tolist() == [0, 6]
    assert box_iou(np.zeros((0, 4)), np.ones((2, 4))).shape == (0, 2)


def test_clip():
    box = clip_boxes(np.array([-5.0, 2.0, 30.0, 40.0]), (10, 20))
    assert box.dtype == np.float32
    assert box.tolist() == [0, 2, 20, 10]


@given(boxes, st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_net_and_back(a, height, width, square):
    into = resize_square if square else letterbox
    _, geometry = into(np.zeros((height, width, 3), np.uint8), (64, 48))
    np.testing.assert_allclose(boxes_to_px(boxes_to_net(a, geometry), geometry), a, atol=1e-4)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3))
def test_a_box_moves_with_its_mask(height, width, top, left):
    mask = np.zeros((height + 5, width + 5), bool)
    mask[top : top + height, left : left + width] = True
    for into in (resize_square, letterbox):
        _, geometry = into(np.zeros((*mask.shape, 3), np.uint8), (100, 75))
        moved = boxes_to_net(mask_to_box(mask), geometry)
        found = mask_to_box(mask_in_net(mask, geometry))
        assert np.abs(moved - found).max() <= 0.5 + 1e-4  # a net pixel belongs to its centre
