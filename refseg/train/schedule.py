"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from refseg.train.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, total: int) -> float:
    """Factor on the base learning rate for the step number `step` of 0 .. total - 1.

    constant: 1. poly: (1 - i/I)^power (LAVT's rule, power 0.9). cosine: from 1 to 0 by half a
    cosine. step: `step_factor` for each fraction in `step_at` that is behind. All times
    min(1, (i + 1) / warmup), or by SeqTR's rule min(1, (e + 1) / (warmup_epochs + 1)) in epoch e
    from 0, of `total // epochs` steps each.
    """
    return _rise(config, step, total) * _shape(config, step / total)


def _rise(config: TrainConfig, step: int, total: int) -> float:
    if config.warmup_epochs and config.epochs:
        epoch = step // max(1, total // config.epochs)
        return min(1.0, (epoch + 1) / (config.warmup_epochs + 1))
    return min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0


def _shape(config: TrainConfig, done: float) -> float:
    match config.schedule:
        case "constant":
            return 1.0
        case "poly":
            return float((1.0 - done) ** config.poly_power)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "step":
            # A quotient is rounded the same whatever its terms were shortened by, so that 74/90
            # is behind from the first step of epoch 74 (from 0) of 90 on, however many it has.
            return float(config.step_factor ** sum(done >= at for at in config.step_at))
