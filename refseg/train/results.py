"""What goes into a run besides data, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from refseg.train.checkpoint import Best


@dataclass(frozen=True)
class Evaluation:
    """How to score a method during training.

    run(method): metric -> value; called in every process with the method in eval mode (averaged
    weights where EMA is on); the main process's answer counts. select: the metric whose largest
    value marks the best weights, None to keep none. labels: what `run` may see, recorded with
    the choice.
    """

    run: Callable[[nn.Module], Mapping[str, float]]
    select: str | None = None
    labels: str = "text"


@dataclass(frozen=True)
class FitResult:
    """What a finished run leaves.

    steps: done in all. metrics: of the last evaluation. best: the record of the best weights.
    weights: the file to export: the best, else the last (averaged where EMA is on).
    seconds: over all starts.
    """

    steps: int
    metrics: Mapping[str, float]
    best: Best | None
    weights: Path
    seconds: float
