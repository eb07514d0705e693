"""Scores and the classification of texts, by the numbers of the notes and by loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refseg.methods.tris.config import ScoreConfig
from refseg.methods.tris.score import classification, counted_pairs, image_scores, size_term

PAPER = ScoreConfig()


@pytest.mark.parametrize(
    ("size", "value"),
    [
        (0, -4.605170), (0.01, -3.795832), (0.1, -1.609103), (0.25, -0.568297), (0.5, -0.084168),
        (0.99, 0), (1, 0),
    ],
)  # fmt: skip
def test_small_maps_are_punished(size: float, value: float) -> None:
    assert float(size_term(torch.tensor(size), PAPER)) == pytest.approx(value, abs=2e-6)


def everything(count: int, own: float, others: float = 0.0) -> Tensor:
    """[count, 9, count]: the own text answers with `own` everywhere."""
    return (others + (own - others) * torch.eye(count))[:, None].expand(-1, 9, -1)


def l_cls(scores: Tensor) -> float:
    count = len(scores)
    return float(classification(scores, torch.ones(count, count).bool(), torch.ones(count)))


@pytest.mark.parametrize(
    ("count", "score", "loss"),
    [
        (1, -0.498843, 0.973357), (2, -0.736733, 0.759513), (4, -1.134475, 0.562455),
        (48, -3.312143, 0.104793),
    ],
)  # fmt: skip
def test_no_response_at_all(count: int, score: float, loss: float) -> None:
    scores = image_scores(everything(count, 0.0), PAPER)
    assert scores == pytest.approx(torch.full((count, count), score), abs=2e-6)
    assert l_cls(scores) == pytest.approx(loss, abs=2e-6)


@pytest.mark.parametrize(
    ("count", "own", "score", "other", "loss"),
    [
        (4, 5.0, 9.999999, -4.025740, 0.0132809), (48, 5.0, 9.995644, -4.133344, 0.0155717),
        (4, 14.285714, 28.571429, -4.605099, 0.0074633),
    ],
)  # fmt: skip
def test_only_the_own_text_answers(
    count: int, own: float, score: float, other: float, loss: float
) -> None:
    scores = image_scores(everything(count, own), PAPER)
    assert float(scores[0, 0]) == pytest.approx(score, abs=2e-5)
    assert float(scores[0, 1]) == pytest.approx(other, abs=2e-5)
    assert l_cls(scores) == pytest.approx(loss, abs=2e-6)


def literal(responses: Tensor, config: ScoreConfig) -> Tensor:
    images, pixels, texts = responses.shape
    scores = torch.zeros(images, texts)
    for i in range(images):
        for j in range(texts):
            values = [float(responses[i, p, j]) for p in range(pixels)]
            mass = 0.0
            for p in range(pixels):
                whole = math.exp(config.background) + sum(
                    math.exp(float(responses[i, p, k])) for k in range(texts)
                )
                mass += math.exp(values[p]) / whole / pixels
            pooled = sum(values) / pixels if "mean" in config.pooling else 0.0
            pooled += max(values) if "max" in config.pooling else 0.0
            if config.power:
                pooled += (1 - mass) ** config.power * math.log(config.floor + mass)
            scores[i, j] = pooled
    return scores


@pytest.mark.parametrize("pooling", ["mean+max", "mean", "max"])
@pytest.mark.parametrize("power", [3.0, 0.0])
def test_scores_are_their_loop(pooling: str, power: float) -> None:
    torch.manual_seed(0)
    responses = torch.randn(3, 6, 4) * 2
    config = ScoreConfig.model_validate({"pooling": pooling, "power": power, "background": 0.7})
    assert image_scores(responses, config) == pytest.approx(literal(responses, config), abs=1e-5)


@given(st.integers(0, 10_000))
def test_masks_and_background_share_each_pixel_and_order_does_not_matter(seed: int) -> None:
    torch.manual_seed(seed)
    responses, order = torch.randn(4, 5, 4) * 3, torch.randperm(4)
    scores = image_scores(responses, PAPER)
    turned = image_scores(responses[order][:, :, order], PAPER)
    assert turned == pytest.approx(scores[order][:, order], abs=1e-5)
    assert l_cls(turned) == pytest.approx(l_cls(scores), abs=1e-5)


WORDS = torch.tensor([[2, 7, 3, 0], [2, 8, 3, 9], [2, 7, 3, 5], [2, 9, 9, 3]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()


def test_all_other_texts_are_negatives_or_only_distinct_ones() -> None:
    image_of = torch.tensor([0, 1, 2, 1])
    assert counted_pairs(WORDS, MASK, image_of, distinct=False).all()
    counted = counted_pairs(WORDS, MASK, image_of, distinct=True)
    expected = torch.ones(4, 4).bool()
    expected[0, 2] = expected[2, 0] = False  # the same words, whatever the padding holds
    expected[1, 3] = expected[3, 1] = False  # about the same image
    assert torch.equal(counted, expected)


def test_the_loss_is_its_loop_over_counted_texts() -> None:
    torch.manual_seed(1)
    scores, weights = torch.randn(3, 3), torch.tensor([1.0, 0.5, 2.0])
    counted = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1]]).bool()
    total = 0.0
    for i in range(3):
        row = []
        for j in range(3):
            if counted[i, j]:
                sign = 1.0 if i == j else -1.0
                row.append(math.log1p(math.exp(-sign * float(scores[i, j]))))
        total += float(weights[i]) * sum(row) / len(row)
    found = float(classification(scores, counted, weights))
    assert found == pytest.approx(total / 3.5, rel=1e-6)
