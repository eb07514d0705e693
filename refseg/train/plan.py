"""Which samples each step sees: a pure function of (seed, step), cut evenly over the processes.

A run is a list of micro-batches known in advance. Resuming starts reading the list further down,
so nothing that was already learnt from is decoded again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from refseg.errors import ConfigError
from refseg.train.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """The micro-batches of one process.

    size: samples in the data set. rank, world: this process and their number.
    """

    size: int
    batch_size: int
    accumulate: int
    seed: int
    total_steps: int
    rank: int = 0
    world: int = 1
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def make(
        cls, config: TrainConfig, size: int, rank: int = 0, world: int = 1, *, of: str = "the data"
    ) -> Plan:
        """The plan of a run over `size` samples. Raises ConfigError for sizes that do not fit,
        naming what they are samples of.
        """
        slices = world * config.accumulate
        if config.batch_size % slices:
            raise ConfigError(
                f"batch_size {config.batch_size} cannot be cut into {slices} equal parts "
                f"({world} processes x accumulate {config.accumulate})",
                remedy=f"use a multiple of {slices} for train.batch_size",
            )
        if size < config.batch_size:
            raise ConfigError(
                f"batch_size {config.batch_size} is more than the {size} samples of {of}",
                remedy=f"set train.batch_size to {size} or less, or give more data",
            )
        steps = config.steps or (config.epochs or 0) * (size // config.batch_size)
        return cls(size, config.batch_size, config.accumulate, config.seed, steps, rank, world)

    @property
    def steps_per_epoch(self) -> int:
        """Steps per pass; a remainder smaller than a batch is left out of this pass."""
        return self.size // self.batch_size

    def __len__(self) -> int:
        """Micro-batches of this process in the whole run."""
        return self.total_steps * self.accumulate

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) that step (from 0) belongs to."""
        return step // self.steps_per_epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of all samples in an epoch; the same in every process."""
        if epoch not in self._orders:
            self._orders.clear()
            rng = np.random.default_rng([self.seed, epoch])
            self._orders[epoch] = rng.permutation(self.size)
        return self._orders[epoch]

    def micro_batch(self, number: int) -> tuple[list[int], int]:
        """Sample indices and epoch of the process's micro-batch `number` (from 0)."""
        step, part = divmod(number, self.accumulate)
        epoch = self.epoch_of(step)
        width = self.batch_size // (self.world * self.accumulate)
        start = (step % self.steps_per_epoch) * self.batch_size
        start += (part * self.world + self.rank) * width
        return self.order(epoch)[start : start + width].tolist(), epoch
