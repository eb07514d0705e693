"""The loss: cross-entropy of each token, smoothed and weighted as SeqTR does it.

    L = 1 / (B T) sum_b,k w_bk ( - sum_v q_v log softmax(z_bk)_v )

q has 1 - eps on the true id and eps / (K + 1) on each other one. END weighs little: it is most of
what small objects would teach under the papers' sampling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.partial_res.config import LossConfig
from refseg.methods.partial_res.sequence import Targets
from refseg.nn.losses import masked_mean


def smoothed_cross_entropy(
    logits: Tensor, wanted: Tensor, smoothing: float, spread: float = 0.0
) -> Tensor:
    """logits: [..., V], wanted: [...] int64 -> [...] float32, computed in float32.

    spread: see `LossConfig`; the last id, END, has no neighbours.
    """
    log = logits.float().log_softmax(dim=-1)
    if spread:
        near = (neighbours(log.shape[-1], spread).to(log.device)[wanted] * log).sum(dim=-1)
        return -(1 - smoothing) * near - smoothing / logits.shape[-1] * log.sum(dim=-1)
    true = log.gather(-1, wanted[..., None])[..., 0]
    others = log.sum(dim=-1) - true
    return -(1 - smoothing) * true - smoothing / logits.shape[-1] * others


def neighbours(ids: int, spread: float) -> Tensor:
    """[ids, ids] float32, each row a distribution around its id; END's, the last, is itself."""
    place = torch.arange(ids - 1)
    table = torch.eye(ids)
    table[:-1, :-1] = (-(((place[:, None] - place) / spread) ** 2) / 2).exp()
    return table / table.sum(dim=1, keepdim=True)


def surest(config: LossConfig, ids: int) -> float:
    """The probability of the true coordinate in what the loss asks for: no more can be learned."""
    near = float(neighbours(ids, config.spread)[ids // 2, ids // 2]) if config.spread else 1.0
    return (1 - config.smoothing) * near + config.smoothing / ids


def inside_loss(logits: Tensor, covered: Tensor, weights: Tensor, known: Tensor) -> Tensor:
    """Mean over cells of the cross-entropy between logits and `Grid.covered`, [B, H, W] both."""
    asked = torch.nan_to_num(covered)
    each = F.binary_cross_entropy_with_logits(logits.float(), asked, reduction="none")
    return masked_mean(each.mean(dim=(1, 2)), weights, known)


def sequence_loss(
    logits: Tensor, targets: Targets, config: LossConfig, weights: Tensor
) -> dict[str, Tensor]:
    """logits: [B, T, K + 1]; weights: [B], importance of the rows.

    The only term is "tokens".
    """
    each = smoothed_cross_entropy(logits, targets.wanted, config.smoothing, config.spread)
    each = each * targets.weights
    parts = targets.weights.sum(dim=1) if config.normalise == "weights" else each.shape[1]
    per_row = each.sum(dim=1) / torch.as_tensor(parts, device=each.device).clamp(min=1e-6)
    value = masked_mean(per_row, weights, targets.known)
    return {"tokens": value, "total": value}
