"""Rewards by their golden numbers, gradients by the analytic ones (facts 3 and 4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refseg.methods.mutual.config import PolicyConfig
from refseg.methods.mutual.policy import baseline, policy_loss, reward, token_log_p, unambiguity

SCORES = torch.tensor([2.0, 1.0, 0.0])


def alone(scores: Tensor, target: int, **changes: Any) -> float:
    return float(unambiguity(scores, torch.tensor(target), PolicyConfig(**changes)))


def test_golden_rewards() -> None:
    for target, expected in enumerate([1.887105, 1.264965, 0.847931]):
        assert alone(SCORES, target) == pytest.approx(expected, abs=1e-6)
    assert alone(torch.full((100,), 3.0), 7) == pytest.approx(0.04, abs=1e-7)


@pytest.mark.parametrize(
    ("g", "softmax", "cooled", "fourfold", "sigmoid"),
    [
        (2, 0.0695, 0.0220, 0.088, 0.881),
        (5, 0.5999, 0.0695, 0.278, 0.993),
        (10, 0.9955, 0.3555, 1.422, 1.000),
        (15, 1.0000, 0.8030, 3.212, 1.000),
        (20, 1.0000, 0.9679, 3.871, 1.000),
    ],
)
def test_golden_table(
    g: float, softmax: float, cooled: float, fourfold: float, sigmoid: float
) -> None:
    scores = torch.zeros(100)
    scores[0] = g
    assert alone(scores, 0, alpha=1, tau=1) == pytest.approx(softmax, abs=6e-5)
    assert alone(scores, 0, alpha=1) == pytest.approx(cooled, abs=6e-5)
    assert alone(scores, 0) == pytest.approx(fourfold, abs=6e-4)
    assert alone(scores, 0, alpha=1, form="sigmoid") == pytest.approx(sigmoid, abs=6e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), tau=st.floats(0.5, 5), alpha=st.floats(0.5, 8))
def test_facts_of_the_reward(seed: int, tau: float, alpha: float) -> None:
    """Fact 3: it sums to alpha over k, stays in its bounds, and tau moves no argmax."""
    scores = 3 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
    config = PolicyConfig(tau=tau, alpha=alpha)
    every = unambiguity(scores.expand(7, 7), torch.arange(7), config)
    assert float(every.sum()) == pytest.approx(alpha, rel=1e-5)
    assert every.argmax() == scores.argmax()
    total = reward(scores.expand(7, 7), torch.arange(7), torch.full((7,), 10.0), config)
    assert (total > 0).all()
    assert (total <= alpha + 10 + 1e-5).all()
    # A constant on all scores is nothing to the softmax, and much to the sigmoid.
    torch.testing.assert_close(
        unambiguity((scores + 5).expand(7, 7), torch.arange(7), config), every
    )
    free = config.model_copy(update={"form": "sigmoid"})
    assert not torch.allclose(
        unambiguity(scores, torch.tensor(0), free), unambiguity(scores + 5, torch.tensor(0), free)
    )


def test_cider_is_added_and_nothing_learns_through_a_reward() -> None:
    scores = SCORES.clone().requires_grad_()
    target, cider = torch.tensor(1), torch.tensor(2.5, dtype=torch.float64)
    total = reward(scores, target, cider, PolicyConfig())
    assert not total.requires_grad
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(1.264965 + 2.5, abs=1e-6)
    half = reward(scores, target, cider, PolicyConfig(cider=0.5))
    assert float(half) == pytest.approx(1.264965 + 1.25, abs=1e-6)
    without = reward(scores, target, None, PolicyConfig(cider=0))
    assert float(without) == pytest.approx(1.264965, abs=1e-6)
    with pytest.raises(ValueError, match="CIDEr"):
        reward(scores, target, None, PolicyConfig())


def test_token_log_p_is_the_log_softmax() -> None:
    logits = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(9, (2, 3, 4))
    expected = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_log_p(logits, targets), expected)
    assert token_log_p(logits.bfloat16(), targets).dtype == torch.float32


class Toy:
    """A policy of two ids: logits for the first, and for the second given the first."""

    def __init__(self, seed: int, vocabulary: int = 4) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.v = vocabulary
        self.first = torch.randn(vocabulary, generator=generator).double().requires_grad_()
        self.second = (
            torch.randn(vocabulary, vocabulary, generator=generator).double().requires_grad_()
        )
        self.rewards = torch.rand(vocabulary, vocabulary, generator=generator).double()

    def everything(self) -> tuple[Tensor, Tensor, Tensor]:
        """All V * V sentences as one object's: log p [1, V * V, 2], mask, rewards."""
        ids = torch.cartesian_prod(torch.arange(self.v), torch.arange(self.v))[None]
        logits = torch.stack([self.first.expand(1, len(ids[0]), -1), self.second[ids[..., 0]]], 2)
        log_p = token_log_p(logits, ids)
        return log_p, torch.ones_like(log_p, dtype=torch.bool), self.rewards.flatten()[None]

    def analytic(self) -> tuple[Tensor, Tensor]:
        """d E[r] / d logits, by hand."""
        p, q = self.first.detach().softmax(0), self.second.detach().softmax(1)
        value = (q * self.rewards).sum(1)
        return p * (value - p @ value), p[:, None] * q * (self.rewards - value[:, None])


