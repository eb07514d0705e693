"""What a method costs: parameters, multiply-adds by part, latency and peak memory.

The columns of TRIS's cost table (supplement, Table 2: parameters, MACs, milliseconds at a stated
size and batch 1), measured the same way for every method, with the memory added.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refseg.errors import ConfigError
from refseg.method import trainable
from refseg.ops.images import corner_geometry
from refseg.types import Batch, Geometry, NetObjects

if TYPE_CHECKING:
    from torch import nn

    from refseg.nn.eyes import Eyes

REST = "(outside parts)"
WARM_UP = 3
DEPTH = 2  # parts, and parts of parts
MIB = 2**20


@dataclass(frozen=True)
class Part:
    """A module: parameters, those that are trained, and multiply-adds.

    name: "encoder" for a part of the method, "encoder.fusion" for a part of that part.
    """

    name: str
    params: int
    trainable: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """The cost of one expression about one image.

    params, trainable, macs: totals; macs counts one multiply-add as one. forward_ms: one value
    per timed run. memory_mib: "loaded" and "peak" while the forward pass runs: resident memory
    of a fresh process on a CPU, allocated memory on a GPU.
    """

    size: int
    tokens: int
    device: str
    threads: int
    params: int
    trainable: int
    macs: int
    parts: tuple[Part, ...]
    forward_ms: tuple[float, ...]
    memory_mib: Mapping[str, float]

    @property
    def median_ms(self) -> float:
        """Median of the timed runs."""
        return float(np.median(self.forward_ms))

    @property
    def p90_ms(self) -> float:
        """What nine runs out of ten stay below."""
        return float(np.percentile(self.forward_ms, 90))

    def to_json(self) -> dict[str, Any]:
        """Plain values, the single runs left out."""
        told = asdict(self)
        runs = told.pop("forward_ms")
        latency = {"median": self.median_ms, "p90": self.p90_ms, "runs": len(runs)}
        return {**told, "parts": list(told["parts"]), "forward_ms": latency}


Made = tuple["nn.Module", Batch]


def cost(make: Callable[[], Made], *, runs: int = 20, device: str = "cpu") -> Cost:
    """Measure the method and the batch of one expression that `make` returns.

    make: picklable (a module's function, or a partial of one): on a CPU it is called again in a
    fresh process, where the peak of memory can be told from what came before.
    Raises ConfigError for fewer than one run.
    """
    import torch

    if runs < 1:
        raise ConfigError(f"{runs} timed runs are too few", remedy="ask for one or more")
    method, batch = make()
    method.eval().to(device)
    batch = batch.to(device)
    parts, macs = count(method, batch)
    memory = _gpu_memory(method, batch) if device != "cpu" else _cpu_memory(make)
    return Cost(
        size=_size(batch),
        tokens=int(batch.words.shape[1]),
        device=device if device == "cpu" else torch.cuda.get_device_name(),
        threads=torch.get_num_threads(),
        params=sum(p.numel() for p in method.parameters()),
        trainable=trainable(method),
        macs=macs,
        parts=tuple(parts),
        forward_ms=tuple(_time(method, batch, runs)),
        memory_mib=memory,
    )


def _size(batch: Batch) -> int:
    """The longer side of what is looked at, px."""
    if batch.originals is None:
        return int(batch.images.shape[-1])
    return max(int(side) for side in batch.originals[0].shape[:2])


def seeing(method: nn.Module, eyes: Eyes, size: int, tokens: int) -> Made:
    """A method with the weights of others that it sees by, as one module, and a `case` for it:
    a photograph of noise, 4 : 3, its longer side `size` px.
    """
    from refseg.nn.eyes import WithEyes

    hw = (max(3 * size // 4, 1), size)
    noise = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    fitted = (corner_geometry(hw, eyes.side),)
    return WithEyes(method, eyes), replace(case(0, tokens), originals=(noise,), geometry=fitted)


def case(size: int, tokens: int, objects: Sequence[str] = ()) -> Batch:
    """One expression of `tokens` tokens about noise of [1, 3, size, size].

    Token ids stay below 100, which every vocabulary has. objects: categories of annotated objects
    with boxes, for methods that choose among them.
    """
    import torch

    geometry = Geometry((size, size), (size, size), (1.0, 1.0))
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(
        images=noise,
        image_of=torch.zeros(1, dtype=torch.long),
        words=1 + torch.arange(tokens)[None] % 98,
        word_mask=torch.ones(1, tokens, dtype=torch.bool),
        geometry=(geometry,),
        keys=("0",),
        texts=("something",),
        weights=torch.ones(1),
        objects=NetObjects(
            known=torch.ones(1, len(objects), dtype=torch.bool),
            ann_ids=torch.arange(len(objects))[None],
            geometry=(geometry,),
            boxes=torch.tensor([0.0, 0.0, size, size]).expand(1, len(objects), 4),
            categories=(tuple(objects),),
        )
        if objects
        else None,
    )


def count(method: nn.Module, batch: Batch) -> tuple[list[Part], int]:
    """Parameters and multiply-adds of each part and its parts, and all multiply-adds.

    Counted are matrix products and convolutions (`torch.utils.flop_counter`). Attention runs as
    plain products meanwhile: the fused kernel of a CPU is unknown to the counter and counts 0.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    method.eval()
    counter = FlopCounterMode(display=False)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        counter,
        _attributed(method, counter.get_total_flops) as flops,
    ):
        method(batch)
    total = counter.get_total_flops() // 2
    parts = [
        _part(name, module, _at_or_below(flops, name) // 2)
        for name, module in method.named_modules()
        if name and name.count(".") < DEPTH
    ]
    own = list(method.parameters(recurse=False))
    rest = total - sum(part.macs for part in parts if "." not in part.name)
    if own or rest:
        trained = sum(p.numel() for p in own if p.requires_grad)
        parts.append(Part(REST, sum(p.numel() for p in own), trained, rest))
    return parts, total


@contextmanager
def _attributed(method: nn.Module, read: Callable[[], int]) -> Iterator[Counter[str]]:
    """Fills a count per module name with what the meter `read` gains while it is innermost.

    The counter's own table says what runs below a module's `forward`; a method that reaches
    between the stages of a part never calls that part's `forward`, so it would be missed.
    """
    gained: Counter[str] = Counter()
    stack, last = [""], read()

    def settle() -> None:
        nonlocal last
        now = read()
        gained[stack[-1]] += now - last
        last = now

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            settle()
            stack.append(name)

        return hook

    def leave(*_: Any) -> None:
        settle()
        stack.pop()

    hooks = [m.register_forward_pre_hook(enter(name)) for name, m in method.named_modules()]
    hooks += [m.register_forward_hook(leave) for m in method.modules()]
    try:
        yield gained
        settle()
    finally:
        for hook in hooks:
            hook.remove()


def _part(name: str, module: nn.Module, macs: int) -> Part:
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return Part(name, sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), macs)


