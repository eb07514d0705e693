"""Entities in an explanation: a colour a group, with hard borders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from refseg import draw
from refseg.explain import explanation
from refseg.methods.sag import Sag
from refseg.methods.sag.config import AnswerConfig
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
    picture = draw.regions(np.full((*numbers.shape, 3), 90, np.uint8), numbers, "groups")
    factor = picture.shape[1] // numbers.shape[1]
    colours = picture[0, 5 * factor :: 10 * factor]
    assert len(np.unique(colours, axis=0)) == count
    assert len(np.unique(picture[: 50 * factor].reshape(-1, 3), axis=0)) == count, "no blends"
    assert len(picture) > 50 * factor, "the words are below"


@pytest.mark.parametrize("hw", [(1, 1), (40, 6000)])
def test_small_and_large_pictures_have_overlays_size(hw: tuple[int, int]) -> None:
    image = np.full((*hw, 3), 90, np.uint8)
    picture = draw.regions(image, np.zeros(hw, np.int64), "one")
    assert picture.shape[1] == draw.overlay(image, [], []).shape[1]


def test_an_explanation_shows_response_relevance_entities_and_the_top_three() -> None:
    told, image = predicted(), np.full((*HW, 3), 90, np.uint8)
    one = draw.heats(image, {"response": np.zeros(HW, np.float32)})
    whole = explanation(image, told)
    assert whole is not None
    assert len(whole) == 6 * len(one)
    groups = whole[5 * len(one) :]
    colours = np.unique(groups[: len(one) - 60].reshape(-1, 3), axis=0)
    shown = set(np.unique(told.maps["entities"]).astype(int).tolist())
    assert len(colours) == len(shown)
    without = explanation(image, replace(told, maps={}))
    assert without is not None
    assert len(without) == len(one)


def test_what_no_protocol_scores_is_shown_all_the_same() -> None:
    told, cut = predicted(), predicted(AnswerConfig(threshold=0.6))
    assert cut.response is None
    assert told.response is not None
    np.testing.assert_array_equal(cut.maps["response"], told.response)
    image = np.full((*HW, 3), 90, np.uint8)
    np.testing.assert_array_equal(explanation(image, cut), explanation(image, told))
