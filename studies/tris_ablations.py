"""Study "ablations": step 1 with one thing changed, paired seeds, on val of scenes.

Lambda (claim D6 of the paper: 1 is the worst, and the others are hard to tell apart), calibration
and the bilateral prompt on and off. All choose their weights by the calibrator's margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.base import Outcome
from studies.paired import NOTE_SEEDS, differences, summary
from studies.tris_runs import (
    BASE,
    PROTOCOLS,
    REFSEG,
    VARIANTS,
    Asked,
    Scored,
    first_step,
    told_labels,
    told_steps,
    val_scores,
    whole_recipe,
)

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
    rows, labels = [], set()
    for seed in asked.seeds:
        for variant in variants:
            model = first_step(asked, variant, seed)
            labels.add(told_labels(asked, model))
            about = {"variant": variant, "seed": seed, **model.identity()}
            rows.append({**about, "scores": val_scores(model, asked.limit)})
    runs = [Scored(row["variant"], row["seed"], row["scores"]) for row in rows]
    pairs = [pair for pair in PAIRS if set(pair[1:]) <= set(variants)]
    compared = [
        {**one, "claim": claim}
        for claim, of, over in pairs
        for one in differences(runs, variants, Scored.measures(), [(of, over)])
    ]
    numbers = {
        "world": Path(whole_recipe(asked, REFSEG, asked.seeds[0]).data.name).name,
        "steps": told_steps(asked)["step 1"],
        "n": rows[0]["scores"]["original"]["n"],
        "rows": rows,
        "summary": summary(runs, variants, Scored.measures()),
        "differences": compared,
        "note": NOTE_SEEDS,
    }
    seeds = {"training": list(asked.seeds), "scenes": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], "; ".join(sorted(labels)), seeds)
