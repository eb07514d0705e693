"""Whole tensors in and out of a model, an optimiser or an average, sharded or not.

Under FSDP a parameter is a DTensor of which each process holds a part. Files always hold whole
tensors, so a checkpoint does not know how many processes wrote it. `gather` is a collective:
every process must call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from refseg.errors import ModelError


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole, contiguous CPU copies without shared memory, in the given order."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        if isinstance(value, DTensor):
            value = value.full_tensor()
        whole[name] = value.to("cpu", copy=True).contiguous()
    return whole


@torch.no_grad()
def put(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    """Copy whole `values` into `targets` of the same names and shapes, bit for bit.

    Raises ModelError naming what is missing, unknown or of another shape in `what`.
    """
    missing, unknown = (
        sorted(targets.keys() - values.keys()),
        sorted(values.keys() - targets.keys()),
    )
    wrong = [n for n in targets.keys() & values.keys() if targets[n].shape != values[n].shape]
    if missing or unknown or wrong:
        parts = [("missing", missing), ("unknown", unknown), ("of another shape", sorted(wrong))]
        told = "; ".join(f"{title}: {', '.join(names[:5])}" for title, names in parts if names)
        raise ModelError(
            f"{what} does not fit the model ({told})",
            remedy="use the recipe and the package version that wrote it",
        )
    for name, target in targets.items():
        target.copy_(like(target, values[name]))


def like(target: Tensor, value: Tensor) -> Tensor:
    """`value` on the device of `target`, sharded as it is."""
    if isinstance(target, DTensor):
        return distribute_tensor(
            value.to(target.device), target.device_mesh, list(target.placements)
        )
    return value.to(target.device)


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str]
) -> dict[str, Tensor]:
    """The optimiser's state as "parameter/slot" -> tensor. names: id(parameter) -> name."""
    return {
        f"{names[id(parameter)]}/{slot}": value
        for group in optimiser.param_groups
        for parameter in group["params"]
        for slot, value in optimiser.state.get(parameter, {}).items()
    }


def put_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[int, str], values: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimiser_tensors` (gathered). Parameters without an entry start anew."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    slots: dict[str, dict[str, Tensor]] = {}
    for key, value in values.items():
        name, slot = key.rsplit("/", 1)
        slots.setdefault(name, {})[slot] = value
    state = {
        index: {slot: _fit(parameter, value) for slot, value in slots[names[id(parameter)]].items()}
        for index, parameter in enumerate(parameters)
        if names[id(parameter)] in slots
    }
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )


def _fit(parameter: Tensor, value: Tensor) -> Tensor:
    return like(parameter, value) if value.shape == parameter.shape else value


def parameter_names(module: nn.Module) -> dict[int, str]:
    """id(parameter) -> its first name."""
    return {id(parameter): name for name, parameter in module.named_parameters()}
