"""The selection head: a set of proposals, padded words, one text for all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.methods.mutual.toy import IMAGE_OF, TEXT, E, N, no_gradient, proposals, selection

T = 5


def text(seed: int = 4) -> tuple[Tensor, Tensor]:
    features = torch.randn(E, T, TEXT, generator=torch.Generator().manual_seed(seed)).double()
    mask = torch.ones(E, T, dtype=torch.bool)
    mask[1, 3:] = mask[3, 2:] = False
    return features, mask


def test_it_is_its_layers_one_sentence_at_a_time() -> None:
    """No sharing among the sentences of an image, no padding, no batch."""
    model, objects = selection(), proposals()
    features, mask = text()
    with torch.no_grad():
        scores = model(objects, IMAGE_OF, features, mask)
        assert scores.shape == (E, N)
        for e in range(E):
            x = model.proposals(objects[IMAGE_OF[e]])[None]
            words = model.text(features[e, mask[e]])[None]
            for layer in model.layers:
                x = layer.hear(layer.look(x)[0], layer.memory.prepare(words))
            torch.testing.assert_close(scores[e], model.score(x)[0, :, 0])


def test_padding_a_sentence_changes_no_score() -> None:
    """Fact 13."""
    model, (features, mask) = selection(), text()
    longer = F.pad(torch.where(mask[..., None], features, 7.0), (0, 0, 0, 4), value=-3.0)
    with torch.no_grad():
        before = model(proposals(), IMAGE_OF, features, mask)
        after = model(proposals(), IMAGE_OF, longer, F.pad(mask, (0, 4)))
    torch.testing.assert_close(before, after)


def test_proposals_are_a_set() -> None:
    model, (features, mask) = selection(), text()
    turn = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight = model(proposals(), IMAGE_OF, features, mask)
        turned = model(proposals()[:, turn], IMAGE_OF, features, mask)
    torch.testing.assert_close(straight[:, turn], turned)


def test_proposals_are_compared_with_one_another() -> None:
    """One proposal's score depends on what else is there; another image's do not."""
    model, (features, mask) = selection(), text()
    changed = proposals()
    changed[2, 1] += 1.0
    with torch.no_grad():
        moved = model(proposals(), IMAGE_OF, features, mask) != model(
            changed, IMAGE_OF, features, mask
        )
    assert torch.equal(moved.all(dim=1), IMAGE_OF == 2)
    assert not moved[IMAGE_OF != 2].any()


def test_every_parameter_learns() -> None:
    model, (features, mask) = selection().train(), text()
    objects, features = proposals().requires_grad_(), features.requires_grad_()
    target = torch.tensor([4, 0, 3, 5, 3])
    F.cross_entropy(model(objects, IMAGE_OF, features, mask), target).backward()
    assert no_gradient(model) == []
    assert objects.grad is not None
    assert (objects.grad.abs().sum(dim=-1) > 0).all()
    assert features.grad is not None
    assert torch.equal(features.grad.abs().sum(dim=-1) > 0, mask)


@pytest.mark.parametrize("width", [8, 12])
def test_proposals_of_any_width(width: int) -> None:
    model, (features, mask) = selection(width=width), text()
    assert sum(p.numel() for p in model.proposals.parameters()) == (0 if width == 12 else 8 * 13)
    assert model(proposals(), IMAGE_OF, features, mask).isfinite().all()


def test_scores_are_float32_under_autocast() -> None:
    model, (features, mask) = selection().float(), text()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = model(proposals().float(), IMAGE_OF, features.float(), mask)
    assert scores.dtype == torch.float32
