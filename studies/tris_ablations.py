"""Study "ablations": step 1 with one thing changed, paired seeds, on val of scenes.

Lambda (claim D6 of the paper: 1 is the worst, and the others are hard to tell apart), calibration
and the bilateral prompt on and off. All choose their weights by the calibrator's margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.base import Outcome
from studies.paired import NOTE_SEEDS
from studies.tris_runs import (
    BASE,
    MEASURES,
    PROTOCOLS,
    REFSEG,
    VARIANTS,
    Asked,
    first_step,
    told_labels,
    told_steps,
    val_scores,
    whole_recipe,
)
from studies.weak import ablated, compared

WORST = "lambda 1"
#: (claim, of, over)
PAIRS = (
    *(("D6", one, WORST) for one in ("lambda 2", BASE, "lambda 10")),
    ("", BASE, "lambda 2"),
    ("", BASE, "lambda 10"),
    ("D9", BASE, "no calibration"),
    ("D9", BASE, "no prompt"),
)


def run(asked: Asked, variants: Sequence[str] = tuple(VARIANTS)) -> Outcome:
    """Train what is not trained yet and score it."""
    done = ablated(
        variants,
        asked.seeds,
        lambda variant, seed: first_step(asked, variant, seed),
        lambda model: val_scores(model, asked.limit),
    )
    rows = [row for _, row in done]
    numbers = {
        "world": Path(whole_recipe(asked, REFSEG, asked.seeds[0]).data.name).name,
        "steps": told_steps(asked)["step 1"],
        "n": rows[0]["scores"]["original"]["n"],
        "rows": rows,
        **compared(rows, variants, PAIRS, MEASURES),
        "note": NOTE_SEEDS,
    }
    labels = "; ".join(sorted({told_labels(asked, model) for model, _ in done}))
    seeds = {"training": list(asked.seeds), "scenes": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], labels, seeds)
