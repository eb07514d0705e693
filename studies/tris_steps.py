"""Study "steps": what each step of TRIS is worth, beside what needs no training.

Step 1, step 2 and a student of the pseudo masks on val of scenes; the pseudo labels themselves on
the first training pictures, before PRMS, after it and after refinement. Claims of the paper: D1,
refinement raises the labels' IoU; D2, step 2 is far above step 1; D4, step 1 is far above a
MaskCLIP-style map of the same encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from refseg.baselines import NAMES, PREFIX, make_baseline
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Answers
from refseg.recipes.base import Recipe
from studies import tris_labels
from studies.base import Outcome, open_scenes, say
from studies.kept import Trained
from studies.paired import NOTE_SEEDS, differences, summary
from studies.tris_encoder import MASKCLIP, SALIENCY, EncoderAnswers
from studies.tris_labels import FIRST, PICTURES, PRMS, PRMS_SURE, REFINED
from studies.tris_runs import (
    MEASURES,
    PAPER,
    PRESETS,
    PROTOCOLS,
    REFSEG,
    Asked,
    student,
    told_labels,
    told_steps,
    trained,
    val_scores,
    whole_recipe,
)
from studies.weak import Row, Scored, on_each_seed, scored, stage

ONE, TWO, STUDENT = "step 1", "step 2", "student"
VAL, TRAIN = "val", "train"
TRIVIAL = NAMES[:2]  # the third looks at annotations
#: (claim, of, over), each a step and where it is measured.
WITHIN = (
    ("D1", (REFINED, TRAIN), (PRMS, TRAIN)),
    ("D1", (REFINED, TRAIN), (PRMS_SURE, TRAIN)),
    ("", (PRMS, TRAIN), (FIRST, TRAIN)),
    ("D2", (TWO, VAL), (ONE, VAL)),
    ("", (STUDENT, VAL), (TWO, VAL)),
    ("D4", (ONE, VAL), (MASKCLIP, VAL)),
    ("", (ONE, VAL), (SALIENCY, VAL)),
)
ACROSS = ((ONE, VAL), (PRMS, TRAIN), (REFINED, TRAIN), (TWO, VAL))


def run(asked: Asked, presets: Sequence[str] = tuple(PRESETS), pictures: int = PICTURES) -> Outcome:
    """Train what is not trained yet and score it."""
    rows, labels = untrained(asked, pictures), set()
    for seed, preset in product(asked.seeds, presets):
        folder, recipe = trained(asked, preset, seed), whole_recipe(asked, preset, seed)
        models = {
            ONE: stage(folder, "respond"),
            TWO: stage(folder, "segment"),
            STUDENT: student(asked, preset, seed),
        }
        labels |= {told_labels(asked, models[step]) for step in (ONE, TWO)}
        labels |= {f"{told_labels(asked, models[STUDENT])} (the student, of pseudo masks)"}
        rows += of_run(folder, recipe, models, asked.limit, pictures, preset, seed)
    numbers = {
        "world": Path(whole_recipe(asked, REFSEG, asked.seeds[0]).data.name).name,
        "steps": told_steps(asked),
        "pictures": pictures,
        "rows": rows,
        "summary": means(rows),
        "differences": compared(rows, presets, asked.seeds),
        "note": NOTE_SEEDS,
    }
    seeds = {"training": list(asked.seeds), "scenes": 0}
    data = ["scenes val", f"the first {pictures:,} training pictures"]
    return Outcome(numbers, PROTOCOLS, data, "; ".join(sorted(labels)), seeds)


def of_run(
    folder: Path,
    recipe: Recipe,
    models: dict[str, Trained],
    limit: int | None,
    pictures: int,
    preset: str,
    seed: int,
) -> list[Row]:
    """The models of a run on val, and its labels."""
    about = {"preset": preset, "seed": seed}
    rows: list[Row] = [
        {**about, "step": step, "on": VAL, **one.identity(), "scores": val_scores(one, limit)}
        for step, one in models.items()
    ]
    say(f"labels of {folder.name}")
    made = tris_labels.measure(folder, recipe, pictures)
    return rows + [
        {**about, "step": step, "on": TRAIN, "scores": scores} for step, scores in made.items()
    ]


def untrained(asked: Asked, pictures: int) -> list[Row]:
    """What needs no training, on the same val and training pictures."""
    recipe = whole_recipe(asked, REFSEG, asked.seeds[0])
    places = {
        VAL: (open_scenes("scenes", "val"), PROTOCOLS, asked.limit),
        TRAIN: (tris_labels.training_pictures(recipe, pictures), tris_labels.PROTOCOLS, None),
    }
    rows: list[Row] = []
    for on, (data, protocols, limit) in places.items():
        for one in answers(asked, recipe, data):
            say(f"{one.name} on {on}")
            step, found = one.name.removeprefix(PREFIX), scored(one, data, protocols, limit)
            rows.append({"preset": None, "seed": None, "step": step, "on": on, "scores": found})
    return rows


def answers(asked: Asked, recipe: Recipe, data: ReferDataset) -> Iterable[Answers]:
    """Trivial baselines, and what the encoder shows; it sees pictures as step 1 does."""
    for name in TRIVIAL:
        yield make_baseline(name, data)
    for rule in (SALIENCY, MASKCLIP):
        yield EncoderAnswers(asked.pair, recipe.preprocess, rule)


# -- put together ----------------------------------------------------------------------------------


def means(rows: Sequence[Row]) -> list[Row]:
    """Mean and spread over seeds of each preset's step, and what needs no training."""
    keys = dict.fromkeys((row["preset"], row["step"], row["on"]) for row in rows)
    told = []
    for key in keys:
        mine = [row for row in rows if (row["preset"], row["step"], row["on"]) == key]
        runs = [Scored("", number, row["scores"]) for number, row in enumerate(mine)]
        (found,) = summary(runs, [""], MEASURES)
        protocols = mine[0]["scores"]
        found["n"] = protocols["original"]["n"]
        if "tris" in protocols:
            ious = [row["scores"]["tris"]["metrics"]["mIoU"] for row in mine]
            found["mIoU tris"] = sum(ious) / len(ious)
        found |= dict(zip(("preset", "step", "on"), key, strict=True))
        told.append({name: one for name, one in found.items() if name != "variant"})
    return told


