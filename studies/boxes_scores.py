"""Scores of the study "boxes": comprehension, what is written before and after step 2, directions.

Published numbers stand in `studies.published`; here is only what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from refseg.data.catalog import open_data
from refseg.evaluate_text import RUNS_ON, runs_on
from refseg.metrics.captions import tokenise
from refseg.metrics.words import unrolled
from refseg.types import Labels
from studies import kept
from studies.base import Outcome
from studies.directions import CIDER, METEOR, RB_ACC, Direction, judged
from studies.kept import Trained
from studies.mutual_boxes import BEFORE, JUDGE, MAIN, REWARDS, Boxes, others

PROTOCOL = "annotated objects"
LABELS = Labels.parse("text+box+category")
READ, WRITTEN = ("val", "testA", "testB"), ("testA", "testB")
EXAMPLES = 4  # of each split
SIGNAL = 250  # objects of each split whose rewards are looked at
#: What the paper reports, on RefCOCO+ testB (Tables 3 and 5).
DIRECTIONS = (
    Direction("step 2 raises Rb-Acc", MAIN, BEFORE, RB_ACC, "+"),
    Direction("step 2 raises CIDEr", MAIN, BEFORE, CIDER, "+"),
    Direction("step 2 lowers METEOR a little", MAIN, BEFORE, METEOR, "-"),
    Direction("unambiguity alone: more Rb-Acc than with CIDEr", "unambiguity", MAIN, RB_ACC, "+"),
    Direction("unambiguity alone: less CIDEr than with CIDEr", "unambiguity", MAIN, CIDER, "-"),
    Direction("softmax: more Rb-Acc than sigmoid", MAIN, "sigmoid", RB_ACC, "+"),
    Direction("sigmoid: less Rb-Acc than before step 2", "sigmoid", BEFORE, RB_ACC, "-"),
    Direction("tau 2.5: more Rb-Acc than tau 1", MAIN, "softmax tau 1", RB_ACC, "+"),
)


def score(asked: Boxes) -> Outcome:
    """Score every run. Raises RunError when one has not been trained."""
    sets = {name: _of_set(asked, name) for name in asked.sets}
    labels = sets[asked.sets[0]]["comprehension"][0]["labels"]
    data = [f"{name} {split}" for name in asked.sets for split in READ]
    seeds = {"writer": 0, "judge": 1, "step 2": 0, "bootstrap": 0, "examples": 0}
    numbers = {"sets": sets, "never": len(asked.never), "beams": list(asked.beams)}
    return Outcome(numbers, [PROTOCOL], data, str(labels), seeds)


def _of_set(asked: Boxes, name: str) -> dict[str, Any]:
    runs = {variant: Trained.at(asked.run(name, variant)) for variant in (BEFORE, *REWARDS)}
    judge = Trained.at(asked.run(name, JUDGE))
    opened = partial(open_data, asked.real / name, labels=LABELS, objects=True, pixels=False)
    comprehension = [
        {**kept.of_objects(run, opened(split), asked.limit), "reader": reader}
        for reader, run in (("writer", runs[BEFORE]), ("judge", judge))
        for split in READ
    ]
    texts: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    rows = []
    for split in WRITTEN:
        dataset = opened(split)
        for beams in asked.beams:
            for variant, run in runs.items():
                told = kept.of_expressions(
                    run,
                    dataset,
                    asked.limit,
                    judge=judge,
                    beams=beams,
                    merge=others(asked, name),
                    with_meteor="if possible",
                )
                texts.setdefault((split, beams), {})[variant] = told
                rows.append(_row(variant, told))
    main = {split: texts[split, asked.beams[0]] for split in WRITTEN}
    return {
        "runs": [run.identity() for run in (*runs.values(), judge)],
        "comprehension": [_without_counts(row) for row in comprehension],
        "expressions": rows,
        "directions": {
            split: [
                {"beams": beams, **row}
                for beams in asked.beams
                for row in judged(DIRECTIONS, texts[split, beams])
            ]
            for split in WRITTEN
        },
        "examples": {split: examples(found) for split, found in main.items()},
        "people": {split: worded(found[BEFORE]) for split, found in main.items()},
        "rewards": {
            split: kept.of_rewards(runs[BEFORE], opened(split), min(SIGNAL, asked.limit or SIGNAL))
            for split in WRITTEN
        },
    }


def _row(variant: str, told: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("split", "beams", "n", "metrics", "intervals", "merged", "notes")
    return {"variant": variant, **{key: told[key] for key in keys}}


def _without_counts(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("reader", "split", "n", "absent", "rivals", "labels", "metrics", "intervals")
    return {key: row[key] for key in keys}


def worded(told: Mapping[str, Any]) -> dict[str, float]:
    """Of people's sentences about a report's objects: their mean length, "words", the share that
    "runs on", and that of the first of each object that is "distinct" (a model writes one an
    object, too).
    """
    references = told["samples"]["references"]
    every = [text for texts in references for text in texts]
    return {
        "words": sum(len(unrolled(text)) for text in every) / len(every),
        RUNS_ON: sum(map(runs_on, every)) / len(every),
        "distinct": len({tuple(tokenise(texts[0])) for texts in references}) / len(references),
    }


def examples(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Objects drawn by seed 0 among those whose sentence step 2 has changed.

    found: variant -> report with samples, of one split.
    """
    before, after = found[BEFORE]["samples"], found[MAIN]["samples"]
    changed = [
        row
        for row, (one, other) in enumerate(zip(before["text"], after["text"], strict=True))
        if one != other
    ]
    drawn: Sequence[int] = np.random.default_rng(0).permutation(changed)[:EXAMPLES].tolist()
    return [
        {
            "ann_id": before["ann_id"][row],
            "people": before["references"][row],
            "before": before["text"][row],
            "before hit": before["hit"][row],
            "after": after["text"][row],
            "after hit": after["hit"][row],
        }
        for row in sorted(drawn)
    ]
