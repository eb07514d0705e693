"""Sums of loss terms between two log lines, on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Meter:
    """Adds per-process shares; the sum over processes and micro-batches is the batch's mean."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.sums, self.steps = device, dict[str, Tensor](), 0

    def add(self, terms: Mapping[str, Tensor], share: Tensor | float) -> None:
        """Add each term times this micro-batch's share of the global batch."""
        for name, value in terms.items():
            part = value.detach().float() * share
            self.sums[name] = self.sums[name] + part if name in self.sums else part

    def end_step(self) -> None:
        """One optimiser step is complete."""
        self.steps += 1

    def read(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The sums over all processes, in the order of the names. A collective."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        stacked = total(torch.stack([self.sums[name].reshape(()) for name in names]))
        return dict(zip(names, stacked.tolist(), strict=True))

    def load(self, sums: Mapping[str, float], steps: int, main: bool) -> None:
        """Go on from saved sums; they are held by the main process so as to count once."""
        values = {name: value if main else 0.0 for name, value in sums.items()}
        self.sums = {name: torch.tensor(v, device=self.device) for name, v in values.items()}
        self.steps = steps

    def reset(self) -> None:
        """Start the next log line."""
        self.sums, self.steps = {}, 0
