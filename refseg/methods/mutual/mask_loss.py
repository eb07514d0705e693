"""Mask2Former's losses, for a matching that is given.

Paper map (section "training" of the extractor, "follows Mask2Former"):
  2 CE over all proposals, "no object" weighing 0.1    -> `class_loss`
  5 BCE + 5 Dice on matched masks, at P points         -> `mask_losses`
  75 % of the points where the mask is least sure      -> `uncertain_points`
All layers are supervised and their terms summed (mask2former.py). transformers' criterion gives
the same numbers for the same matching and the same random points.
Letters: M matched pairs, P points, h x w mask grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.config import PointConfig


def class_loss(logits: Tensor, wanted: Tensor, no_object: float) -> Tensor:
    """logits [I, N, Q + 1], wanted [I, N] int64 (Q: no object) -> weighted mean, a scalar."""
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[-1] = no_object
    return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), weight)


def mask_losses(
    logits: Tensor, targets: Tensor, count: Tensor, config: PointConfig
) -> tuple[Tensor, Tensor]:
    """(BCE, Dice) summed over the M pairs and divided by `count`, scalars.

    logits: [M, h, w]. targets: [M, H, W] float in 0..1, of any size. count: pairs in the batch.
    """
    if len(logits) == 0:
        nothing = logits.sum()
        return nothing, nothing
    points = uncertain_points(logits, config)
    with torch.no_grad():
        wanted = sample(targets, points)
    found = sample(logits, points)
    bce = F.binary_cross_entropy_with_logits(found, wanted, reduction="none").mean(dim=1)
    chance = found.sigmoid()
    overlap = 2 * (chance * wanted).sum(dim=1) + 1
    dice = 1 - overlap / (chance.sum(dim=1) + wanted.sum(dim=1) + 1)
    return bce.sum() / count, dice.sum() / count


@torch.no_grad()
def uncertain_points(logits: Tensor, config: PointConfig) -> Tensor:
    """[M, P, xy] in 0..1: of `oversample` P random points those of the smallest |logit| make up
    the share `importance`; the rest is random.
    """
    drawn = torch.rand(len(logits), int(config.points * config.oversample), 2, device=logits.device)
    sure = sample(logits, drawn).abs()
    unsure = int(config.importance * config.points)
    chosen = sure.topk(unsure, dim=1, largest=False).indices
    near = drawn.gather(1, chosen[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(logits), config.points - unsure, 2, device=logits.device)
    return torch.cat([near, rest], dim=1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps [M, h, w] at points [M, P, xy] in 0..1, float32 [M, P]."""
    grid = 2 * points[:, None] - 1
    found = F.grid_sample(maps[:, None].float(), grid, align_corners=False)
    return found[:, 0, 0]
