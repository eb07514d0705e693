"""Colours that words tell of an object: what stands before any word for a relation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refseg.methods.mutual.colour_words import (
    ANYWHERE,
    LOWER,
    UPPER,
    colours_told,
    told_of_objects,
)
from refseg.ops.colours import COLOURS, ZONES
from tests.methods.mutual.test_detected import batch_of


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("man in red shirt", {(UPPER, "red")}),
        ("Left GREY cat", {(ANYWHERE, "gray")}),
        ("white and black dog", {(ANYWHERE, "white"), (ANYWHERE, "black")}),
        ("black shirt blue jeans", {(UPPER, "black"), (LOWER, "blue")}),
        ("kid next to the blue car", set()),
        ("red bus behind the white one", {(ANYWHERE, "red")}),
        ("man on left in red sweater", {(UPPER, "red")}),
        ("the one on the far right, green", {(ANYWHERE, "green")}),
        ("front red car", {(ANYWHERE, "red")}),
        ("closest red suitcase", {(ANYWHERE, "red")}),
        ("in front of the red car", set()),
        ("boy on red bike", set()),
        ("white guy in purple", {(ANYWHERE, "purple")}),
        ("black woman", set()),
        ("white man shirt", set()),
        ("not the green one", set()),
        ("teal umbrella", {(ANYWHERE, "blue"), (ANYWHERE, "green")}),
        ("redhead, blackboard", set()),
        ("left guy", set()),
        ("", set()),
    ],
)
def test_what_is_told(text: str, told: set[tuple[int, str]]) -> None:
    assert {(zone, COLOURS[row]) for zone, row in colours_told(text)} == told


def test_every_expression_tells_of_its_object() -> None:
    batch = batch_of((0, 1, 2), (0, 1))
    batch = replace(batch, texts=("red shirt", "blue one"), targets=torch.tensor([2, -1]))
    told = told_of_objects(batch, 3)
    assert told.shape == (2, 3, ZONES, len(COLOURS))
    assert torch.nonzero(told).tolist() == [[0, 2, UPPER, COLOURS.index("red")]]
    both = replace(batch, image_of=torch.tensor([0, 0]), targets=torch.tensor([2, 2]))
    rows = torch.nonzero(told_of_objects(both, 3))[:, 2:].tolist()
    assert rows == sorted([[UPPER, COLOURS.index("red")], [ANYWHERE, COLOURS.index("blue")]])
