"""The optimiser, from the method's own parameter groups."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from refseg.method import Method, check_groups
from refseg.train.config import TrainConfig


def build_optimiser(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with the groups' factors on learning rate and weight decay.

    Raises AssertionError when the groups miss a trainable parameter or list one twice: a
    parameter in no group would silently never learn.
    """
    groups = cast(Method, method).parameter_groups()
    check_groups(method, groups)
    return torch.optim.AdamW(
        [
            {
                "name": group.name,
                "params": list(group.parameters),
                "lr": config.lr * group.lr_scale,
                "lr_scale": group.lr_scale,
                "weight_decay": config.weight_decay * group.decay_scale,
            }
            for group in groups
        ],
        lr=config.lr,
        betas=config.betas,
        # One pass over memory; sharded and plain tensors side by side take the plain path.
        **({"foreach": False} if config.fsdp else {"fused": True}),
    )


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]
