"""Disambiguation supervision: the selection head's judgement rewards the generator.

Paper map (disambiguation supervision, Table 5):
  r(Y, k) = alpha softmax(S / tau)_k + CIDEr(Y, Y*)       -> `unambiguity`, `reward`
  Eq. 4  grad L_R = -E[r grad log p], q1 sentences        -> `policy_loss`
         log p = sum of token log-probabilities           -> `token_log_p`, `policy_loss`

We differ by default in one point: Eq. 4 has no baseline, and as every reward is positive it
pushes every beam up. The mean over an object's sentences is taken off (`baseline`);
PolicyConfig(baseline="none") is Eq. 4 to the letter. Beams are no samples; the weighting
"posterior" gives each its share of probability instead of 1 / Q.
Where proposals are detections, those of one thing earn together (`right`); elsewhere it is k alone.
CIDEr comes in as numbers. No gradient flows through rewards, baselines or weights.
Letters: E objects, Q sentences of each, L places, V words, N proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.methods.mutual.config import PolicyConfig


def unambiguity(
    scores: Tensor, target: Tensor, config: PolicyConfig, right: Tensor | None = None
) -> Tensor:
    """The reward's first half, in 0..alpha, float32: S [..., N], k [...] int64 -> [...].

    right: bool [..., N], others that are as right as k, or None. Where an object is detected twice
    the chances are added up (ours): no words tell the two apart. The sigmoid looks at k alone.
    """
    chosen = target[..., None]
    if config.form == "sigmoid":
        return config.alpha * scores.float().gather(-1, chosen)[..., 0].sigmoid()
    chance = (scores.float() / config.tau).softmax(-1)
    own = chance.gather(-1, chosen)[..., 0]
    if right is not None:
        own = own + (chance * right).scatter(-1, chosen, 0.0).sum(-1)
    return config.alpha * own


def reward(
    scores: Tensor,
    target: Tensor,
    cider: Tensor | None,
    config: PolicyConfig,
    right: Tensor | None = None,
) -> Tensor:
    """r(Y, k) without gradient, float32 [...]: 0 < r <= alpha + 10 (CIDEr's own range is 0..10).

    cider: [...] or None, which stands for zeros (allowed only if config.cider is 0). right: see
    `unambiguity`.
    """
    value = unambiguity(scores.detach(), target, config, right)
    if config.cider == 0:
        return value
    if cider is None:
        raise ValueError("the reward wants CIDEr: give it, or set cider to 0")
    return value + config.cider * cider.detach().to(value)


def token_log_p(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [..., L, V], targets [..., L] int64 -> log p of each target [..., L], float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # As logit minus normaliser: log_softmax would keep a second tensor of V for the gradient.
    return wide.gather(-1, targets[..., None])[..., 0] - wide.logsumexp(-1)


def baseline(rewards: Tensor, weights: Tensor, kind: str, greedy: Tensor | None = None) -> Tensor:
    """What is taken off the rewards: broadcasts to [E, Q].

    rewards: [E, Q]. weights: [E, Q], 0 where there is no sentence, else they sum to one.
    greedy: [E], reward of the greedy sentence, for that kind. A lone sentence has no others to
    be left out for and teaches nothing under "leave_one_out", as under "mean".
    """
    if kind == "none":
        return torch.zeros_like(rewards[:, :1])
    if kind == "greedy":
        if greedy is None:
            raise ValueError('the "greedy" baseline wants the reward of the greedy sentence')
        return greedy.detach().to(rewards)[:, None]
    # Relative to the first, so that equal rewards leave exactly nothing.
    first = rewards[:, :1]
    share = weights * (rewards - first)
    if kind == "mean":
        return first + share.sum(dim=1, keepdim=True)
    rest = weights.sum(dim=1, keepdim=True) - weights
    others = first + (share.sum(dim=1, keepdim=True) - share) / rest.clamp(min=1e-12)
    return torch.where(rest > 1e-6, others, rewards)


def policy_loss(
    log_p: Tensor,
    mask: Tensor,
    rewards: Tensor,
    config: PolicyConfig,
    greedy: Tensor | None = None,
) -> Tensor:
    """A scalar whose gradient is Eq. 4's: mean over objects of -sum_q w_q (r_q - b) log p_q.

    log_p: [E, Q, L] of each word, with gradient (`token_log_p`). mask: [E, Q, L] bool, real
    words and the end; a sentence without any is none at all. rewards: [E, Q].
    greedy: see `baseline`.
    """
    there = mask.any(dim=-1)
    summed = torch.where(mask, log_p, 0.0).sum(dim=-1)  # [E, Q]
    if config.weighting == "posterior":
        # An object without any sentence would divide by nothing; its weights are zeros below.
        likely = summed.detach().masked_fill(~there, torch.finfo(summed.dtype).min)
        weights = likely.softmax(dim=1) * there
    else:
        weights = there / there.sum(dim=1, keepdim=True).clamp(min=1)
    weights = weights.to(summed)
    given = torch.where(there, rewards.detach().to(summed), 0.0)
    advantage = (given - baseline(given, weights, config.baseline, greedy)) * weights
    if config.log_p == "mean":
        summed = summed / mask.sum(dim=-1).clamp(min=1)
    return -(advantage * summed).sum(dim=1).mean()