@pytest.mark.parametrize("kind", ["none", "mean", "greedy"])
@pytest.mark.parametrize("seed", range(5))
def test_all_sentences_give_the_analytic_gradient(seed: int, kind: Any) -> None:
    """Fact 4: weighted with p(Y), over ALL sentences; a baseline changes nothing."""
    toy = Toy(seed)
    config = PolicyConfig(weighting="posterior", baseline=kind)
    policy_loss(*toy.everything(), config, greedy=torch.tensor([0.3])).backward()
    for parameter, expected in zip((toy.first, toy.second), toy.analytic(), strict=True):
        torch.testing.assert_close(-parameter.grad, expected)


def test_samples_give_the_analytic_gradient_on_average() -> None:
    """Equal weights over true samples, as Eq. 4 is meant; leave-one-out is unbiased too."""
    toy, samples = Toy(0, vocabulary=3), 40_000
    everything, _, rewards = toy.everything()
    generator = torch.Generator().manual_seed(1)
    chance = everything[0].sum(-1).exp().detach()
    drawn = chance.multinomial(samples, replacement=True, generator=generator).view(-1, 4)
    log_p, mask = everything[0, drawn], torch.ones(*drawn.shape, 2, dtype=torch.bool)
    for kind in ("none", "leave_one_out"):
        config = PolicyConfig(baseline=kind)
        loss = policy_loss(log_p, mask, rewards[0, drawn], config)
        (grad,) = torch.autograd.grad(loss, toy.first, retain_graph=True)
        torch.testing.assert_close(-grad, toy.analytic()[0], atol=0.01, rtol=0)


