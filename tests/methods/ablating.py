"""What ablation tests share: another value for a field, and weights to compare by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import nn

Config = TypeVar("Config", bound=BaseModel)
Module = TypeVar("Module", bound=nn.Module)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration, checked anew, with other values: dotted path -> value."""
    data = config.model_dump()
    for path, value in changes.items():
        *parents, name = path.split(".")
        inner = data
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    return type(config).model_validate(data)


def same_weights(
    method: Module, spread: float, kept: Callable[[str], bool] = lambda name: False
) -> Module:
    """Every weight moved by what is drawn from its own name, so that equal modules are equal in two
    configurations. kept: names of those that are not, since a field says what they start from.
    """
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if kept(name):
                continue
            seed = sum(i * ord(c) for i, c in enumerate(name, 1))
            generator = torch.Generator().manual_seed(seed)
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return method
