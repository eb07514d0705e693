"""Study "task": what stands before the coordinates of an outline (supplement, Table 1).

[TASK] learnable, zero, or the learned pair of one sequence for both tasks; all masks, paired seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studies.base import Outcome
from studies.paired import NOTE_SEEDS, Measures, differences, summary
from studies.partial_runs import (
    PROTOCOLS,
    TASKS,
    WORLD,
    Few,
    labels_of,
    row,
    task_recipe,
    trained_task,
)

#: (of, over): the paper's order.
PAIRS = (("learnable", "zero"), ("zero", "task-wise"), ("learnable", "task-wise"))


@dataclass(frozen=True)
class _Run:
    variant: str
    seed: int
    metrics: dict[str, Any]


MEASURES: Measures[_Run] = {
    "mIoU": lambda one: float(one.metrics["mIoU"]),
    "Pr@0.5": lambda one: float(one.metrics["Pr@0.5"]),
    "Pr@0.9": lambda one: float(one.metrics["Pr@0.9"]),
    "REC@0.5": lambda one: float(one.metrics["REC@0.5"]),
}


def run(asked: Few) -> Outcome:
    """Train what is not trained yet, seed by seed so that pairs finish early, and score it."""
    rows = []
    for seed in asked.seeds:
        for mode in TASKS:
            model = trained_task(asked, mode, seed)
            rows.append({"variant": mode, "seed": seed, **row(model, asked.limit)})
    done = [_Run(one["variant"], one["seed"], one["scores"]["original"]["metrics"]) for one in rows]
    numbers = {
        "world": WORLD,
        "steps": task_recipe(asked, "learnable", asked.seeds[0]).train.steps,
        "rows": summary(done, tuple(TASKS), MEASURES),
        "differences": differences(done, tuple(TASKS), MEASURES, PAIRS),
        "runs": rows,
        "note": NOTE_SEEDS,
    }
    labels = labels_of(trained_task(asked, "learnable", asked.seeds[0]))
    return Outcome(numbers, PROTOCOLS, ["scenes val"], labels, {"training": list(asked.seeds)})