def some(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three objects, four sentences; the last object has only two, of other lengths."""
    generator = torch.Generator().manual_seed(seed)
    log_p = -torch.rand(3, 4, 5, generator=generator).double()
    mask = torch.arange(5) < torch.randint(1, 6, (3, 4, 1), generator=generator)
    mask[2, 2:] = False
    rewards = torch.rand(3, 4, generator=generator).double() * 4
    return log_p.requires_grad_(), mask, rewards


def looped(
    log_p: Tensor, mask: Tensor, rewards: Tensor, config: PolicyConfig, greedy: Tensor
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for e in range(len(log_p)):
        there = [q for q in range(mask.shape[1]) if mask[e, q].any()]
        sums = {q: log_p[e, q][mask[e, q]].sum() for q in there}
        p = {q: float(sums[q].detach().exp()) for q in there}
        weight = {
            q: p[q] / sum(p.values()) if config.weighting == "posterior" else 1 / len(there)
            for q in there
        }
        for q in there:
            others = [o for o in there if o != q] if config.baseline == "leave_one_out" else there
            share = sum(weight[o] for o in others)
            average = sum(weight[o] * float(rewards[e, o]) for o in others) / share
            b = {"none": 0.0, "greedy": float(greedy[e])}.get(config.baseline, average)
            length = int(mask[e, q].sum()) if config.log_p == "mean" else 1
            total = total - weight[q] * (float(rewards[e, q]) - b) * sums[q] / length
    return total / len(log_p)


@pytest.mark.parametrize("kind", ["none", "mean", "greedy", "leave_one_out"])
@pytest.mark.parametrize("weighting", ["equal", "posterior"])
@pytest.mark.parametrize("log_p", ["sum", "mean"])
def test_loss_is_its_loop(kind: Any, weighting: Any, log_p: Any) -> None:
    config = PolicyConfig(baseline=kind, weighting=weighting, log_p=log_p)
    greedy = torch.tensor([0.5, 1.0, 2.0]).double()
    words, mask, rewards = some()
    ours = policy_loss(words, mask, rewards, config, greedy)
    theirs = looped(words, mask, rewards, config, greedy)
    torch.testing.assert_close(ours, theirs)
    (mine,) = torch.autograd.grad(ours, words)
    (other,) = torch.autograd.grad(theirs, words)
    torch.testing.assert_close(mine, other)
    assert not mine[~mask].any()


@pytest.mark.parametrize("kind", ["mean", "leave_one_out"])
@pytest.mark.parametrize("weighting", ["equal", "posterior"])
@pytest.mark.parametrize("value", [0.1, 1.7, 3.3333])
def test_equal_rewards_teach_nothing(kind: Any, weighting: Any, value: float) -> None:
    """Fact 4: exactly zero, not nearly."""
    words, mask, rewards = some()
    words = words.detach().float().requires_grad_()
    config = PolicyConfig(baseline=kind, weighting=weighting)
    policy_loss(words, mask, torch.full_like(rewards, value).float(), config).backward()
    assert not words.grad.any()
    config = PolicyConfig(baseline="none", weighting=weighting)
    policy_loss(words, mask, torch.full_like(rewards, value).float(), config).backward()
    assert torch.equal(words.grad != 0, mask)


def test_a_lone_sentence_and_none_at_all() -> None:
    words, mask, rewards = some()
    mask = mask.clone()
    mask[0, 1:] = False
    mask[1] = False
    rewards[1] = torch.nan  # nobody may read what was never said
    for kind in ("mean", "leave_one_out"):
        for weighting in ("equal", "posterior"):
            config = PolicyConfig(baseline=kind, weighting=weighting)
            (grad,) = torch.autograd.grad(policy_loss(words, mask, rewards, config), words)
            assert not grad[:2].any()
            assert grad[2].any()
            assert grad.isfinite().all()


def test_rewards_are_taken_as_numbers() -> None:
    words, mask, rewards = some()
    rewards.requires_grad_()
    greedy = torch.ones(3, requires_grad=True)
    policy_loss(words, mask, rewards, PolicyConfig(baseline="greedy"), greedy).backward()
    assert rewards.grad is None
    assert greedy.grad is None
    with pytest.raises(ValueError, match="greedy sentence"):
        baseline(rewards, torch.ones(3, 4) / 4, "greedy")


def test_what_is_detected_twice_earns_what_both_earn() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5, -torch.inf]]).expand(3, 4)
    target = torch.tensor([0, 1, 2])
    right = torch.tensor([[False, True, False, False]]).expand(3, 4)
    config = PolicyConfig(tau=2.0, alpha=3.0)
    chance = [math.exp(s / 2) for s in (1.0, 2.0, 0.5)]
    wanted = [3 * sum(chance[n] for n in {k, 1}) / sum(chance) for k in range(3)]
    found = unambiguity(scores, target, config, right)
    torch.testing.assert_close(found, torch.tensor(wanted))
    cider = torch.tensor([0.5, 0.0, 1.0])
    torch.testing.assert_close(reward(scores, target, cider, config, right), found + cider)
    sigmoid = PolicyConfig(form="sigmoid")
    alone = unambiguity(scores, target, sigmoid)
    torch.testing.assert_close(unambiguity(scores, target, sigmoid, right), alone)
