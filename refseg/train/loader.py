"""Batches made in worker processes, in the order of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from refseg.errors import RefsegError
from refseg.train.plan import Plan
from refseg.types import Batch

#: A `Batch`, or whatever the module at hand takes that has `to(device)` and a length.
MakeBatch = Callable[[list[int], int], Any]


@dataclass(frozen=True)
class TrainData:
    """Training data as the loop sees it.

    size: number of samples. make_batch(indices, epoch): collates these samples. It must depend on
    its arguments alone (seed what is random from the run's seed, the epoch and the index), must
    not return an empty batch, and runs in worker processes.
    """

    size: int
    make_batch: MakeBatch


@dataclass(frozen=True)
class _Failure:
    """A user's error on its way out of a worker. Raised there, it would arrive as the text of a
    traceback.
    """

    kind: type[RefsegError]
    message: str
    remedy: str

    def error(self) -> RefsegError:
        plain = self.kind.__init__ is RefsegError.__init__  # UnknownName takes other arguments
        return (self.kind if plain else RefsegError)(self.message, remedy=self.remedy)


class _MicroBatches(Dataset[Any]):
    """Item k is the k-th micro-batch of this process, collated by whoever asks for it."""

    def __init__(self, plan: Plan, make_batch: MakeBatch) -> None:
        self.plan, self.make_batch = plan, make_batch

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Any:
        indices, epoch = self.plan.micro_batch(number)
        try:
            return self.make_batch(indices, epoch)
        except RefsegError as error:
            return _Failure(type(error), error.message, error.remedy)


def micro_batches(plan: Plan, data: TrainData, *, first_step: int, workers: int) -> Iterator[Batch]:
    """This process's micro-batches from `first_step` to the end of the run, in order.

    One set of `workers` lives through all epochs. Raises what `make_batch` raises, whole.
    """
    loader = DataLoader(
        _MicroBatches(plan, data.make_batch),
        batch_size=None,
        sampler=range(first_step * plan.accumulate, len(plan)),
        num_workers=workers,
        collate_fn=_as_is,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # or starting the loader would draw from the global one
    )
    for item in loader:
        if isinstance(item, _Failure):
            raise item.error()
        yield item


def _as_is(batch: Any) -> Any:
    return batch
