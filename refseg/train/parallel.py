"""One process or many: accelerate finds them, DDP copies or FSDP shards the parameters.

Start several with `python -m torch.distributed.run --nproc-per-node N -m refseg ...`
(accelerate's own launcher silently runs one process on a CPU).

FSDP is torch's `fully_shard` inside accelerate's process group, because accelerate's own FSDP
refuses CPU processes and could not be tested. Files always hold whole tensors, so a run may go
on with another number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from refseg.errors import ConfigError
from refseg.method import Method
from refseg.train.config import TrainConfig
from refseg.train.precision import runs_in_bfloat16
from refseg.types import Batch

#: Smaller modules are not worth a message of their own.
SHARD_FROM = 1_000_000
#: The first process writes what all need (step 3: a million sentences) while the others wait; the
#: usual ten minutes to half an hour would end them.
PATIENCE = timedelta(days=2)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The processes and device of this run; honours torchrun's environment and `config.cpu`.

    accelerate keeps its state for the life of the process; it is dropped here so that a second
    run in one process may use another device. The process group itself stays.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.find_unused)
    # Without a GPU accelerate forms a group of processes only if it is told so.
    cpu = config.cpu or not torch.cuda.is_available()
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[unused, patient])


class LossModule(nn.Module):
    """forward(batch) -> loss terms, so that DDP, FSDP and compile see one ordinary module."""

    def __init__(self, method: nn.Module, *, bf16: bool) -> None:
        super().__init__()
        self.method, self.bf16 = method, bf16

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms and "total"; under autocast when bf16."""
        method = cast(Method, self.method)
        device = next(self.method.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            return method.loss(method(batch), batch)


def check_cuts(method: nn.Module, config: TrainConfig, processes: int) -> None:
    """Refuse to cut a step whose loss cannot be cut.

    A method that says `compares_samples = True` learns by telling the samples of a step apart:
    each part would have fewer to tell apart, which is another loss. Raises ConfigError.
    """
    parts = config.accumulate * processes
    if parts > 1 and getattr(method, "compares_samples", False):
        raise ConfigError(
            f"{type(method).__name__} learns by comparing all samples of a step, and this run "
            f"would cut each step into {parts} parts ({processes} processes, train.accumulate="
            f"{config.accumulate})",
            remedy="train it in one process with train.accumulate=1; a smaller train.batch_size "
            "needs less memory, and gives fewer texts to tell apart",
        )


def wrap(accelerator: Accelerator, method: nn.Module, config: TrainConfig) -> nn.Module:
    """The module to call for losses: on the device, compiled, copied or sharded as configured.

    After it `method` lies on the device; under FSDP its parameters have become DTensors, so
    build the optimiser afterwards. Raises ConfigError for fsdp in one process.
    """
    module = LossModule(method, bf16=runs_in_bfloat16(config, accelerator.device))
    if config.compile:
        module.compile()
    if not config.fsdp:
        return cast(nn.Module, accelerator.prepare_model(module))
    if accelerator.num_processes == 1:
        raise ConfigError(
            "train.fsdp shards over processes, but there is only one",
            remedy="start with torchrun --nproc-per-node 2 (or more), or set train.fsdp=false",
        )
    module.to(accelerator.device)
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, src=0)  # every shard is cut from the same weights
    _shard(module)
    return module


def _shard(module: LossModule) -> None:
    """Large blocks of module lists one by one, the rest together. Scalars cannot be sharded:
    each process keeps its own copy and `sync_scalars` averages their gradients.

    Only the innermost lists count: a method may reach into a block that holds blocks (VEGA runs
    Swin's stages part by part), and such a block's own forward, which would gather its shards,
    is then never called.
    """
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for child in module.method.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                if any(isinstance(inner, nn.ModuleList) for inner in block.modules()):
                    continue
                if sum(p.numel() for p in block.parameters()) >= SHARD_FROM:
                    fully_shard(block, ignored_params=scalars)
    fully_shard(module, ignored_params=scalars)


def sync_scalars(accelerator: Accelerator, module: nn.Module) -> None:
    """Average over processes the gradients that FSDP leaves alone. Call before the step."""
    if not isinstance(module, FSDPModule):
        return
    for parameter in module.parameters():
        if parameter.ndim == 0 and parameter.grad is not None:
            parameter.grad.copy_(accelerator.reduce(parameter.grad, "mean"))


def clip_gradients(module: nn.Module, most: float) -> Tensor:
    """Scale all gradients so that their total norm is at most `most`; return the norm before."""
    grads = {p: p.grad for p in module.parameters() if p.grad is not None}
    shards = [p for p in grads if isinstance(p, DTensor)]
    plain = [p for p in grads if not isinstance(p, DTensor)]
    # The two kinds cannot share one stacked tensor, so their norms are joined by hand.
    norms = [nn.utils.get_total_norm([grads[p] for p in kind]) for kind in (shards, plain) if kind]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = torch.linalg.vector_norm(torch.stack(whole)) if len(whole) > 1 else whole[0]
    for kind in (shards, plain):
        nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm


@contextmanager
def gradient_sync(accelerator: Accelerator, module: nn.Module, wanted: bool) -> Iterator[None]:
    """Whether the backward passes in the body exchange gradients between processes."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
        yield
        return
    with nullcontext() if wanted else accelerator.no_sync(module):
        yield


@contextmanager
def whole_parameters(module: nn.Module) -> Iterator[None]:
    """Within the body sharded parameters are whole, so parts of `module` can be called alone."""
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within the body torch prefers kernels that give the same bits each time (with a warning
    where there is none). CPU kernels of this package's methods do so anyway.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Sum of `value` over the processes."""
    if accelerator.num_processes == 1:
        return value
    return cast(Tensor, accelerator.reduce(value, "sum"))


def from_main(accelerator: Accelerator, value: Any) -> Any:
    """The main process's `value`, in every process."""
    if accelerator.num_processes == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