def _at_or_below(counts: Mapping[str, int], name: str) -> int:
    return sum(n for where, n in counts.items() if f"{where}.".startswith(f"{name}."))


def _time(method: nn.Module, batch: Batch, runs: int) -> list[float]:
    import torch

    def wait() -> None:
        if batch.images.is_cuda:
            torch.cuda.synchronize()

    spent = []
    with torch.inference_mode():
        for turn in range(WARM_UP + runs):
            wait()
            start = time.perf_counter()
            method(batch)
            wait()
            if turn >= WARM_UP:
                spent.append(1000 * (time.perf_counter() - start))
    return spent


def _gpu_memory(method: nn.Module, batch: Batch) -> dict[str, float]:
    import torch

    loaded = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        method(batch)
    return {"loaded": loaded / MIB, "peak": torch.cuda.max_memory_allocated() / MIB}


def _cpu_memory(make: Callable[[], Made]) -> dict[str, float]:
    return task_memory(partial(_forward, make))


def _forward(make: Callable[[], Made]) -> Callable[[], object]:
    import torch

    method, batch = make()
    return torch.inference_mode()(partial(method.eval(), batch))


def task_memory(make: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Resident MiB of a fresh process: "loaded" once `make` returned, "peak" while what it returned
    runs once. Fresh, because what earlier runs left behind would hide the peak. make: picklable.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run_once, make).result()


def _run_once(make: Callable[[], Callable[[], object]]) -> dict[str, float]:
    import psutil

    task = make()
    loaded = psutil.Process(os.getpid()).memory_info().rss
    _forget_peak()
    task()
    return {"loaded": loaded / MIB, "peak": _peak() / MIB}


def _forget_peak() -> None:
    """Let the peak start from now. Where the system has no such switch, loading counts too."""
    switch = Path("/proc/self/clear_refs")
    try:
        switch.write_text("5")
    except OSError:
        return


def _peak() -> int:
    """Peak resident bytes since the start or the last `_forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
