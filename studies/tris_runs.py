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
from pathlib import Path
from typing import Any

from refseg.data.dataset import ReferDataset
from refseg.evaluate import Answers, Options, evaluate_all
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies import kept
from studies.base import open_scenes, say, slug
from studies.kept import Scores, Trained
from studies.partial_runs import labels_of, named

PAIR = "clip-scenes"
REFSEG, PAPER = "refseg", "paper"
PRESETS: Mapping[str, str] = {REFSEG: "tris_scenes", PAPER: "tris_scenes_paper"}
STUDENT_RECIPE = "vega_scenes"
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
#: What is compared, seed by seed -> the metric; the protocol is that of `value`.
MEASURES = ("PointIt", "PointM", "mIoU", "oIoU")


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
    """VEGA on a preset's pseudo masks: as many steps of as many expressions as step 2, and the last
    weights, since nothing may choose among them.
    """
    teacher = whole_recipe(asked, preset, seed)
    settings = [
        f"data.name={whole_folder(asked, preset, seed) / 'refine' / 'data'}",
        f"data.train={teacher.data.train}",
        f"data.per_image={teacher.data.per_image}",
        "data.evaluate=null",
        "select=null",
        f"train.steps={teacher.train.steps}",
        f"train.batch_size={teacher.train.batch_size}",
        f"train.seed={seed}",
    ]
    return apply_overrides(get_recipe(STUDENT_RECIPE), settings)


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


def stage(folder: Path, name: str) -> Trained:
    """The model that a stage of a run has left, under the run's name."""
    return named(Trained.at(folder / name), folder)


def part_of(recipe: Recipe) -> TrisPart:
    """What the stages of TRIS are told."""
    assert recipe.tris is not None
    return recipe.tris


def told_labels(asked: Asked, run: Trained) -> str:
    """What a model learned from, by its card, without the folder that the pair lies in."""
    return labels_of(run).replace(asked.pair, Path(asked.pair).name)


def told_steps(asked: Asked) -> dict[str, int | None]:
    """How long each part is trained."""
    recipe = whole_recipe(asked, REFSEG, asked.seeds[0])
    part = part_of(recipe)
    trainings = {"step 1": part.train, "edges": part.edges_train, "step 2": recipe.train}
    return {name: training.steps for name, training in trainings.items()}


# -- scores --------------------------------------------------------------------------------------


def val_scores(run: Trained, limit: int | None) -> Scores:
    """`scored` on val of scenes; kept beside the run."""
    data = open_scenes("scenes", "val")
    key = {"weights": run.weights, "data": data.hash, "limit": limit}
    key["version"] = kept.SCORES_VERSION
    name = f"tris-{data.name}-{data.split}-{limit or 'all'}"
    return kept.kept(run, name, key, lambda: scored(run.load(), data, PROTOCOLS, limit))


def scored(
    model: Answers, data: ReferDataset, protocols: tuple[str, ...], limit: int | None = None
) -> Scores:
    """Protocol -> how many expressions, metrics, intervals; plain values."""
    reports = evaluate_all(model, data, protocols, options=Options(limit))
    names = ("n", "metrics", "intervals")
    return {one.protocol: {name: one.to_json()[name] for name in names} for one in reports}


def value(scores: Scores, measure: str) -> float | None:
    """A measure: points under `tris` where that was asked, all else under `original`; None where
    there is no such thing (masks without a map do not point).
    """
    protocol = "tris" if measure.startswith("Point") and "tris" in scores else "original"
    found: Any = scores[protocol]["metrics"].get(measure)
    return found


@dataclass(frozen=True)
class Scored:
    """A row of a study, as `studies.paired` takes it."""

    variant: str
    seed: int
    scores: Scores

    @classmethod
    def measures(cls) -> dict[str, Any]:
        """Name -> its value for a row."""
        return {name: lambda one, name=name: value(one.scores, name) for name in MEASURES}
