"""From logits to masks, scores and responses in px."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.tris.decode import decode
from refseg.ops.masks import response_in_px
from refseg.types import Prediction
from tests.methods.toy import SIDE, toy_batch, toy_samples

PX = (40, 100)


def decoded(logits: Tensor, fit: str = "square") -> list[Prediction]:
    return decode(logits, toy_batch(toy_samples(1, [PX]), fit=fit))


def test_what_is_positive_is_inside() -> None:
    logits = torch.zeros(2, SIDE, SIDE)
    logits[0] = -1
    logits[0, :, SIDE // 2 :] = 2
    first, second = decoded(logits)
    assert first.mask.shape == PX
    assert first.mask[:, 51:].all()
    assert not first.mask[:, :49].any()
    assert not second.mask.any(), "zero is not positive"
    assert second.score == 0


def test_logits_are_resized_before_they_are_cut() -> None:
    """To net, then to px, by pixel areas both times: a loop over both."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5, 5)
    net = F.interpolate(logits[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    for row, prediction in enumerate(decoded(logits)):
        in_px = response_in_px(net[row, 0].numpy(), prediction.geometry)
        np.testing.assert_array_equal(prediction.mask, in_px > 0)
        sure = [1 / (1 + np.exp(-value)) for value in in_px[in_px > 0].tolist()]
        assert prediction.score == pytest.approx(np.mean(sure), rel=1e-5)
        assert prediction.response is not None
        assert prediction.response.dtype == np.float32
        np.testing.assert_allclose(prediction.response, net[row, 0].sigmoid().numpy(), rtol=1e-6)


def test_where_all_is_negative_nothing_is_meant() -> None:
    """The released script divides by the largest, negative then, and takes the whole image."""
    for prediction in decoded(-1 - torch.rand(2, 8, 8)):
        assert not prediction.mask.any()
        assert prediction.score == 0
        assert prediction.response is not None
        assert prediction.response.max() < 0.5


def test_the_padding_of_a_letterbox_counts_for_nothing() -> None:
    logits = torch.full((2, SIDE, SIDE), -4.0)
    logits[:, : SIDE // 4] = 9
    logits[1, SIDE // 2 - 5 : SIDE // 2 + 5, 20:40] = 1
    empty, found = decoded(logits, "letterbox")
    assert not empty.mask.any()
    assert found.mask.any()
    assert found.score == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.06)
