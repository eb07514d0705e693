"""Exponential moving average of the weights: smoother to evaluate, and what is exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """average <- d * average + (1 - d) * weight, with d = min(decay, (1 + t) / (10 + t)).

    The rising decay lets the average forget the initial weights in short runs. Buffers and
    integer tensors are copied, not averaged. Works on whole and on sharded (DTensor) weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {key: value.detach().clone() for key, value in module.state_dict().items()}
        self._parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps (counted from 1)."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            if key in self._parameters and value.is_floating_point():
                self.average[key].lerp_(value, share)
            else:
                self.average[key].copy_(value)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Within the body `module` holds the averaged weights; afterwards its own, bit for bit."""
        own = {key: value.detach().clone() for key, value in module.state_dict().items()}
        _copy(module, self.average)
        try:
            yield
        finally:
            _copy(module, own)


@torch.no_grad()
def _copy(module: nn.Module, values: dict[str, Tensor]) -> None:
    for key, value in module.state_dict().items():
        value.copy_(values[key])
