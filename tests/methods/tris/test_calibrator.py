"""The calibrator: a frozen judge, its losses by the notes' numbers, and the choice of a map."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from refseg.methods.tris.calibrator import (
    TOGETHER,
    calibration,
    choose,
    first_best,
    weighted_map,
)
from refseg.nn.clip import PIXEL_MEAN, PIXEL_STD
from tests.methods.tris.toys import toy_calibrator, toy_pair

WORDS = torch.tensor([[2, 9, 10, 3], [2, 11, 3, 0], [2, 9, 10, 3]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()


def pair_of(cosine: float) -> tuple[Tensor, Tensor]:
    """Two unit vectors [1, 2] of that cosine."""
    return torch.tensor([[1.0, 0.0]]), torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])


@pytest.mark.parametrize(
    ("cosine", "attract", "repel"), [(0.25, 1.386294, 0.287682), (0.2, 1.609438, 0.223144)]
)
def test_the_losses_are_those_of_the_notes(cosine: float, attract: float, repel: float) -> None:
    seen, text = pair_of(cosine)
    found = calibration(seen, text, text[:, None], torch.ones(1), clamp=False)
    assert float(found[0]) == pytest.approx(attract, abs=2e-6)
    assert float(found[1]) == pytest.approx(repel, abs=2e-6)


def test_a_clamped_cosine_has_no_gradient() -> None:
    seen, text = pair_of(-0.3)
    seen.requires_grad_()
    attract, _ = calibration(seen, text, None, torch.ones(1), clamp=False)
    assert float(attract.detach()) == pytest.approx(9.210340, abs=1e-5)
    attract.backward()
    assert seen.grad is not None
    assert not seen.grad.any()


def test_an_own_negative_is_infinite_unless_clamped() -> None:
    seen, _ = pair_of(0.5)
    _, plain = calibration(seen, seen, seen[:, None], torch.ones(1), clamp=False)
    _, clamped = calibration(seen, seen, seen[:, None], torch.ones(1), clamp=True)
    assert math.isinf(float(plain))
    assert float(clamped) == pytest.approx(9.210340, abs=1e-5)


def test_losses_are_weighted_loops() -> None:
    torch.manual_seed(0)
    seen, own = F.normalize(torch.randn(3, 8), dim=1), F.normalize(torch.randn(3, 8), dim=1)
    others, weights = F.normalize(torch.randn(3, 2, 8), dim=2), torch.tensor([1.0, 0.0, 3.0])
    attract = repel = 0.0
    for row in range(3):
        near = min(max(float(seen[row] @ own[row]), 1e-4), 0.9999)
        attract += float(weights[row]) * -math.log(near) / 4
        far = [-math.log(1 - float(seen[row] @ other)) for other in others[row]]
        repel += float(weights[row]) * sum(far) / 2 / 4
    found = calibration(seen, own, others, weights, clamp=False)
    assert [float(f) for f in found] == pytest.approx([attract, repel], rel=1e-5)


def test_texts_that_were_asked_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cached, plain = toy_calibrator(), toy_calibrator(cache=False)
    expected = plain.texts(WORDS, MASK)
    asked: list[int] = []
    embed = toy_pair().embed_texts

    def counted(words: Tensor, mask: Tensor) -> Tensor:
        asked.append(len(words))
        return embed(words, mask)

    monkeypatch.setattr(toy_pair(), "embed_texts", counted)
    torch.testing.assert_close(cached.texts(WORDS, MASK), expected)
    assert asked == [TOGETHER]  # two of the three are the same, filled up
    padded = F.pad(WORDS, (0, 3), value=17), F.pad(MASK, (0, 3))
    torch.testing.assert_close(cached.texts(*padded), expected)
    assert asked == [TOGETHER]
    cached.texts(WORDS + 1, MASK)
    assert asked == [TOGETHER, TOGETHER]


def test_a_kept_text_has_the_same_bits_in_any_company() -> None:
    torch.manual_seed(0)
    words = torch.randint(4, 60, (70, 9))
    mask = torch.arange(9) < torch.randint(1, 10, (70, 1))
    together = toy_calibrator().texts(words, mask)
    for company in ([3], [69, 0, 3], list(range(69, -1, -1))):
        longest = int(mask[company].sum(dim=1).max())
        found = toy_calibrator().texts(words[company, :longest], mask[company, :longest])
        assert torch.equal(found, together[company])
    torch.testing.assert_close(together, toy_calibrator(cache=False).texts(words, mask))


def test_memory_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refseg.methods.tris.calibrator.KEPT", 3)
    judge = toy_calibrator()
    for shift in range(4):
        found = judge.texts(WORDS + shift, MASK)
        torch.testing.assert_close(found, toy_calibrator(cache=False).texts(WORDS + shift, MASK))
        assert len(judge._known) <= 3


def test_what_a_mask_takes_away_is_the_mean_colour() -> None:
    judge, images = toy_calibrator(), torch.randn(2, 3, 64, 64)
    whole = judge.seen(images, torch.ones(2, 64, 64))
    torch.testing.assert_close(whole, toy_pair().embed_images(images))
    none = judge.seen(images, torch.zeros(2, 64, 64))
    torch.testing.assert_close(none[0], none[1])
    small = torch.rand(2, 16, 16)
    large = F.interpolate(small[:, None], (64, 64), mode="bilinear", align_corners=True)
    expected = toy_pair().embed_images(images * large)
    torch.testing.assert_close(judge.seen(images, small), expected)


def test_pixels_as_they_come_or_as_the_pair_knows_them() -> None:
    grey = torch.rand(1, 3, 64, 64)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (grey - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    given, own = normalised(IMAGENET_MEAN, IMAGENET_STD), normalised(PIXEL_MEAN, PIXEL_STD)
    ones = torch.ones(1, 64, 64)
    seen = toy_calibrator(own_pixels=True).seen(given, ones)
    torch.testing.assert_close(seen, toy_pair().embed_images(own), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(toy_calibrator().seen(given, ones), toy_pair().embed_images(given))


def test_gradients_reach_masks_and_never_weights() -> None:
    judge = toy_calibrator()
    masks = torch.rand(2, 16, 16, requires_grad=True)
    seen = judge.seen(torch.randn(2, 3, 64, 64), masks)
    (seen * judge.texts(WORDS[:2], MASK[:2])).sum().backward()
    assert masks.grad is not None
    assert masks.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in judge.pair.parameters())
    assert not judge.pair.training


def seen_of(maps: Tensor) -> Tensor:
    """What a judge sees of maps: their mean and their first pixel."""
    return torch.stack([maps.mean(dim=(1, 2)), maps[:, 0, 0]], dim=1)


def test_prms_asks_every_sentence_about_every_map() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0], maps[1, 0, 0], maps[2] = 0.4, 3.0, 0.5
    seen, texts = seen_of(maps), F.one_hot(torch.tensor([0, 0, 1]), 2).float()
    best, scores = choose(seen, texts)
    means, corners = maps.mean(dim=(1, 2)), maps[:, 0, 0]
    assert scores.tolist() == pytest.approx((2 * means + corners).tolist())
    assert best == 1
    for order in ([2, 0, 1], [1, 2, 0]):
        again, _ = choose(seen[order], texts[order])
        assert order[again] == best  # the chosen map, not its place
    assert choose(seen[:1], texts[:1])[0] == 0
    assert choose(seen[[0, 0]], texts[[0, 0]])[0] == 0


def test_the_first_of_equals_wins() -> None:
    assert first_best([0.1, 0.3, 0.3, 0.2]) == 1
    assert first_best([-2.0]) == 0


def test_maps_multiply_as_released_or_as_in_calibration() -> None:
    logits = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.equal(weighted_map(logits, "relu"), torch.tensor([0.0, 0, 3]))
    torch.testing.assert_close(weighted_map(logits, "sigmoid"), logits.sigmoid())
