"""A training step with all parts plain, beside ours: keys once, the split decoder, pairs at once.

Forward, loss, backward, clipping and AdamW in float32, as when learning: dropout, fresh noise, and
the share of patches that the recipe reconstructs. Weights, pixels and words are random. Memory is
that of a second step, which finds weights and the optimiser's two copies of them there. Before
anything is timed, both must give the same losses and slopes without what is random, of all patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.mutual.measuring import Table, Task, compared, gmacs, weighed
from benchmarks.sag.forms import Found, agree
from benchmarks.sag.plain import formed
from benchmarks.sag.sizes import SIZES, Size
from refseg.methods.sag import Sag
from refseg.types import Batch

PLAIN, OURS = "plain parts", "ours"
CLIP, RATE = 0.1, 1e-5
WAYS = {PLAIN: True, OURS: False}


@dataclass(frozen=True)
class Learner:
    """What a step needs."""

    method: Sag
    optimiser: torch.optim.Optimizer
    batch: Batch


def stepping(runs: int = 5) -> dict[str, Table]:
    """By size: both forms, with "ms" a step, "per_second" sentences, "gmacs", memory of fresh
    processes.
    """
    return {
        f"{size.name}, {size.images} images x {size.each} sentences": measured(size, runs)
        for size in SIZES
    }


def measured(size: Size, runs: int) -> Table:
    learner = drawn(size)
    agree(learned(learner, plain=False), learned(learner, plain=True))
    tasks = {name: partial(step, learner, plain) for name, plain in WAYS.items()}
    table = compared(tasks, runs)
    for name, task in tasks.items():
        rate = 1000 * len(learner.batch) / table[name]["ms"]
        table[name] |= {"per_second": rate, "gmacs": gmacs(task)}
    del learner, tasks, task  # before others take as much
    return weighed(table, {name: partial(ready, size, plain) for name, plain in WAYS.items()})


def drawn(size: Size) -> Learner:
    method = size.built()
    optimiser = torch.optim.AdamW(method.parameters(), RATE)
    return Learner(method, optimiser, size.batch([size.each] * size.images))


def ready(size: Size, plain: bool) -> Task:
    learner = drawn(size)
    step(learner, plain)
    learner.optimiser.zero_grad()
    return partial(step, learner, plain)


@torch.enable_grad()
def step(learner: Learner, plain: bool) -> None:
    method, batch = learner.method.train(), learner.batch
    formed(method, plain=plain)
    learner.optimiser.zero_grad()
    torch.autograd.backward(method.loss(method(batch), batch)["total"])
    torch.nn.utils.clip_grad_norm_(method.parameters(), CLIP)
    learner.optimiser.step()


def learned(learner: Learner, *, plain: bool) -> Found:
    """All losses, and the slopes of their sum as one vector."""
    method, batch = learner.method.eval(), learner.batch
    formed(method, plain=plain)
    losses = method.loss(method(batch), batch)
    slopes = torch.autograd.grad(losses["total"], list(method.parameters()))
    told = [loss.detach() for loss in losses.values()]
    return *told, torch.cat([slope.flatten() for slope in slopes])
