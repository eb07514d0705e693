"""Study "shares": how much label does a person need? mIoU against the share of masks given.

The naive pipeline, the parts of Partial-RES, the full method with RPP, and VEGA (a dense mask head)
on the same masks; pseudo masks before and after the filter; REC of the model that all start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refseg import models
from refseg.data.catalog import open_data
from refseg.evaluate import Options, evaluate_all
from refseg.recipes.scoring import BoxScorer
from refseg.types import Labels
from studies import partial_pseudo
from studies.base import Outcome, open_scenes, say
from studies.paired import NOTE_SEEDS, differences
from studies.partial_runs import (
    DENSE,
    FULL,
    NAIVE,
    PARTS,
    PROTOCOLS,
    SCRATCH,
    WORLD,
    Few,
    labels_of,
    masks_of,
    row,
    shares_recipe,
    trained,
)

PIPELINE = (NAIVE, PARTS, FULL)
VARIANTS = (SCRATCH, *PIPELINE, DENSE)


def run(asked: Few, variants: Sequence[str] = VARIANTS) -> Outcome:
    """Train what is not trained yet and score it."""
    rows, pseudo, labels = [], [], set()
    for seed in asked.seeds:
        for share in asked.shares:
            for variant in variants:
                if variant == FULL and share >= 1:
                    continue  # nothing is left to label: the parts are the full method
                model = trained(asked, variant, share, seed)
                labels.add(labels_of(model))
                rows.append(
                    {"variant": variant, "share": share, "seed": seed, **row(model, asked.limit)}
                )
            if FULL in variants and share < 1:
                pseudo.append(_pseudo(asked, share, seed))
    recipe = {share: shares_recipe(asked, PARTS, share, asked.seeds[0]) for share in asked.shares}
    numbers = {
        "world": WORLD,
        "steps": recipe[asked.shares[0]].train.steps,
        "masks": {f"{share:g}": masks_of(one) for share, one in recipe.items()},
        "rec": rec_scores(asked.rec, asked.limit),
        "boxes": filled_boxes(asked.rec, asked.limit),
        "rows": rows,
        "summary": summary(rows),
        "differences": compared(rows, asked.shares),
        "pseudo": pseudo,
        "note": NOTE_SEEDS,
    }
    seeds = {"training and masks": list(asked.seeds), "scenes": 0}
    return Outcome(numbers, PROTOCOLS, ["scenes val"], "; ".join(sorted(labels)), seeds)


def _pseudo(asked: Few, share: float, seed: int) -> dict[str, Any]:
    """Of the model that labels: the parts, by that share."""
    model = trained(asked, PARTS, share, seed)
    recipe = shares_recipe(asked, FULL, share, seed)
    say(f"pseudo masks of {model.name}")
    return {"share": share, "seed": seed, **partial_pseudo.measure(model, recipe).told()}


def rec_scores(name: str, limit: int | None) -> dict[str, Any]:
    """REC@0.5 of the model for boxes on val of the three styles."""
    model = models.load(name)
    told: dict[str, Any] = {}
    for style in ("scenes", "scenes+", "scenesg"):
        data = open_data(style, "val", Labels.parse("text+box"))
        rows = list(range(len(data)))[:limit]
        scorer = BoxScorer(data, model.tokenizer, model.preprocess, rows)
        told[style] = {"n": len(rows), **scorer(model.method)}
    return told


def filled_boxes(name: str, limit: int | None) -> dict[str, Any]:
    """What no mask at all is good for: the boxes of the REC model, filled, on scenes val."""
    reports = evaluate_all(
        models.load(name), open_scenes("scenes", "val"), PROTOCOLS, options=Options(limit)
    )
    return {report.protocol: dict(report.metrics) for report in reports}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds of each variant and share, and the recovery ratio: mIoU over that
    of the same variant with all masks, and over the full method's.
    """
    found = []
    for variant in VARIANTS:
        mine = [one for one in rows if one["variant"] == variant]
        for share in sorted({one["share"] for one in mine}):
            values = [_miou(one) for one in mine if one["share"] == share]
            crowd = [_miou(one, "seqtr-crowd") for one in mine if one["share"] == share]
            rec = [
                one["scores"]["original"]["metrics"]["REC@0.5"]
                for one in mine
                if one["share"] == share
            ]
            found.append(
                {
                    "variant": variant,
                    "share": share,
                    "seeds": len(values),
                    "mIoU": float(np.mean(values)),
                    "mIoU spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "mIoU seqtr-crowd": float(np.mean(crowd)),
                    "REC@0.5": float(np.mean(rec)),
                }
            )
    whole = {one["variant"]: one["mIoU"] for one in found if one["share"] >= 1}
    for one in found:
        own, full = whole.get(PARTS if one["variant"] == FULL else one["variant"]), whole.get(PARTS)
        one["recovery"] = one["mIoU"] / own if own else None
        one["of the full method"] = one["mIoU"] / full if full else None
    return found


def _miou(one: dict[str, Any], protocol: str = "original") -> float:
    return float(one["scores"][protocol]["metrics"]["mIoU"])


def compared(rows: Sequence[dict[str, Any]], shares: Sequence[float]) -> list[dict[str, Any]]:
    """Differences in mIoU, share by share, on the seeds that both have."""
    told = []
    for share in shares:
        runs = [
            _Run(one["variant"], one["seed"], _miou(one)) for one in rows if one["share"] == share
        ]
        pairs = [
            (FULL, PARTS),
            (PARTS, NAIVE),
            (NAIVE, SCRATCH),
            (FULL, NAIVE),
            (FULL if share < 1 else PARTS, DENSE),
        ]
        there = {one.variant for one in runs}
        asked = [pair for pair in pairs if set(pair) <= there]
        found = differences(runs, VARIANTS, {"mIoU": lambda one: one.value}, asked)
        told += [{"share": share, **one} for one in found]
    return told


class _Run:
    def __init__(self, variant: str, seed: int, value: float) -> None:
        self.variant, self.seed, self.value = variant, seed, value
