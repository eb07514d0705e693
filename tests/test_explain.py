"""Entities in an explanation: a colour a group, with hard borders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg import draw
from refseg.explain import explanation, inner_pictures
from refseg.methods.sag import Sag
from refseg.methods.sag.config import AnswerConfig
from refseg.ops.masks import response_in_px
from refseg.types import Prediction
from tests.methods.sag.toys import sag_config
from tests.methods.toy import toy_model, toy_samples

HW = (300, 500)


def predicted(answer: AnswerConfig | None = None) -> Prediction:
    model = toy_model("sag")
    torch.manual_seed(0)
    model.method = Sag(sag_config(answer=answer or AnswerConfig())).eval()
    return model.predict(toy_samples(1, [HW])[:1])[0]


@pytest.mark.parametrize("count", [3, len(draw.PALETTE), 18])
def test_each_number_has_a_colour_of_its_own(count: int) -> None:
    numbers = np.repeat(np.arange(count), 10)[None].repeat(50, 0)
    picture = draw.regions(np.full((*numbers.shape, 3), 90, np.uint8), numbers)
    factor = picture.shape[1] // numbers.shape[1]
    colours = picture[0, 5 * factor :: 10 * factor]
    assert len(np.unique(colours, axis=0)) == count
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == count, "no blends"
    assert len(draw.captioned(picture, ["groups"])) > len(picture) == 50 * factor


@pytest.mark.parametrize("hw", [(1, 1), (40, 6000)])
def test_small_and_large_pictures_have_overlays_size(hw: tuple[int, int]) -> None:
    image = np.full((*hw, 3), 90, np.uint8)
    picture = draw.regions(image, np.zeros(hw, np.int64))
    assert picture.shape[1] == draw.overlay(image, [], []).shape[1]


def test_an_explanation_shows_response_relevance_entities_the_top_three_and_the_mask() -> None:
    told, image = predicted(), np.full((*HW, 3), 90, np.uint8)
    one = draw.captioned(draw.heated(image, np.zeros(HW, np.float32)), ["response"])
    whole = explanation(image, told)
    assert whole is not None
    assert len(whole) == 7 * len(one)
    shown = inner_pictures(image, told)
    assert [picture.lines for picture in shown] == [
        ("response",), ("relevance",), ("entity 1",), ("entity 2",), ("entity 3",),
        ("entities, a colour a group",),
    ]  # fmt: skip
    colours = np.unique(shown[5].pixels.reshape(-1, 3), axis=0)
    assert len(colours) == len(np.unique(told.maps["entities"]))
    answer = whole[6 * len(one) :]
    mask = draw.overlay(image, [told.mask], [])
    np.testing.assert_array_equal(answer[: len(mask)], mask)
    without = explanation(image, replace(told, maps={}))
    assert without is not None
    assert len(without) == 2 * len(one)


def test_the_top_three_are_the_most_relevant_entities() -> None:
    """Each is drawn over the picture by its share of a patch, stretched."""
    told, image = predicted(), np.full((*HW, 3), 90, np.uint8)
    for place, picture in enumerate(inner_pictures(image, told)[2:5], 1):
        values = told.maps[f"entity_{place}"]
        share = (values - values.min()) / (values.max() - values.min())
        response = response_in_px(share, told.geometry)
        np.testing.assert_array_equal(picture.pixels, draw.heated(image, response))


def test_segments_are_numbers_too() -> None:
    (told, *_) = toy_model("groupvit").predict(toy_samples(1, [HW])[:1])
    numbers = np.arange(told.maps["segments"].size).reshape(told.maps["segments"].shape) % 4
    told = replace(told, maps={**told.maps, "segments": numbers.astype(np.float32)})
    shown = {p.lines[0]: p.pixels for p in inner_pictures(np.full((*HW, 3), 90, np.uint8), told)}
    assert list(shown) == ["won", "segments, a colour each"]
    colours = np.unique(shown["segments, a colour each"].reshape(-1, 3), axis=0)
    assert len(colours) == 4


def test_nothing_there_is_said() -> None:
    told, image = predicted(), np.full((*HW, 3), 90, np.uint8)
    there, nothing = explanation(image, told), explanation(image, replace(told, empty=True))
    assert there is not None
    assert nothing is not None
    assert (there[-60:] != nothing[-60:]).any()
    np.testing.assert_array_equal(there[:-60], nothing[:-60])


def test_what_no_protocol_scores_is_shown_all_the_same() -> None:
    told, cut = predicted(), predicted(AnswerConfig(threshold=0.6))
    assert cut.response is None
    assert told.response is not None
    np.testing.assert_array_equal(cut.maps["response"], told.response)
    image = np.full((*HW, 3), 90, np.uint8)
    for one, other in zip(inner_pictures(image, cut), inner_pictures(image, told), strict=True):
        assert one.lines == other.lines
        np.testing.assert_array_equal(one.pixels, other.pixels)
