"""From probabilities in the net frame to masks, scores and maps in px."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refseg.methods.vega.decode import decode
from refseg.methods.vega.model import VegaOutputs
from refseg.ops.masks import response_to_mask
from refseg.types import Prediction
from tests.methods.toy import SIDE, toy_batch, toy_samples


def decoded(probability: torch.Tensor, fit: str = "square") -> list[Prediction]:
    batch = toy_batch(toy_samples(1, [(40, 100)]), fit=fit)
    return decode(probability, None, (1, 1), batch)


def test_above_a_half_is_inside() -> None:
    probability = torch.zeros(2, SIDE, SIDE)
    probability[0, :, SIDE // 2 :] = 0.51
    probability[1, :, SIDE // 2 :] = 0.5
    first, second = decoded(probability)
    assert first.mask[:, 51:].all()
    assert not first.mask[:, :49].any()
    assert not second.mask.any(), "a half is not above a half"
    assert second.score == 0
    assert first.score == pytest.approx(0.51, abs=0.01)


def test_the_score_is_the_mean_inside_the_mask_in_px() -> None:
    torch.manual_seed(0)
    probability = torch.nn.functional.interpolate(
        torch.rand(1, 2, 6, 6), (SIDE, SIDE), mode="bicubic"
    )[0].clamp(0, 1)
    for prediction in decoded(probability):
        assert prediction.response is not None
        finer = response_to_mask(prediction.response, prediction.geometry, threshold=0.5)
        np.testing.assert_array_equal(prediction.mask, finer)
        assert 0.5 < prediction.score < 1


def test_the_padding_of_a_letterbox_counts_for_nothing() -> None:
    """The picture fills the middle rows; the network may say anything above and below."""
    probability = torch.zeros(2, SIDE, SIDE)
    probability[:, : SIDE // 4] = 1.0
    probability[1, SIDE // 2 - 5 : SIDE // 2 + 5, 20:40] = 0.8
    empty, found = decoded(probability, "letterbox")
    assert not empty.mask.any()
    assert empty.score == 0
    assert found.mask.any()
    assert found.score == pytest.approx(0.8, abs=0.05)


def test_responses_cover_the_net_whatever_the_resolution() -> None:
    coarse = torch.zeros(2, 4, 4)
    coarse[:, 1:3, 1:3] = 1.0
    prediction = decoded(coarse)[0]
    assert prediction.response is not None
    assert prediction.response.shape == (SIDE, SIDE)
    assert prediction.mask.shape == (40, 100)
    assert prediction.mask.mean() == pytest.approx(0.25, abs=0.06)


def test_maps_lie_on_their_own_grid() -> None:
    batch = toy_batch(toy_samples(1))
    scores = torch.arange(12.0).view(2, 6) / 12
    first, second = decode(torch.zeros(2, 8, 8), scores, (2, 3), batch)
    np.testing.assert_allclose(first.maps["cls_similarity"], scores[0].view(2, 3))
    np.testing.assert_allclose(second.maps["cls_similarity"], scores[1].view(2, 3))
    assert decode(torch.zeros(2, 8, 8), None, (2, 3), batch)[0].maps == {}


def test_probabilities_of_both_heads() -> None:
    words = torch.zeros(1, 1, 1)
    one = torch.tensor([[[[0.0, 3.0]]]])
    torch.testing.assert_close(
        VegaOutputs(one, words, None, (1, 1)).probability, one[:, 0].sigmoid()
    )
    two = torch.tensor([[[[1.0, 0.0]], [[-1.0, 2.0]]]])
    expected = torch.tensor([[[1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))]]], dtype=torch.float32)
    torch.testing.assert_close(VegaOutputs(two, words, None, (1, 1)).probability, expected)
