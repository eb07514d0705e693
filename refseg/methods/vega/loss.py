"""VEGA's losses: binary cross-entropy on the mask, and the pixel contrastive loss (Eq. 5).

Defects of released relatives that are not inherited: the temperature is in an optimiser group,
so it does learn; masks that are not known (partial labels) add nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.vega.config import LossConfig
from refseg.nn.losses import (
    binary_cross_entropy,
    dice,
    masked_mean,
    two_class_cross_entropy,
)
from refseg.types import Batch


class VegaLoss(nn.Module):
    """Weighted sum of the terms; owns the learnable temperature.

    contrastive: whether there is a selection module whose scores can be supervised.
    """

    class_weights: Tensor

    def __init__(self, config: LossConfig, *, contrastive: bool) -> None:
        super().__init__()
        self.config = config
        self.log_tau = (
            nn.Parameter(torch.tensor(math.log(config.tau_init)))
            if contrastive and config.contrastive
            else None
        )
        self.register_buffer("class_weights", torch.tensor(config.class_weights), persistent=False)

    @property
    def tau(self) -> Tensor:
        """The temperature, kept in its range; gradients pass at the bounds too."""
        assert self.log_tau is not None
        raw = self.log_tau.exp()
        # Clamped in value only: a plain clamp would stop learning for good at tau_max = tau_init.
        clamped = raw.clamp(self.config.tau_min, self.config.tau_max)
        return raw + (clamped - raw).detach()

    def forward(
        self, logits: Tensor, global_scores: Tensor | None, scores_hw: tuple[int, int], batch: Batch
    ) -> dict[str, Tensor]:
        """logits [B, K, h, w], global_scores [B, N] or None -> terms and "total" (scalars)."""
        masks, known = _targets(batch)
        full = F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)
        terms = {"segmentation": self._mean(self._segmentation(full, masks), batch, known)}
        total = self.config.segmentation * terms["segmentation"]
        if self.config.dice:
            probability = full[:, 0].sigmoid() if full.shape[1] == 1 else full.softmax(1)[:, 1]
            terms["dice"] = self._mean(dice(probability, masks), batch, known)
            total = total + self.config.dice * terms["dice"]
        if global_scores is not None and self.log_tau is not None:
            per_item = self.contrastive(global_scores, scores_hw, masks)
            terms["contrastive"] = self._mean(per_item, batch, known)
            total = total + self.config.contrastive * terms["contrastive"]
        terms["total"] = total
        return terms

    def _segmentation(self, full: Tensor, masks: Tensor) -> Tensor:
        if full.shape[1] == 1:
            return binary_cross_entropy(full[:, 0], masks)
        return two_class_cross_entropy(full, masks, self.class_weights)

    def contrastive(self, scores: Tensor, hw: tuple[int, int], masks: Tensor) -> Tensor:
        """Eq. 5 per item: mean over pixels of BCE(sigmoid(s / tau), z). scores [B, N] -> [B]."""
        grid = (scores.float() / self.tau).view(-1, *hw)
        if self.config.contrastive_target == "downsample":
            small = F.interpolate(masks[:, None].float(), hw, mode="area")[:, 0]
            return binary_cross_entropy(grid, small)
        size = masks.shape[-2:]
        full = F.interpolate(grid[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        return binary_cross_entropy(full, masks)

    def _mean(self, per_item: Tensor, batch: Batch, known: Tensor) -> Tensor:
        return masked_mean(per_item, batch.weights, known)


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.masks is None:
        raise ValueError("VEGA's loss needs masks; open the data with the mask label granted")
    known = batch.has_mask
    if known is None:
        known = torch.ones(len(batch), dtype=torch.bool, device=batch.masks.device)
    return batch.masks, known
