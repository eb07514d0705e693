"""Colours that words tell of an object: what stands before any word for a relation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refseg.methods.mutual.colour_words import colours_told, told_of_objects
from refseg.ops.colours import COLOURS
from tests.methods.mutual.test_detected import batch_of


@pytest.mark.parametrize(
    ("text", "colours"),
    [
        ("man in red shirt", {"red"}),
        ("Left GREY cat", {"gray"}),
        ("white and black dog", {"white", "black"}),
        ("kid next to the blue car", set()),
        ("red bus behind the white one", {"red"}),
        ("not the green one", set()),
        ("teal umbrella", {"blue", "green"}),
        ("redhead, blackboard", set()),
        ("left guy", set()),
        ("", set()),
    ],
)
def test_what_is_told(text: str, colours: set[str]) -> None:
    assert {COLOURS[row] for row in colours_told(text)} == colours


def test_every_expression_tells_of_its_object() -> None:
    batch = batch_of((0, 1, 2), (0, 1))
    batch = replace(batch, texts=("red shirt", "blue one"), targets=torch.tensor([2, -1]))
    told = told_of_objects(batch, 3)
    assert told.shape == (2, 3, len(COLOURS))
    assert torch.nonzero(told).tolist() == [[0, 2, COLOURS.index("red")]]
    both = replace(batch, image_of=torch.tensor([0, 0]), targets=torch.tensor([2, 2]))
    assert torch.nonzero(told_of_objects(both, 3))[:, 2].tolist() == sorted(
        (COLOURS.index("red"), COLOURS.index("blue"))
    )
