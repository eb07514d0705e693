"""Expressions of what an image does not show, and the score of "nothing of that kind" (ours).

The paper's head must choose some proposal, whatever is asked, and its scores tell only which of an
image's proposals is meant rather than another. `MutualConfig.absent` gives it one more answer: a
learned score s0 that stands beside the N scores in every softmax,

    p(k) = exp(S_k) / (exp(s0) + sum_n exp(S_n)),    L_abs = -log p(0) of absent expressions.

Absent are expressions of the batch that are asked of another of its images, in which nothing of
their object's category is annotated. What is chosen stays argmax S; p(k) is a prediction's score.
Letters: B expressions, E of them asked elsewhere, I images, K objects, N proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.methods.mutual.objects import missing, objects_of
from refseg.types import Batch


def with_nothing(scores: Tensor, nothing: Tensor) -> Tensor:
    """S [B, N] and s0 [1] -> [B, N + 1], s0 last; float32."""
    column = nothing.float().expand(len(scores), 1)
    return torch.cat([scores.float(), column], dim=1)


def chances(scores: Tensor, nothing: Tensor | None) -> Tensor:
    """S [B, N] -> p [B, N] float32, that each proposal is meant; s0 None: something always is.

    0 where an image has no proposal at all.
    """
    told = scores.float() if nothing is None else with_nothing(scores, nothing)
    return told.softmax(dim=1).nan_to_num(0.0)[:, : scores.shape[1]]


def elsewhere(batch: Batch, share: float) -> tuple[Tensor, Tensor]:
    """(rows, images), both [E] int64: expressions, 0..B-1, and an image each that does not show it.

    share: of the batch's expressions, drawn at random, 0..1. Those that mean no single object, or
    whose category every other image has, are left out. Raises DataError without categories.
    """
    lacks = _lacks(batch)
    drawn = torch.rand(len(batch), device=lacks.device) < share
    rows = torch.nonzero(drawn & lacks.any(dim=1))[:, 0]
    if len(rows) == 0:
        return rows, rows
    return rows, torch.multinomial(lacks[rows].float(), 1)[:, 0]


def absent_loss(scores: Tensor, nothing: Tensor, weights: Tensor, count: int) -> Tensor:
    """S [E, N] of absent expressions, s0 [1], weights [E] -> sum of w (-log p(0)) / count.

    count: B, as in `selection_loss`.
    """
    told = with_nothing(scores, nothing)
    each = told.logsumexp(dim=1) - told[:, -1]
    return (weights * each).sum() / count


def _lacks(batch: Batch) -> Tensor:
    """[B, I] bool: nothing in the image is annotated as what the expression's object is."""
    objects = objects_of(batch)
    assert batch.targets is not None
    if objects.categories is None:
        raise missing("categories", "category")
    numbers: dict[str, int] = {}
    for names in objects.categories:
        for name in names:
            numbers.setdefault(name, len(numbers))
    has = torch.zeros(len(objects.categories), max(len(numbers), 1), dtype=torch.bool)
    asked = torch.full((len(batch),), -1)
    for image, names in enumerate(objects.categories):
        has[image, [numbers[name] for name in names]] = True
    for row, (image, target) in enumerate(
        zip(batch.image_of.tolist(), batch.targets.tolist(), strict=True)
    ):
        if target >= 0:
            asked[row] = numbers[objects.categories[image][target]]
    lacks = ~has[:, asked.clamp(min=0)].T & (asked >= 0)[:, None]
    return lacks.to(batch.image_of.device)
