"""From response maps to a text's score, and the classification of texts (L_cls).

Letters: I images, B texts, N pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.tris.config import ScoreConfig


def image_scores(responses: Tensor, config: ScoreConfig) -> Tensor:
    """z [I, B] float32 of response logits [I, N, B]: how well each text fits each image.

    z = mean over pixels + max over pixels + (1 - m)^power * ln(floor + m), where m is the mean
    over pixels of the softmax over all texts and a background of constant logit: a map that wins
    nowhere is punished. (After Araslanov and Roth, CVPR 2020.)
    """
    responses = responses.float()
    pooled = torch.zeros(responses.shape[0], responses.shape[2], device=responses.device)
    if "mean" in config.pooling:
        pooled = pooled + responses.mean(dim=1)
    if "max" in config.pooling:
        pooled = pooled + responses.amax(dim=1)
    if config.power == 0:
        return pooled
    background = responses.new_full((*responses.shape[:2], 1), config.background)
    masks = torch.cat([background, responses], dim=2).softmax(dim=2)[..., 1:]
    return pooled + size_term(masks.mean(dim=1), config)


def size_term(size: Tensor, config: ScoreConfig) -> Tensor:
    """(1 - m)^power * ln(floor + m) of sizes m in 0..1; 0 for a map that fills the image."""
    return (1 - size).clamp(min=0) ** config.power * (config.floor + size).log()


def counted_pairs(words: Tensor, word_mask: Tensor, image_of: Tensor, *, distinct: bool) -> Tensor:
    """[B, B] bool: which texts (columns) the image of each row is asked about.

    distinct: not those about the same image, which may be true of it, and not those of the same
    words, which are; but always its own.
    """
    count = len(words)
    if not distinct:
        return torch.ones(count, count, dtype=torch.bool, device=words.device)
    real = words.masked_fill(~word_mask, -1)
    same = (real[:, None] == real[None]).all(dim=2) | (image_of[:, None] == image_of[None])
    own = torch.eye(count, dtype=torch.bool, device=words.device)
    return ~same | own


def classification(scores: Tensor, counted: Tensor, weights: Tensor) -> Tensor:
    """L_cls: multi-label soft margin of scores [B, B] against the identity.

    A row is a mean over its counted texts, the loss a mean over rows by their weights [B].
    """
    target = torch.eye(len(scores), device=scores.device)
    each = F.binary_cross_entropy_with_logits(scores.float(), target, reduction="none")
    rows = (each * counted).sum(dim=1) / counted.sum(dim=1)
    return (rows * weights).sum() / weights.sum().clamp(min=1e-6)
