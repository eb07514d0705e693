"""The selection head: a set of proposals, padded words, one text for all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.selection import SMALLEST, _alike
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


def some(rows: list[list[int]]) -> Tensor:
    """there [IMAGES, N], True in these columns of each image."""
    made = torch.zeros(len(rows), N, dtype=torch.bool)
    for row, columns in enumerate(rows):
        made[row, columns] = True
    return made


GAPS = some([[0, 1, 2], [0, 3], [4, 1, 0, 2]])  # image 1 has holes in the middle


def many(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """image_of, features, mask of `count` sentences about three images in turn."""
    generator = torch.Generator().manual_seed(6)
    mask = torch.arange(T) < torch.randint(1, T + 1, (count, 1), generator=generator)
    features = torch.randn(count, T, TEXT, generator=generator).double()
    return torch.arange(count) % 3, features, mask


@pytest.mark.parametrize("count", [1, SMALLEST - 1, SMALLEST, 23])
def test_groups_of_like_images_score_as_one_batch(count: int) -> None:
    """Values and gradients of the grouped form are those of the plain one."""
    model, (image_of, features, mask) = selection(), many(count)
    seen = []
    for form in (model, model._scores):
        objects = proposals().requires_grad_()
        scores = form(objects, image_of, features, mask, GAPS)
        model.zero_grad()
        scores.masked_fill(~GAPS[image_of], 0).square().sum().backward()
        grads = [p.grad.clone() for p in model.parameters()]
        seen.append([scores.detach(), objects.grad, *grads])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_groups_are_the_rows_with_the_columns_they_need() -> None:
    image_of, _, _ = many(23)
    groups = _alike(GAPS, image_of)
    assert len(groups) == 4
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(23))
    last = {0: 3, 1: 4, 2: 5}
    for rows, most in groups:
        assert most == max(last[int(i)] for i in image_of[rows])
    assert min(most for _, most in groups) == 3
    assert _alike(some([[], [], []]), image_of)[0][1] == 1  # a column at least


@pytest.mark.parametrize("count", [5, 23])
def test_who_is_not_there_does_not_matter(count: int) -> None:
    model, (image_of, features, mask) = selection(), many(count)
    junk = torch.where(GAPS[..., None], proposals(), 99.0)
    with torch.no_grad():
        scores = model(proposals(), image_of, features, mask, GAPS)
        torch.testing.assert_close(model(junk, image_of, features, mask, GAPS), scores)
        assert torch.equal(scores == -torch.inf, ~GAPS[image_of])
        for e in range(count):  # as if they had never been in the picture
            objects = proposals()[image_of[e]][GAPS[image_of[e]]]
            alone = model(objects[None], torch.tensor([0]), features[e : e + 1], mask[e : e + 1])
            torch.testing.assert_close(scores[e, GAPS[image_of[e]]], alone[0])


def test_all_there_is_none_missing() -> None:
    model, (image_of, features, mask) = selection(), many(20)
    everyone = torch.ones(3, N, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            model(proposals(), image_of, features, mask, everyone),
            model(proposals(), image_of, features, mask),
        )


def test_an_image_without_proposals_scores_nothing() -> None:
    model, (image_of, features, mask) = selection(), many(20)
    with torch.no_grad():
        scores = model(proposals(), image_of, features, mask, some([[0], [], [1, 2]]))
    assert (scores[image_of == 1] == -torch.inf).all()
    assert scores[image_of == 0, 0].isfinite().all()
    assert not scores.isnan().any()