def compared(rows: Sequence[Row], presets: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """Differences between steps, and between presets, seed by seed. What needs no training has the
    same score with every seed.
    """
    found = []
    for preset in presets:
        mine = (row for row in rows if row["preset"] in (preset, None))
        runs = on_each_seed(mine, lambda row: f"{row['step']} {row['on']}", seeds)
        for claim, of, over in WITHIN:
            pair = (" ".join(of), " ".join(over))
            told = differences(runs, pair, MEASURES, [pair])
            about = {"claim": claim, "on": of[1]}
            sides = {"of": f"{preset}: {of[0]}", "over": _side(preset, over[0])}
            found += [{**one, **about, **sides} for one in told]
    return found + (across(rows) if {REFSEG, PAPER} <= set(presets) else [])


def _side(preset: str, step: str) -> str:
    return step if step in (SALIENCY, MASKCLIP) else f"{preset}: {step}"


def across(rows: Sequence[Row]) -> list[Row]:
    """The preset `refseg` over `paper`, step by step."""
    found = []
    for step, on in ACROSS:
        mine = [row for row in rows if (row["step"], row["on"]) == (step, on)]
        runs = [Scored(f"{row['preset']}: {step}", row["seed"], row["scores"]) for row in mine]
        pair = (f"{REFSEG}: {step}", f"{PAPER}: {step}")
        told = differences(runs, pair, MEASURES, [pair])
        found += [{**one, "claim": "", "on": on} for one in told]
    return found
