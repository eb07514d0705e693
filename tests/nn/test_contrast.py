"""CLIP's loss, text by text."""

from __future__ import annotations

import math

import pytest
import torch

from refseg.errors import ConfigError
from refseg.methods.encoders.pairs import PairBatch, PairLearner
from refseg.nn.contrast import check_contrast, contrast
from tests.nn.clip_toys import config


def literal(similarity: list[list[float]], image_of: list[int], weights: list[float]) -> float:
    """The mean over texts of -log p(its image) and -log p(it | its image), half each."""
    total = 0.0
    for text, image in enumerate(image_of):
        column = [row[text] for row in similarity]
        which_image = -column[image] + math.log(sum(math.exp(value) for value in column))
        wrong = [t for t in range(len(image_of)) if image_of[t] != image]
        row = [similarity[image][t] for t in [text, *wrong]]
        which_text = -row[0] + math.log(sum(math.exp(value) for value in row))
        total += weights[text] * (which_image + which_text) / 2
    return total / sum(weights)


@pytest.mark.parametrize("image_of", [[0, 1, 2, 3], [2, 0, 3, 1], [0, 0, 1, 2, 2, 2, 1]])
def test_against_the_sums(image_of: list[int]) -> None:
    torch.manual_seed(0)
    similarity = 3 * torch.randn(max(image_of) + 1, len(image_of))
    weights = torch.rand(len(image_of)) + 0.1
    found = contrast(similarity, torch.tensor(image_of), weights)
    told = literal(similarity.tolist(), image_of, weights.tolist())
    assert float(found) == pytest.approx(told, rel=1e-5)


def test_with_one_text_an_image_it_is_clips() -> None:
    torch.manual_seed(0)
    square, own = 5 * torch.randn(6, 6), torch.arange(6)
    both = [torch.nn.functional.cross_entropy(one, own) for one in (square, square.T)]
    torch.testing.assert_close(contrast(square, own, torch.ones(6)), sum(both) / 2)
    # What knows nothing pays ln B.
    assert float(contrast(torch.zeros(6, 6), own, torch.ones(6))) == pytest.approx(math.log(6))


def test_texts_about_one_image_are_no_wrong_texts_of_it() -> None:
    """The same text twice about one image: right is right, however alike they are."""
    similarity = torch.tensor([[9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]])
    image_of, ones = torch.tensor([0, 0, 1]), torch.ones(3)
    assert float(contrast(similarity, image_of, ones)) < 1e-6
    assert float(contrast(similarity[[0, 0, 1]], torch.arange(3), ones)) > 0.4


def test_the_order_of_the_batch_does_not_matter() -> None:
    torch.manual_seed(0)
    similarity, image_of = torch.randn(3, 5), torch.tensor([0, 1, 2, 1, 0])
    weights, turned = torch.rand(5), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        contrast(similarity, image_of, weights),
        contrast(similarity[:, turned], image_of[turned], weights[turned]),
    )


def test_one_image_teaches_nothing() -> None:
    with pytest.raises(ConfigError, match=r"1 text\(s\) about 1 image") as caught:
        check_contrast(1, 1)
    assert "train.batch_size" in caught.value.remedy
    check_contrast(2, 2)


def test_the_small_pair_learns_by_it() -> None:
    torch.manual_seed(0)
    learner = PairLearner(config("vit")).eval()
    batch = PairBatch(
        torch.randn(3, 3, 16, 16), torch.randint(1, 20, (3, 5)), torch.ones(3, 5, dtype=torch.bool)
    )
    with torch.no_grad():
        found = learner(batch)
        seen = learner.pair.embed_images(batch.images)
        read = learner.pair.embed_texts(batch.words, batch.word_mask)
        torch.testing.assert_close(found, seen @ read.T / 0.07)
        told = literal(found.tolist(), [0, 1, 2], [1.0, 1.0, 1.0])
        assert float(learner.loss(found, batch)["total"]) == pytest.approx(told, rel=1e-5)
        learner.pair.logit_scale.fill_(9.0)
        torch.testing.assert_close(learner(batch), 100 * seen @ read.T)
