"""Losses on masks, computed in float32 whatever the autocast type.

Every loss takes per-expression `weights` [B] and `known` [B] bool and returns a scalar: the
weighted mean over expressions whose mask is known (0, with a graph, when none is).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(per_item: Tensor, weights: Tensor, known: Tensor) -> Tensor:
    """Weighted mean of [B] values over known items; 0 when there are none."""
    share = weights * known
    return (torch.where(known, per_item, 0.0) * share).sum() / share.sum().clamp(min=1e-6)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over pixels, one value per item. logits, target: [B, H, W]; returns [B]."""
    return F.binary_cross_entropy_with_logits(
        logits.float(), target.float(), reduction="none"
    ).mean(dim=(1, 2))


def two_class_cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    """LAVT's form: logits [B, 2, H, W], target [B, H, W], class_weights [2]; returns [B].

    The weighted mean divides by the sum of the weights of the pixels, as torch does.
    """
    hard = (target > 0.5).long()
    picked = F.cross_entropy(logits.float(), hard, reduction="none")
    pixel = class_weights.to(picked)[hard]
    return (picked * pixel).sum(dim=(1, 2)) / pixel.sum(dim=(1, 2))


def dice(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice per item. probability, target: [B, H, W] in 0..1; returns [B]."""
    probability, target = probability.float(), target.float()
    both = (probability * target).sum(dim=(1, 2))
    total = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    return 1 - (2 * both + smooth) / (total + smooth)
