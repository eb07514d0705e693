"""The losses of both heads.

Paper map:
  Eq. 2   L_gen = -sum_l log p(Y*_l | Y*_<l, O + I(k))    -> `generation_loss`
  L_sel = -log softmax(S)_k                               -> `selection_loss`
We differ: L_gen is the mean over the batch's words (the paper sums over one expression), the end
of the sentence included. L_sel is a mean over all B expressions, those without an object too: they
weigh nothing and are counted. Where a sentence weighs less than one, the sums are weighted and what
they are divided by is not, L_sel = sum_e w_e l_e / B: divided by the sum of weights, a batch of
pseudo-expressions alone would weigh as much as a human one. A word that the vocabulary lacks is
learned as [UNK] like any other, though the generator never writes it (`GeneratorConfig.never`).
Letters: B expressions, E of them with an object, N proposals, L places, V words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.absent import with_nothing


def selection_loss(
    scores: Tensor,
    rows: Tensor,
    target: Tensor,
    weights: Tensor,
    right: Tensor | None = None,
    nothing: Tensor | None = None,
) -> Tensor:
    """scores S [B, N], rows [E] and their k [E], weights [B] -> a scalar; zero without rows.

    right: [E, N] bool, other proposals that are as right as k (ours, for detections: one thing is
    detected several times); their probabilities are added up. nothing: s0 [1], one more answer,
    which is wrong here (ours; absent.py).
    """
    if len(rows) == 0:
        return scores[:, :1].nan_to_num(neginf=0.0).sum() * 0.0
    chosen = scores[rows].float()
    every = chosen if nothing is None else with_nothing(chosen, nothing)
    if right is None:
        each = F.cross_entropy(every, target, reduction="none")
    else:
        good = right | F.one_hot(target, chosen.shape[1]).bool()
        each = every.logsumexp(dim=1) - chosen.masked_fill(~good, -torch.inf).logsumexp(dim=1)
    return (weights[rows] * each).sum() / len(scores)


def generation_loss(logits: Tensor, words: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """logits [E, L, V], words [E, L] int64, mask [E, L] bool (real words, the end), weights [E] of
    the sentences -> a scalar.
    """
    each = F.cross_entropy(logits[mask].float(), words[mask], reduction="none")
    return (weights[:, None].expand_as(mask)[mask] * each).sum() / len(each)
