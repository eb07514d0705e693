"""Average precision against a loop, and where its value is known."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.errors import DataError
from refseg.metrics.ranking import average_precision


def literal(scores: list[float], right: list[bool]) -> float:
    """The definition, row by row."""
    shares = []
    for mine, good in zip(scores, right, strict=True):
        if good:
            above = [other for score, other in zip(scores, right, strict=True) if score >= mine]
            shares.append(sum(above) / len(above))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("levels", [4, 1000])
def test_it_is_its_loop(levels: int) -> None:
    """With few levels many rows share a score."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores = rng.integers(0, levels, 40) / levels
        right = rng.random(40) < 0.3
        right[0] = True
        found = average_precision(scores, right)
        assert found == pytest.approx(literal(scores.tolist(), right.tolist()))


def test_known_values() -> None:
    right = np.array([True, True, False, False])
    assert average_precision(np.array([4.0, 3, 2, 1]), right) == 1
    assert average_precision(np.array([1.0, 2, 3, 4]), right) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(np.zeros(4), right) == 0.5  # nothing said: the share of right rows
    assert average_precision(np.zeros(4), np.zeros(4, bool)) is None


@pytest.mark.parametrize("scores", [np.array([1.0, np.nan]), np.zeros(3)])
def test_what_cannot_be_ranked_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot be ranked"):
        average_precision(scores, np.array([True, False]))
