"""The plain form of something beside ours: seen to give the same, then timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.mutual.measuring import Table, Task, compared, gmacs, weighed
from benchmarks.sag.plain import formed

Found = tuple[Tensor, ...]
T = TypeVar("T")
ROUNDING = 1e-4  # some ten times what is seen


@dataclass(frozen=True)
class Case:
    """run(module, *given) -> tensors; what is learned from hangs on the first."""

    module: nn.Module
    given: Found
    run: Callable[..., Found]


def in_turn(draw: Callable[[], T], ways: Mapping[str, Callable[[T], Found]], runs: int) -> Table:
    """`compared` on what `draw` makes, after all ways agreed; "gmacs", and memory of fresh
    processes. All must be picklable.
    """
    drawn = draw()
    tasks = {name: partial(way, drawn) for name, way in ways.items()}
    plain, *others = (task() for task in tasks.values())
    for found in others:
        agree(found, plain)
    del plain, others
    table = compared(tasks, runs)
    for name, task in tasks.items():
        table[name]["gmacs"] = gmacs(task)
    return weighed(table, {name: partial(ready, draw, way) for name, way in ways.items()})


def ready(draw: Callable[[], T], way: Callable[[T], Found]) -> Task:
    return partial(way, draw())


def agree(found: Found, plain: Found) -> None:
    """Stop the run where a tensor differs by more than rounding: by its length, since among a
    million slopes some are sums of much that cancels.
    """
    for number, (one, other) in enumerate(zip(found, plain, strict=True)):
        length = other.norm()
        assert length > 0, f"tensor {number} says nothing"
        apart = (one - other).norm() / length
        assert apart < ROUNDING, f"tensor {number}: {apart:.3g} of its length"


@torch.no_grad()
def answer(case: Case, *, plain: bool) -> Found:
    """A forward pass."""
    formed(case.module, plain=plain)
    return case.run(case.module, *case.given)


@torch.enable_grad()
def learn(case: Case, *, plain: bool) -> Found:
    """A forward and a backward pass: what was found, and all slopes as one vector."""
    formed(case.module, plain=plain)
    first, *more = case.run(case.module, *case.given)
    # Lengths are fixed by norms, so that a mean square would have no slope.
    ramp = torch.linspace(-1, 1, first.numel()).view(first.shape)
    asked = [*(one for one in case.given if one.requires_grad), *case.module.parameters()]
    for one in asked:
        one.grad = None
    torch.autograd.backward((first * ramp).sum())
    slopes = torch.cat([one.grad.flatten() for one in asked if one.grad is not None])
    return first.detach(), *(one.detach() for one in more), slopes
