"""Names of colours: what anybody would call them, and shares by counting."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.ops.colours import (
    BLACK,
    COLOURS,
    DARK,
    GRAYISH,
    MEANINGS,
    VOTERS,
    WHITE,
    _survey,
    colour_names,
    colour_shares,
    colour_zones,
)


def named(rgb: tuple[int, int, int]) -> str:
    return COLOURS[int(colour_names(np.array(rgb, np.uint8)))]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"), ((40, 40, 45), "black"), ((128, 128, 128), "gray"),
        ((240, 240, 235), "white"), ((200, 30, 30), "red"), ((120, 20, 25), "red"),
        ((230, 120, 30), "orange"), ((240, 220, 60), "yellow"), ((60, 90, 50), "green"),
        ((20, 160, 60), "green"), ((30, 40, 90), "blue"), ((120, 150, 200), "blue"),
        ((130, 60, 150), "purple"), ((235, 150, 190), "pink"), ((90, 60, 40), "brown"),
        ((150, 105, 80), "brown"), ((70, 80, 60), "gray"),
    ],
)  # fmt: skip
def test_what_anybody_would_say(rgb: tuple[int, int, int], name: str) -> None:
    assert named(rgb) == name


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_table_is_what_the_nearest_say(seed: int) -> None:
    """A colour in the middle of its cell, looked up one by one."""
    rgb = np.random.default_rng(seed).integers(0, 32, 3) * 8 + 4
    lab = cv2.cvtColor((rgb / 255).astype(np.float32)[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    points, terms = _survey()
    if lab[0] < DARK:
        wanted = "black"
    elif np.hypot(lab[1], lab[2]) < GRAYISH:
        wanted = "black" if lab[0] < BLACK else "white" if lab[0] > WHITE else "gray"
    else:
        near = sorted(
            (float(((lab - p) ** 2).sum()), int(t)) for p, t in zip(points, terms, strict=True)
        )
        votes = dict.fromkeys(range(len(COLOURS)), 0.0)
        for apart, term in near[:VOTERS]:
            votes[term] += 1 / apart
        wanted = COLOURS[max(votes, key=lambda term: votes[term])]
    assert named(tuple(rgb.tolist())) == wanted


def test_shares_of_a_mask() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 2:4] = (220, 20, 20)
    image[:, 4:] = (250, 250, 250)
    names = colour_names(image)
    mask = np.zeros((4, 6), bool)
    mask[:2, 1:] = True  # two of black, four of red, four of white
    shares = colour_shares(names, mask)
    told = {COLOURS[i]: float(share) for i, share in enumerate(shares) if share}
    assert told == pytest.approx({"black": 0.2, "red": 0.4, "white": 0.4})
    assert not colour_shares(names, np.zeros((4, 6), bool)).any()


def test_halves_of_a_mask() -> None:
    image = np.zeros((7, 4, 3), np.uint8)
    image[:3] = (220, 20, 20)
    mask = np.zeros((7, 4), bool)
    mask[1:6, :2] = True  # rows 1 to 5: the upper half is 1 to 3, the lower 4 and 5
    whole, upper, lower = colour_zones(colour_names(image), mask)
    red, black = COLOURS.index("red"), COLOURS.index("black")
    assert (whole[red], whole[black]) == pytest.approx((0.4, 0.6))
    assert (upper[red], upper[black]) == pytest.approx((2 / 3, 1 / 3))
    assert (lower[red], lower[black]) == pytest.approx((0, 1))
    assert not colour_zones(colour_names(image), np.zeros((7, 4), bool)).any()
    thin = np.zeros((7, 4), bool)
    thin[2] = True
    assert colour_zones(colour_names(image), thin).sum(axis=1).tolist() == [1, 1, 0]


def test_every_term_has_examples_and_every_word_a_term() -> None:
    _, terms = _survey()
    assert set(terms.tolist()) == set(range(len(COLOURS)))
    assert {term for meant in MEANINGS.values() for term in meant} == set(COLOURS)
