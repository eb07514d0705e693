"""Study "ablations": Shatter and Gather with one thing changed, paired seeds, on val of scenes.

What the paper claims of each difference is from its Tables 2 and 3 and its supplement's A2, in
points of RefCOCO val. Of slots of other kinds it shows pictures alone; that images with the same
words are no negatives is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studies.base import Outcome
from studies.paired import NOTE_SEEDS
from studies.sag_runs import (
    ALL_OTHERS,
    BASE,
    MAIN,
    MEASURES,
    NO_DISCOVERY,
    NO_FUSION,
    NO_INTERACTION,
    NO_RECONSTRUCTION,
    ON_REQUEST,
    PATCHES,
    PROTOCOLS,
    QUERY,
    RANDOM,
    VARIANTS,
    Asked,
    method_of,
    told_labels,
    trained,
    val_scores,
    variant_recipe,
    world_of,
)
from studies.weak import Row, ablated, compared

DEFAULT = tuple(name for name in VARIANTS if name not in ON_REQUEST)
#: The paper's cIoU (oIoU here) and mIoU of its variants, % of RefCOCO val.
PAPER = {
    BASE: (30.40, 34.76),
    PATCHES: (11.29, 12.61),
    NO_RECONSTRUCTION: (18.61, 21.84),
    "T 1": (25.11, 28.00),
    "T 2": (27.67, 31.77),
    "T 4": (28.95, 33.24),
    NO_INTERACTION: (29.59, 33.69),
    NO_DISCOVERY: (5.40, 5.91),
    NO_FUSION: (13.81, 14.65),
}
#: What it says where it has no numbers.
WORDS = {RANDOM: "noisy entities", QUERY: "too coarse", ALL_OTHERS: "its code does so"}
PAIRS = (*(("", BASE, other) for other in tuple(VARIANTS)[1:]), ("", "T 2", "T 1"))


def run(asked: Asked, variants: Sequence[str] = DEFAULT) -> Outcome:
    """Train what is not trained yet and score it."""
    done = ablated(
        variants,
        asked.seeds,
        lambda variant, seed: trained(asked, variant, seed),
        lambda model: val_scores(model, asked.limit),
    )
    rows = [row for _, row in done]
    told = compared(rows, variants, PAIRS, MAIN)
    recipe = variant_recipe(asked, BASE, asked.seeds[0])
    numbers = {
        "world": world_of(recipe),
        "steps": recipe.train.steps,
        "slots": slots(asked),
        "n": rows[0]["scores"]["original"]["n"],
        "left out": [name for name in VARIANTS if name not in variants],
        "rows": rows,
        "summary": compared(rows, variants, (), MEASURES)["summary"],
        "differences": [{**one, "claim": claimed(one)} for one in told["differences"]],
        "note": NOTE_SEEDS,
    }
    labels = "; ".join(sorted({told_labels(asked, model) for model, _ in done}))
    seeds = {"training": list(asked.seeds), "scenes": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], labels, seeds)


def slots(asked: Asked) -> dict[str, Any]:
    """What the base has: K_g, K_s and T."""
    told = method_of(variant_recipe(asked, BASE, asked.seeds[0])).slots
    return {"groups": told.groups, "per group": told.per_group, "T": told.iterations}


def claimed(difference: Row) -> str:
    """The paper's own difference in points, or its words."""
    of, over = difference["of"], difference["over"]
    if {of, over} <= PAPER.keys():
        place = ("oIoU", "mIoU").index(difference["measure"])
        return f"{PAPER[of][place] - PAPER[over][place]:+.1f}"
    return WORDS[over]
