"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from refseg.train.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, total: int) -> float:
    """Factor on the base learning rate for the step number `step` of 0 .. total - 1.

    constant: 1. poly: (1 - i/I)^power (LAVT's rule, power 0.9). cosine: from 1 to 0 by half a
    cosine. step: `step_factor` for each fraction in `step_at` that is behind. All times
    min(1, (i + 1) / warmup).
    """
    done = step / total
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return rise * _shape(config, done)


def _shape(config: TrainConfig, done: float) -> float:
    match config.schedule:
        case "constant":
            return 1.0
        case "poly":
            return float((1.0 - done) ** config.poly_power)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "step":
            return float(config.step_factor ** sum(done >= at for at in config.step_at))
