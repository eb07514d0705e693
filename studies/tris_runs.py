"""Models of TRIS (and VEGA beside them) that learned from texts alone, trained and scored.

    FOLDER/refseg-seed0          all stages of `tris_scenes`, with its repairs
    FOLDER/paper-seed0           those of `tris_scenes_paper`, nothing repaired
    FOLDER/lambda-1-seed0        step 1 alone, one thing changed
    FOLDER/vega-refseg-seed0     `vega_scenes` on the pseudo masks of refseg-seed0

Step 1 lies in RUN/respond, the maps of PRMS in RUN/select, the pseudo masks in RUN/refine/data and
step 2 in RUN/segment. The seed draws the order, the new weights, and what else is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies import weak
from studies.base import say, slug
from studies.kept import Scores, Trained
from studies.weak import STUDENT_RECIPE, Measures, Scored, stage

PAIR = "clip-scenes"
REFSEG, PAPER = "refseg", "paper"
PRESETS: Mapping[str, str] = {REFSEG: "tris_scenes", PAPER: "tris_scenes_paper"}
PROTOCOLS = ("original", "tris")
#: Step 1 of the preset `refseg` with one thing changed. Lambda weighs the classification of texts.
BASE = "lambda 5"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "lambda 1": ("tris.response.loss.classification=1",),
    "lambda 2": ("tris.response.loss.classification=2",),
    BASE: ("tris.response.loss.classification=5",),
    "lambda 10": ("tris.response.loss.classification=10",),
    "no calibration": ("tris.response.loss.attract=0", "tris.response.loss.repel=0"),
    "no prompt": ("tris.response.prompt=off",),
}


@dataclass(frozen=True)
class Asked:
    """What the studies of TRIS are asked. pair: the image-text pair that everything starts from.

    first_steps, steps, edge_steps: of step 1, step 2 (and of the student) and the edge network;
    None: the recipe's. overrides: `--set` texts of the runs of TRIS. limit: expressions scored.
    """

    folder: Path
    pair: str = PAIR
    seeds: tuple[int, ...] = (0,)
    first_steps: int | None = None
    steps: int | None = None
    edge_steps: int | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None


def whole_recipe(asked: Asked, preset: str, seed: int) -> Recipe:
    """All stages of a preset."""
    parts = ("vision", "text", "calibrator", "edges")
    settings = [f"weights.{part}={asked.pair}" for part in parts]
    settings += [f"tokens.source={asked.pair}"]
    lengths = {
        "train": asked.steps,
        "tris.train": asked.first_steps,
        "tris.edges_train": asked.edge_steps,
    }
    for group, steps in lengths.items():
        settings += [f"{group}.seed={seed}"]
        settings += [] if steps is None else [f"{group}.steps={steps}"]
    own = apply_overrides(get_recipe(PRESETS[preset]), settings)
    return apply_overrides(own, list(asked.overrides))


def first_recipe(asked: Asked, variant: str, seed: int) -> Recipe:
    """Step 1 alone, of a variant. All choose their weights by the calibrator's margin."""
    changes = ["stages=[respond]", *VARIANTS[variant]]
    return apply_overrides(whole_recipe(asked, REFSEG, seed), changes)


def student_recipe(asked: Asked, preset: str, seed: int) -> Recipe:
    """VEGA on a preset's pseudo masks, as long as step 2; see `studies.weak`."""
    masks = whole_folder(asked, preset, seed) / "refine" / "data"
    teacher = whole_recipe(asked, preset, seed)
    return weak.student_recipe(get_recipe(STUDENT_RECIPE), teacher, masks, seed)


def whole_folder(asked: Asked, preset: str, seed: int) -> Path:
    """Where a preset's run lies."""
    return asked.folder / f"{preset}-seed{seed}"


def trained(asked: Asked, preset: str, seed: int) -> Path:
    """The folder of a preset's run, all stages run that are not yet."""
    folder = whole_folder(asked, preset, seed)
    say(f"TRIS, preset {preset}, seed {seed}")
    run_recipe(whole_recipe(asked, preset, seed), folder)
    return folder


def first_step(asked: Asked, variant: str, seed: int) -> Trained:
    """Step 1 of a variant, trained if it is not yet."""
    folder = asked.folder / f"{slug(variant)}-seed{seed}"
    say(f"step 1, {variant}, seed {seed}")
    run_recipe(first_recipe(asked, variant, seed), folder)
    return stage(folder, "respond")


def student(asked: Asked, preset: str, seed: int) -> Trained:
    """The student of a preset's pseudo masks, which must be there; trained if it is not yet."""
    folder = asked.folder / f"vega-{preset}-seed{seed}"
    say(f"a student of {preset}, seed {seed}")
    run_recipe(student_recipe(asked, preset, seed), folder)
    return stage(folder, "train")


def part_of(recipe: Recipe) -> TrisPart:
    """What the stages of TRIS are told."""
    assert recipe.tris is not None
    return recipe.tris


def told_labels(asked: Asked, run: Trained) -> str:
    """What a model learned from, by its card, without the folder that the pair lies in."""
    return weak.told_labels(run, [asked.pair])


def told_steps(asked: Asked) -> dict[str, int | None]:
    """How long each part is trained."""
    recipe = whole_recipe(asked, REFSEG, asked.seeds[0])
    part = part_of(recipe)
    trainings = {"step 1": part.train, "edges": part.edges_train, "step 2": recipe.train}
    return {name: training.steps for name, training in trainings.items()}


# -- scores --------------------------------------------------------------------------------------


def val_scores(run: Trained, limit: int | None) -> Scores:
    """Scores on val of scenes; kept beside the run."""
    return weak.val_scores(run, "tris", PROTOCOLS, limit, run.load)


def value(measure: str, row: Scored) -> float | None:
    """A measure: points under `tris` where that was asked, all else under `original`; None where
    there is no such thing (masks without a map do not point).
    """
    scores = row.scores
    protocol = "tris" if measure.startswith("Point") and "tris" in scores else "original"
    found: Any = scores[protocol]["metrics"].get(measure)
    return found


#: What is compared, seed by seed.
MEASURES: Measures = {name: partial(value, name) for name in ("PointIt", "PointM", "mIoU", "oIoU")}
