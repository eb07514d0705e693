"""Mask2Former's losses against transformers' criterion, by the same matching and random points."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.mutual.config import PointConfig
from refseg.methods.mutual.mask2former import Mask2FormerExtractor, net_config
from refseg.methods.mutual.mask_loss import mask_losses, sample, uncertain_points
from refseg.methods.mutual.proposals import Level, Matching, Proposals
from refseg.types import Geometry, NetObjects
from tests.methods.toy_configs import SHAPES, mask2former_config

IMAGES, N, K, HW = 3, 6, 3, (16, 16)
NET = (64, 64)
PROPOSAL = torch.tensor([[4, 0, -1], [-1, -1, -1], [2, 5, 1]])  # the second image has none


@pytest.fixture(scope="module")
def extractor() -> Mask2FormerExtractor:
    torch.manual_seed(0)
    return Mask2FormerExtractor(mask2former_config(points=PointConfig(points=40)))


def predicted(layers: int = 3) -> Proposals:
    generator = torch.Generator().manual_seed(0)
    levels = tuple(
        Level(
            torch.randn(IMAGES, N, *HW, generator=generator).requires_grad_(),
            torch.randn(IMAGES, N, len(SHAPES) + 1, generator=generator).requires_grad_(),
        )
        for _ in range(layers)
    )
    return Proposals(torch.zeros(IMAGES, N, 32), None, levels)


def annotated() -> NetObjects:
    generator = torch.Generator().manual_seed(1)
    known = PROPOSAL >= 0
    return NetObjects(
        known=known,
        ann_ids=torch.arange(IMAGES * K).view(IMAGES, K),
        geometry=(Geometry(NET, NET, (1.0, 1.0)),) * IMAGES,
        masks=torch.rand(IMAGES, K, *NET, generator=generator) > 0.5,
        has_mask=known,
        categories=tuple(("disc", "square", "disc")[: int(n)] for n in known.sum(dim=1)),
    )


def theirs(
    proposals: Proposals, objects: NetObjects, proposal: Tensor, criterion: Any
) -> dict[str, Tensor]:
    """Mask2FormerLoss's terms, weighted and summed over layers, under one matching for all."""
    pairs = [torch.nonzero(row >= 0)[:, 0] for row in proposal]
    indices = [(row[pair], pair) for row, pair in zip(proposal, pairs, strict=True)]
    assert objects.masks is not None
    assert objects.categories is not None
    masks = [m.float() for m in objects.masks]
    labels = [
        torch.tensor([SHAPES.index(name) for name in names], dtype=torch.int64)
        for names in objects.categories
    ]
    summed: dict[str, Tensor] = {}
    for level in proposals.levels:
        count = max(sum(map(len, pairs)), 1)
        terms = {
            **criterion.loss_masks(level.masks, masks, indices, count),
            **criterion.loss_labels(level.classes, labels, indices),
        }
        for name, weight in (("cross_entropy", 2), ("mask", 5), ("dice", 5)):
            value = weight * terms[f"loss_{name}"]
            summed[name] = value + summed.get(name, torch.tensor(0.0))
    return {"class": summed["cross_entropy"], "mask": summed["mask"], "dice": summed["dice"]}


def criterion(extractor: Mask2FormerExtractor) -> Any:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = net_config(extractor.config)
    config.train_num_points = extractor.config.points.points
    assert (config.oversample_ratio, config.importance_sample_ratio) == (3.0, 0.75)
    assert config.no_object_weight == extractor.config.no_object == 0.1
    return Mask2FormerLoss(config, {})


def test_losses_and_gradients_are_transformers(extractor: Mask2FormerExtractor) -> None:
    """One matching serves every layer; the random points are the same, draw by draw."""
    proposals, objects = predicted(), annotated()
    leaves = [part for level in proposals.levels for part in (level.masks, level.classes)]
    torch.manual_seed(7)
    ours = extractor.loss(proposals, objects, Matching(PROPOSAL, torch.zeros(IMAGES, K)), 1.0)
    torch.manual_seed(7)
    expected = theirs(proposals, objects, PROPOSAL, criterion(extractor))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)
    for one, other in zip(
        torch.autograd.grad(sum(ours.values()), leaves),
        torch.autograd.grad(sum(expected.values()), leaves),
        strict=True,
    ):
        assert other.any()
        torch.testing.assert_close(one, other)


def test_other_points_are_another_loss(extractor: Mask2FormerExtractor) -> None:
    """Guards the test above: the points do matter, and so does the matching."""
    proposals, objects = predicted(), annotated()
    turned = PROPOSAL.clone()
    turned[2] = PROPOSAL[2].roll(1)
    seen = []
    for seed, proposal in ((7, PROPOSAL), (8, PROPOSAL), (7, turned)):
        torch.manual_seed(seed)
        matching = Matching(proposal, torch.zeros(IMAGES, K))
        terms = extractor.loss(proposals, objects, matching, 1.0)
        seen.append(float(terms["mask"].detach()))
    assert len({round(value, 4) for value in seen}) == 3


def test_no_matched_mask_teaches_that_nothing_is_there(extractor: Mask2FormerExtractor) -> None:
    proposals, objects = predicted(1), annotated()
    nobody = Matching(torch.full((IMAGES, K), -1), torch.zeros(IMAGES, K))
    terms = extractor.loss(proposals, objects, nobody, 1.0)
    assert not terms["mask"].any()
    assert not terms["dice"].any()
    sum(terms.values()).backward()
    level = proposals.levels[0]
    assert level.masks.grad is not None
    assert not level.masks.grad.any()
    assert level.classes.grad is not None
    assert (level.classes.grad[..., -1] < 0).all()  # more "no object", everywhere


def test_most_points_lie_where_the_mask_is_least_sure() -> None:
    logits = torch.full((2, 8, 8), 9.0)
    logits[:, :, :4] = 0.01
    torch.manual_seed(0)
    points = uncertain_points(logits, PointConfig(points=400))
    assert points.shape == (2, 400, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    unsure, rest = points[:, :300, 0], points[:, 300:, 0]
    assert (unsure < 0.56).all()  # up to where the ramp to 9 has begun
    assert 0.35 < float((rest < 0.5).float().mean()) < 0.65
    everywhere = uncertain_points(logits, PointConfig(points=400, importance=0))
    assert 0.4 < float((everywhere[..., 0] < 0.5).float().mean()) < 0.6
    nowhere_else = uncertain_points(logits, PointConfig(points=400, importance=1))
    assert (nowhere_else[..., 0] < 0.56).all()


def test_a_sample_is_bilinear_between_cell_centres() -> None:
    maps = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.25], [0.5, 0.5]]])  # x, y
    assert sample(maps, points).tolist() == [[0, 4, 2, 6]]


def test_pairs_are_summed_and_divided_by_the_count() -> None:
    logits = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = (torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    flat = PointConfig(points=16, importance=0.5)

    def at(count: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return mask_losses(logits, targets, torch.tensor(count), flat)

    for one, other in zip(at(4), at(8), strict=True):
        torch.testing.assert_close(one, 2 * other)
