"""Forms of one computation side by side: times in turn, multiply-adds, memory.

Memory is that of a fresh process, which is told by a `Make` how to get its task.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from refseg.methods.mutual.generator import Generator, Writing
from refseg.profile import task_memory

Row = dict[str, float]
Table = dict[str, Row]
Task = Callable[[], Any]
Make = Callable[[], Task]  # picklable: a module's function, or a partial of one


def compared(tasks: Mapping[str, Task], runs: int) -> Table:
    """Median milliseconds of each, and the median over turns of the first's time over its own.

    Every turn runs each once, so that a machine's moods hit all alike; the first one warms up.
    """
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                spent[name].append(1000 * (time.perf_counter() - start))
    slow = next(iter(spent.values()))
    return {
        name: {
            "ms": statistics.median(found),
            "as_fast": statistics.median(b / t for b, t in zip(slow, found, strict=True)),
        }
        for name, found in spent.items()
    }


def gmacs(task: Task) -> float:
    """Multiply-adds (G) of the matrix products and convolutions; no machine's mood is in them."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # fused kernels count as nothing
        task()
    return counter.get_total_flops() / 2e9


def memory(make: Make) -> Row:
    """Resident MiB of a fresh process while the task runs once, and what that adds to it."""
    # glibc then gives back at once what is freed there, and what is told repeats within a MiB.
    # Without it, it varies by a third.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**16))
    told = task_memory(make)
    return {"peak_mib": told["peak"], "added_mib": told["peak"] - told["loaded"]}


def weighed(table: Table, makes: Mapping[str, Make]) -> Table:
    """The table, with the `memory` of each."""
    for name, make in makes.items():
        table[name] |= memory(make)
    return table


def measured(makes: Mapping[str, Make], runs: int) -> Table:
    """Forward passes: `compared`, multiply-adds, `weighed`."""
    tasks = {name: make() for name, make in makes.items()}
    table = compared(tasks, runs)
    for name, task in tasks.items():
        table[name]["gmacs"] = gmacs(task)
    return weighed(table, makes)


@torch.no_grad()
def quietly(form: Callable[..., Any], *arguments: Any) -> Any:
    """What the form returns, without its history."""
    return form(*arguments)


def kept_mib(task: Task, module: nn.Module) -> float:
    """MiB that a forward pass keeps for its backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = task()  # kept, so that no address is used twice
    del alive
    return sum(seen.values()) / 2**20


class FixedLength(Generator):
    """Writes sentences of exactly max_words - 1 ids, the end included.

    Untrained weights say nothing of lengths: a beam search would stop after one word, a greedy
    one hardly ever.
    """

    def step(self, last: Tensor, state: Writing) -> tuple[Tensor, Writing]:
        logits, state = super().step(last, state)
        return self.without_end(logits, state.length), state

    def without_end(self, logits: Tensor, length: int) -> Tensor:
        """Logits after `length` words, [CLS] among them: no end before the last place."""
        if length < self.config.max_words - 1:
            logits[..., self.config.end] = -1000.0
        return logits


def fix_length(generator: Generator, ids: int) -> None:
    """Make a `FixedLength` of it."""
    generator.config = generator.config.model_copy(update={"max_words": ids + 1})
    generator.__class__ = FixedLength


def same(one: Tensor, other: Tensor, what: str) -> None:
    """Stop the run where two forms differ by more than rounding."""
    rtol, atol = (1e-7, 1e-7) if one.dtype == torch.float64 else (1e-3, 1e-4)
    torch.testing.assert_close(one, other, rtol=rtol, atol=atol, msg=lambda why: f"{what}: {why}")
