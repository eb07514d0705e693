"""The matcher: its costs by a loop and by transformers, its choice by trying everything."""

from __future__ import annotations

from itertools import permutations
from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.config import MatchingConfig
from refseg.methods.mutual.matching import grid_masks, match_masks, match_shares, pair_costs
from refseg.methods.mutual.proposals import Level, Matching

IMAGES, N, K, Q, HW = 2, 5, 3, 4, (3, 4)  # images, proposals, objects, classes, mask grid
BY_MASKS = MatchingConfig()


def level(proposals: int = N, seed: int = 0) -> Level:
    generator = torch.Generator().manual_seed(seed)
    return Level(
        2 * torch.randn(IMAGES, proposals, *HW, generator=generator),
        torch.randn(IMAGES, proposals, Q + 1, generator=generator),
    )


def objects(count: int = K, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Masks [I, K, 2h, 2w] and classes [I, K]."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(IMAGES, count, 2 * HW[0], 2 * HW[1], generator=generator) > 0.6
    return masks, torch.randint(Q, (IMAGES, count), generator=generator)


def known(count: int = K) -> Tensor:
    return torch.ones(IMAGES, count, dtype=torch.bool)


def matched(one: Level, masks: Tensor, classes: Tensor | None = None) -> Matching:
    return match_masks(one, masks, known(masks.shape[1]), BY_MASKS, classes)


def literal_cost(logits: Tensor, wanted: Tensor, chance: float) -> float:
    """5 BCE + 5 Dice - 2 p, cell by cell."""
    bce, overlap, sizes = 0.0, 0.0, 0.0
    cells = list(zip(logits.flatten().tolist(), wanted.flatten().tolist(), strict=True))
    for x, y in cells:
        p = 1 / (1 + exp(-x))
        bce -= (y * log(p) + (1 - y) * log(1 - p)) / len(cells)
        overlap += p * y
        sizes += p + y
    return 5 * bce + 5 * (1 - (2 * overlap + 1) / (sizes + 1)) - 2 * chance


def literal_costs(one: Level, masks: Tensor, classes: Tensor) -> np.ndarray:
    small, p = grid_masks(masks, HW), one.classes.softmax(-1)
    return np.array(
        [
            [
                [
                    literal_cost(one.masks[i, n], small[i, k], float(p[i, n, classes[i, k]]))
                    for k in range(masks.shape[1])
                ]
                for n in range(one.masks.shape[1])
            ]
            for i in range(IMAGES)
        ]
    )


def test_the_costs_are_a_loop_over_images_proposals_objects_and_cells() -> None:
    one, (masks, classes) = level(), objects()
    costs = pair_costs(one, grid_masks(masks, HW), BY_MASKS, classes)
    np.testing.assert_allclose(costs.numpy(), literal_costs(one, masks, classes), rtol=1e-5)


def test_the_costs_are_transformers_on_all_cells() -> None:
    from transformers.models.mask2former import modeling_mask2former as theirs

    one, (masks, classes) = level(), objects()
    wanted = (grid_masks(masks, HW) > 0.5).float()  # theirs knows zeros and ones alone
    costs = pair_costs(one, wanted, BY_MASKS, classes)
    for i in range(IMAGES):
        logits, labels = one.masks[i].flatten(1), wanted[i].flatten(1)
        expected = (
            5 * theirs.pair_wise_sigmoid_cross_entropy_loss(logits, labels)
            + 5 * theirs.pair_wise_dice_loss(logits, labels)
            - 2 * one.classes[i].softmax(-1)[:, classes[i]]
        )
        torch.testing.assert_close(costs[i], expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("proposals", [5, 3, 2])
def test_the_assignment_is_the_cheapest_of_all(seed: int, proposals: int) -> None:
    """Every way to give K = 3 objects different proposals, or 2 of them where there are but 2."""
    one, (masks, classes) = level(proposals, seed), objects(seed=seed + 10)
    found = matched(one, masks, classes).proposal
    costs = literal_costs(one, masks, classes)
    for i in range(IMAGES):
        nobody = [-1] * max(K - proposals, 0)
        ways = [
            (sum(costs[i, n, k] for k, n in enumerate(way) if n >= 0), way)
            for way in permutations([*range(proposals), *nobody], K)
        ]
        assert tuple(found[i].tolist()) == min(ways)[1]


def test_more_objects_than_proposals_leave_the_costliest_without() -> None:
    one, (masks, _) = level(2), objects(4)
    found = matched(one, masks)
    assert ((found.proposal < 0).sum(dim=1) == 2).all()
    assert torch.equal(found.iou.isnan(), found.proposal < 0)
    for row in found.proposal.tolist():
        assert sorted(row) == [-1, -1, 0, 1]


def test_asked_twice_it_answers_twice_the_same() -> None:
    """Trap 1: transformers' own matcher draws its points anew each time."""
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

    one, (masks, classes) = level(8), objects()
    answers = {tuple(matched(one, masks, classes).proposal.flatten().tolist()) for _ in range(6)}
    assert len(answers) == 1
    theirs = Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, num_points=6)
    labels = list(masks.float())
    torch.manual_seed(0)
    drawn = {
        str([(a.tolist(), b.tolist()) for a, b in theirs(*vars(one).values(), labels, classes)])
        for _ in range(6)
    }
    assert len(drawn) > 1


def test_objects_in_another_order_keep_their_proposals() -> None:
    """Fact 12."""
    one, (masks, classes) = level(), objects()
    straight = matched(one, masks, classes)
    for turn in permutations(range(K)):
        turned = matched(one, masks[:, list(turn)], classes[:, list(turn)])
        assert torch.equal(turned.proposal, straight.proposal[:, list(turn)])
        assert torch.equal(turned.iou, straight.iou[:, list(turn)])


def test_perfect_masks_are_found() -> None:
    """Fact 12, and the identity where they stand in order."""
    masks, _ = objects()
    wanted = grid_masks(F.max_pool2d(masks.float(), 2), HW)  # sharp on the grid
    for turn in permutations(range(K)):
        logits = torch.full((IMAGES, N, *HW), -20.0)
        logits[:, list(turn)] = 40 * wanted - 20
        found = matched(Level(logits, level().classes), wanted)
        assert found.proposal.tolist() == [list(turn)] * IMAGES
        assert (found.iou == 1).all()


def test_who_is_not_known_gets_none_and_takes_none() -> None:
    one, (masks, _) = level(K), objects()
    there = torch.tensor([[True, False, True], [False, False, False]])
    found = match_masks(one, masks, there, BY_MASKS)
    assert torch.equal(found.proposal >= 0, there)
    alone = match_masks(one, masks[:, ::2], known(2), BY_MASKS)
    assert torch.equal(found.proposal[0, ::2], alone.proposal[0])
    assert torch.equal(found.iou.isnan(), ~there)


def test_classes_decide_where_masks_do_not() -> None:
    one, (masks, _) = level(2), objects(1)
    same = one.masks[:, :1].expand(-1, 2, -1, -1)
    sure = torch.zeros(IMAGES, 2, Q + 1)
    sure[:, 1, 3] = 5.0  # the second proposal says class 3
    classes = torch.full((IMAGES, 1), 3)
    assert matched(Level(same, sure), masks, classes).proposal.tolist() == [[1], [1]]
    assert matched(Level(same, sure), masks).proposal.tolist() == [[0], [0]]
    blind = MatchingConfig(class_cost=0)
    found = match_masks(Level(same, sure), masks, known(1), blind, classes)
    assert found.proposal.tolist() == [[0], [0]]


def test_a_proposal_that_is_not_numbers_comes_last() -> None:
    one, (masks, classes) = level(), objects()
    broken = one.masks.clone()
    broken[:, 1] = torch.nan
    found = matched(Level(broken, one.classes), masks, classes)
    assert (found.proposal >= 0).all()
    assert (found.proposal != 1).all()


def test_a_mask_on_the_grid_is_the_share_that_is_covered() -> None:
    mask = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    mask[..., :2, :2] = True
    mask[..., 2, 4:] = True
    assert grid_masks(mask, (2, 3))[0, 0].tolist() == [[1, 0, 0], [0, 0, 0.5]]
    assert torch.equal(grid_masks(mask, (4, 6)), mask.float())


def test_iou_by_hand() -> None:
    """Cells count where the logit is positive and where more than half is covered."""
    mask = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    mask[..., :2, :4] = True  # cells (0, 0), (0, 1)
    mask[..., 2, 4:] = True  # half of (1, 2): not counted
    logits = torch.tensor([[[[1.0, -1, 2], [-3, -1, -1]]]])  # cells (0, 0), (0, 2)
    found = match_masks(
        Level(logits, torch.zeros(1, 1, 2)), mask, torch.ones(1, 1, dtype=torch.bool), BY_MASKS
    )
    assert found.iou.tolist() == [[pytest.approx(1 / 3)]]


def test_bad_matches_are_counted() -> None:
    """By hand: one of six expressions means nothing; a half is good enough; none is not poor."""
    nan = float("nan")
    found = Matching(
        torch.tensor([[3, 0, -1], [2, -1, -1]]), torch.tensor([[0.9, 0.4, nan], [0.5, nan, nan]])
    )
    image_of = torch.tensor([0, 0, 0, 1, 1, 1])
    row = torch.tensor([0, 1, 2, 0, 1, -1])
    told = match_shares(found, image_of, row)
    assert {n: float(v) for n, v in told.items()} == pytest.approx(
        {"unmatched": 2 / 5, "poorly matched": 1 / 5}
    )
    nobody = match_shares(found, image_of, torch.full((6,), -1))
    assert [float(v) for v in nobody.values()] == [0, 0]
