"""One optimiser step on one global batch, the same whatever it is cut into.

A micro-batch's loss is a mean over its rows; its share is its rows over those of the global batch.
The shares of all micro-batches of all processes sum to one, so the gradient is that of one mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from refseg.train.config import TrainConfig
from refseg.train.meter import Meter
from refseg.train.optim import set_lr
from refseg.train.parallel import clip_gradients, gradient_sync, sync_scalars, total
from refseg.types import Batch


@dataclass(frozen=True)
class Stepper:
    """module: what `parallel.wrap` made of `method`. meter: takes the loss terms."""

    accelerator: Any
    method: nn.Module
    module: nn.Module
    optimiser: torch.optim.Optimizer
    config: TrainConfig
    meter: Meter

    def step(self, stream: Iterator[Batch], step: int, lr: float) -> None:
        """Learn from the next micro-batches of `stream` as step number `step` (from 0)."""
        batches = [next(stream) for _ in range(self.config.accumulate)]
        # After reading: whatever made the batches may have drawn from torch's generator.
        set_seed(step_seed(self.config.seed, step, self.accelerator.process_index))
        set_lr(self.optimiser, lr)
        for number, share in enumerate(self._shares(batches)):
            with gradient_sync(self.accelerator, self.module, number == len(batches) - 1):
                self._backward(batches[number].to(self.accelerator.device), share)
        sync_scalars(self.accelerator, self.module)
        if self.config.clip_norm is not None:
            norm = clip_gradients(self.module, self.config.clip_norm)
            self.meter.add({"grad_norm": norm}, 1.0 / self.accelerator.num_processes)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.meter.end_step()

    def _shares(self, batches: list[Batch]) -> list[Tensor]:
        """Each micro-batch's rows over the global batch's. A collective."""
        rows = torch.tensor([_rows(self.method, batch) for batch in batches])
        rows = rows.to(self.accelerator.device)
        return list((rows / total(self.accelerator, rows.sum())).unbind())

    def _backward(self, batch: Batch, share: Tensor) -> None:
        terms = self.module(batch)
        # DDP and FSDP average over processes; the shares already sum to one.
        self.accelerator.backward(terms["total"] * (share * self.accelerator.num_processes))
        self.meter.add(terms, share)


def _rows(method: nn.Module, batch: Batch) -> float:
    """What a micro-batch's mean loss runs over: `method.loss_weight(batch)` or its size.

    A method whose loss is a mean over some rows only (those with a mask, say) offers
    `loss_weight`, so that unequal slices still give the global batch's mean.
    """
    ability = getattr(method, "loss_weight", None)
    return float(len(batch) if ability is None else ability(batch))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed in 0 .. 2^32 - 1 for torch's generators (dropout) in one step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
