"""The projection score of a mask against a box: the literal formula, and its closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refseg.errors import DataError
from refseg.ops.projection import projection_score

#: A box 200 px wide and high; the paper keeps what scores below its threshold.
SIDE, BOX, PAPER = 400, (100, 100, 300, 300), 0.1

hws = st.tuples(st.integers(1, 12), st.integers(1, 12))
edges = st.floats(-4, 16)


def filled(box, hw=(SIDE, SIDE)):
    """[H, W] bool, edges cut to integers, clipped to the image by counting pixels."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    mask = np.zeros(hw, bool)
    for row in range(hw[0]):
        for column in range(hw[1]):
            mask[row, column] = x0 <= column < x1 and y0 <= row < y1
    return mask


def centred(width, height):
    mask = np.zeros((SIDE, SIDE), bool)
    x0, y0 = (SIDE - width) // 2, (SIDE - height) // 2
    mask[y0 : y0 + height, x0 : x0 + width] = True
    return mask


def literal(mask, box):
    """The formula as the paper's code has it."""

    def apart(a, c):
        return 1 - 2 * (a * c).sum() / ((a**2).sum() + (c**2).sum() + 1e-5)

    m, b = mask.astype(float), filled(box, mask.shape).astype(float)
    return apart(m.max(axis=0), b.max(axis=0)) + apart(m.max(axis=1), b.max(axis=1))


@st.composite
def pairs(draw):
    """A mask, and a box that may be empty, turned round, or outside."""
    mask = draw(arrays(np.bool_, draw(hws), fill=st.nothing()))
    return mask, np.array(draw(st.tuples(edges, edges, edges, edges)), np.float32)


@given(pairs())
def test_is_the_literal_formula(pair):
    mask, box = pair
    score = projection_score(mask, box)
    assert score == pytest.approx(literal(mask, box), abs=1e-12)
    assert type(score) is float
    assert 0 <= score <= 2


@given(pairs())
def test_mirrored_and_turned_alike(pair):
    mask, box = pair
    x0, y0, x1, y1 = np.trunc(box)
    score, width = projection_score(mask, np.trunc(box)), mask.shape[1]
    assert projection_score(mask[:, ::-1], [width - x1, y0, width - x0, y1]) == score
    assert projection_score(mask.T, [y0, x0, y1, x1]) == pytest.approx(score, abs=1e-12)


@given(hws, st.data())
def test_the_filled_box_is_perfect(hw, data):
    (x0, x1), (y0, y1) = (
        sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in hw[::-1]
    )
    box = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
    assert projection_score(filled(box, hw), np.array(box)) == pytest.approx(0, abs=1e-5)


# -- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [20, 100, 164, 180, 182, 198, 200])
def test_a_share_of_both_axes(length):
    a = length / 200
    score = projection_score(centred(length, length), BOX)
    assert score == pytest.approx(2 * (1 - a) / (1 + a), abs=1e-6)


@pytest.mark.parametrize(("thousandths", "kept"), [(905, True), (900, False)])
def test_the_threshold_on_both_axes(thousandths, kept):
    mask = np.zeros((2000, 2000), bool)
    mask[500 : 500 + thousandths, 500 : 500 + thousandths] = True
    score = projection_score(mask, (500, 500, 1500, 1500))
    assert (score < PAPER) is kept


def test_the_threshold_with_one_axis_exact():
    """(1 - a) / (1 + a) is 0.1 at a = 9 / 11."""
    scores = {a: projection_score(centred(200, a), BOX) for a in (162, 164)}
    assert scores[164] < PAPER < scores[162]
    assert 162 / 200 < 9 / 11 < 164 / 200


@pytest.mark.parametrize(("shift", "kept"), [(9, True), (12, False)])
def test_a_shift_of_both_axes(shift, kept):
    score = projection_score(np.roll(centred(200, 200), (shift, shift), (0, 1)), BOX)
    assert score == pytest.approx(2 * shift / 200, abs=1e-6)
    assert (score < PAPER) is kept


def test_only_tightness_counts():
    """An inscribed ellipse misses the corners, a cross nearly all, and both fit."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ellipse = ((x - 200) / 100) ** 2 + ((y - 200) / 100) ** 2 < 1  # one column and row short
    assert projection_score(ellipse, BOX) == pytest.approx(0.005, abs=5e-4)
    cross = centred(200, 2) | centred(2, 200)
    assert projection_score(cross, BOX) == pytest.approx(0, abs=1e-6)


def test_nothing_and_elsewhere_are_worst():
    assert projection_score(np.zeros((9, 9), bool), (1, 1, 5, 5)) == 2
    assert projection_score(np.ones((9, 9), bool), (5, 5, 5, 9)) == 2
    assert projection_score(filled((0, 0, 3, 3), (9, 9)), (5, 5, 9, 9)) == 2


def test_a_box_that_is_not_known():
    with pytest.raises(DataError, match="not finite"):
        projection_score(np.ones((9, 9), bool), np.array([0, 0, np.nan, 9], np.float32))
