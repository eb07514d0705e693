"""The optimiser, from the method's own parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from refseg.method import Method, check_groups
from refseg.train.config import TrainConfig
from refseg.train.muon import Float32Muon
from refseg.train.precision import multiplies_bfloat16


def build_optimiser(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser with the groups' factors on learning rate and weight decay.

    Raises AssertionError when the groups miss a trainable parameter or list one twice: a
    parameter in no group would silently never learn.
    """
    groups = cast(Method, method).parameter_groups()
    check_groups(method, groups)
    options = [
        {
            "name": group.name,
            "params": list(group.parameters),
            "lr": config.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
            "weight_decay": config.weight_decay * group.decay_scale,
        }
        for group in groups
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(options, lr=config.lr)
    if config.optimiser == "adamw":
        return _adamw(options, config)
    tables = {id(m.weight) for m in method.modules() if isinstance(m, nn.Embedding)}
    matrices, rest = [], []
    for group, option in zip(groups, options, strict=True):
        turned = [
            p
            for p in group.parameters
            if group.decay_scale
            and (p.ndim == 2 or (config.turn_kernels and p.ndim > 2))
            and id(p) not in tables
        ]
        others = [p for p in group.parameters if all(p is not other for other in turned)]
        matrices += [{**option, "params": turned}] if turned else []
        rest += [{**option, "params": others}] if others else []
    device = groups[0].parameters[0].device
    own = config.turn_kernels or not multiplies_bfloat16(device)
    rule = Float32Muon if own else torch.optim.Muon
    muon = rule(matrices, lr=config.lr, adjust_lr_fn="match_rms_adamw")
    return JointOptimiser([muon, _adamw(rest, config)] if rest else [muon])


def _adamw(options: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        options,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        amsgrad=config.amsgrad,
        # One pass over memory; sharded and plain tensors side by side take the plain path.
        **({"foreach": False} if config.fsdp else {"fused": True}),
    )


class JointOptimiser(torch.optim.Optimizer):
    """Optimisers of disjoint parameters that step, save and load as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The parts step on the joint groups and state, so that one place holds both."""
        start = 0
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:stop], self.state
            start = stop

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every part. A closure is refused: it would have to run once for all."""
        if closure is not None:
            raise ValueError("joint optimisers take no closure: it would run once for each part")
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As any optimiser's; the parts see what was loaded."""
        super().load_state_dict(state_dict)
        self._share()


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]
