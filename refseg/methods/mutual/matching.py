"""One matcher for losses, for k, for writing and for scores: deterministic, and computed once.

Paper map (bipartite matching, Mask2Former's costs):
  5 BCE + 5 Dice (+ 2 (-p of the class) where classes are known)   -> `pair_costs`
  Hungarian assignment per image                                   -> `match_masks`
We differ: Mask2Former samples random points for its costs, so that asking twice gives two
answers; here every cell of the mask grid counts. One matching, of the last layer, serves all
layers' losses and both heads.
Letters: I images, N proposals, K objects, h x w mask grid.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from refseg.methods.mutual.config import MatchingConfig
from refseg.methods.mutual.proposals import MATCHED, Level, Matching


@torch.no_grad()
def match_masks(
    level: Level,
    targets: Tensor,
    known: Tensor,
    config: MatchingConfig,
    classes: Tensor | None = None,
    there: Tensor | None = None,
) -> Matching:
    """The proposal that stands for each object.

    level: logits of one layer. targets: [I, K, H, W] bool or float in 0..1, any size.
    known: [I, K] bool, objects to match, K >= 1. classes: [I, K] int64, or None to match by masks
    alone. there: [I, N] bool, proposals that are no padding; None: all. Of more objects than
    proposals, the costliest stay without (-1).
    """
    small = grid_masks(targets, (level.masks.shape[2], level.masks.shape[3]))
    costs = pair_costs(level, small, config, classes).cpu().numpy()
    proposal = np.full(known.shape, -1, np.int64)
    real = np.ones(costs.shape[:2], bool) if there is None else there.cpu().numpy()
    for image, wanted in enumerate(known.cpu().numpy()):
        lines, columns = np.flatnonzero(real[image]), np.flatnonzero(wanted)
        rows, chosen = linear_sum_assignment(costs[image][np.ix_(lines, columns)])
        proposal[image, columns[chosen]] = lines[rows]
    found = torch.from_numpy(proposal).to(known.device)
    return Matching(found, _iou(level.masks, small, found))


def grid_masks(masks: Tensor, hw: tuple[int, int]) -> Tensor:
    """[I, K, H, W] bool or float -> share of each grid cell that is covered, [I, K, h, w]."""
    return F.interpolate(masks.float(), hw, mode="area")


def pair_costs(
    level: Level, targets: Tensor, config: MatchingConfig, classes: Tensor | None
) -> Tensor:
    """Cost of each proposal for each object, float32 [I, N, K]. targets: [I, K, h, w] in 0..1."""
    logits = level.masks.float().flatten(2)  # [I, N, P]
    wanted = targets.float().flatten(2)  # [I, K, P]
    # BCE(x, y) = softplus(x) - x y, so the pairs need one product and not two.
    cross = torch.einsum("inp,ikp->ink", logits, wanted)
    bce = (F.softplus(logits).sum(dim=2)[:, :, None] - cross) / logits.shape[2]
    chance = logits.sigmoid()
    overlap = torch.einsum("inp,ikp->ink", chance, wanted)
    sizes = chance.sum(dim=2)[:, :, None] + wanted.sum(dim=2)[:, None]
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    costs = config.mask_cost * bce + config.dice_cost * dice
    if classes is not None and config.class_cost:
        p = level.classes.float().softmax(dim=-1)  # [I, N, Q + 1]
        costs = costs - config.class_cost * p.gather(2, classes[:, None].expand(-1, p.shape[1], -1))
    return torch.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=-1e9)


def match_shares(matching: Matching, image_of: Tensor, row: Tensor) -> dict[str, Tensor]:
    """How the objects of B expressions were matched; to be looked at, no loss.

    image_of, row: [B] int64, the image and its object, -1 for none. "unmatched": the share that no
    proposal stands for; "poorly matched": the share whose proposal has an IoU below `MATCHED`.
    All are learned from; the rest of one is the matching's recall.
    """
    meant = row >= 0
    images, rows = image_of[meant], row[meant]
    lost = matching.proposal[images, rows] < 0
    poor = matching.iou[images, rows] < MATCHED  # NaN, where nothing stands for it, is not
    found = {"unmatched": lost, "poorly matched": poor}
    return {name: one.sum() / max(len(rows), 1) for name, one in found.items()}


def _iou(logits: Tensor, targets: Tensor, proposal: Tensor) -> Tensor:
    """[I, K] IoU of each object with its proposal, both cut at one half of a cell."""
    images = torch.arange(len(proposal), device=proposal.device)[:, None]
    ours = logits[images, proposal.clamp(min=0)] > 0
    theirs = targets > 0.5
    union = (ours | theirs).sum(dim=(2, 3))
    value = (ours & theirs).sum(dim=(2, 3)) / union.clamp(min=1)
    return value.float().masked_fill(proposal < 0, float("nan"))
