"""Models of Partial-RES (and VEGA beside them) that learned from few masks, trained and scored.

    FOLDER/scratch-1-seed0/train        RES on 1 % of the masks, from no REC model
    FOLDER/naive-1-seed0/res            REC's weights, RES on 1 % of the masks, nothing added
    FOLDER/full-1-seed0/res             with [TASK], CCTF, PMCA
    FOLDER/full-1-seed0/pseudo          the masks of the rest that fit their boxes (RPP)
    FOLDER/full-1-seed0/res_pseudo      learned from both
    FOLDER/dense-1-seed0/train          `vega_scenes` on the same masks
    FOLDER/task-learnable-seed0/res     the modes of [TASK], all masks

All start from one REC model, which saw every box and no mask. The seed draws the masks, the order
and the new weights; runs with one seed see the same masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg import models
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Options, Report, evaluate_all
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.opening import masked_refs
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from studies import kept
from studies.base import open_scenes, say
from studies.kept import Trained

RECIPE, DENSE_RECIPE = "partial_res_scenes", "vega_scenes"
#: The world that is learned from: one style, so that a ref is an object.
WORLD = "scenes@12000"
PROTOCOLS = ("original", "seqtr-crowd")
SCRATCH, NAIVE, PARTS, FULL, DENSE = "scratch", "naive", "parts", "full", "dense"
#: VEGA is shown what the others are shown: as many expressions a step, mirrored as often.
SHOWN_ALIKE = ("data.augment.flip=0.5", "train.batch_size=8", "data.per_image=8")
#: What the naive pipeline leaves out.
ALL_OFF = (
    "method.cctf=off",
    "method.pmca.on=false",
    "method.language_token=false",
    "method.task_token=zero",
)
#: Modes of [TASK] (supplement, Table 1).
TASKS: Mapping[str, tuple[str, ...]] = {
    "learnable": (),
    "zero": ("method.task_token=zero",),
    # Boxes are written, too, but not asked for cell by cell: the other two have no such term.
    "task-wise": ("method.task=multi", "method.task_token=task-wise", "method.loss.inside=0"),
}


@dataclass(frozen=True)
class Few:
    """What the studies of few masks are asked. rec: the REC model that all start from.

    steps: of RES; again_steps: of RES on true and pseudo masks; dense_steps: of VEGA; None: the
    recipe's. overrides, dense_overrides: `--set` texts of the runs of Partial-RES and of VEGA.
    limit: expressions scored.
    """

    folder: Path
    rec: str
    seeds: tuple[int, ...] = (0,)
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    steps: int | None = None
    again_steps: int | None = None
    dense_steps: int | None = None
    overrides: tuple[str, ...] = ()
    dense_overrides: tuple[str, ...] = ()
    limit: int | None = None


def shares_recipe(asked: Few, variant: str, share: float, seed: int) -> Recipe:
    """Of a row of the study of shares. With all masks there is nothing to label."""
    masks = "null" if share >= 1 else str(share)
    settings = [f"data.name={WORLD}", f"data.mask_seed={seed}", f"train.seed={seed}"]
    settings += [f"data.mask_share={masks}"]
    if variant == DENSE:
        steps = asked.dense_steps or asked.steps or get_recipe(RECIPE).train.steps
        settings += ["data.evaluate=null", "select=null", f"train.steps={steps}", *SHOWN_ALIKE]
        return _with(DENSE_RECIPE, [*settings, *asked.dense_overrides])
    if variant == SCRATCH:
        encoder = get_recipe(RECIPE).weights.vision
        started = _started(asked, rec="null", vision=encoder)
        return _with(RECIPE, [*settings, "stages=[train]", *ALL_OFF, *started])
    stages = "[res,pseudo,res_pseudo]" if variant == FULL and share < 1 else "[res]"
    settings += [f"stages={stages}", *(ALL_OFF if variant == NAIVE else ())]
    return _with(RECIPE, [*settings, *_started(asked)])


def _with(name: str, settings: Sequence[str]) -> Recipe:
    """The recipe with settings, of which a later one takes an earlier one's place."""
    last = {one.partition("=")[0]: one for one in settings}
    return apply_overrides(get_recipe(name), list(last.values()))


def task_recipe(asked: Few, mode: str, seed: int) -> Recipe:
    """Of a mode of [TASK], with all masks."""
    settings = [f"data.name={WORLD}", f"train.seed={seed}", "data.mask_share=null"]
    return _with(RECIPE, [*settings, "stages=[res]", *TASKS[mode], *_started(asked)])


def _started(asked: Few, rec: str | None = None, vision: str | None = None) -> list[str]:
    settings = [f"weights.rec={rec or asked.rec}", f"weights.vision={vision or 'null'}"]
    if asked.steps is not None:
        settings.append(f"train.steps={asked.steps}")
    if asked.again_steps is not None:
        settings.append(f"partial.again_steps={asked.again_steps}")
    return [*settings, *asked.overrides]


def trained(asked: Few, variant: str, share: float, seed: int) -> Trained:
    """A row's model, trained if it is not yet. The parts are the first stage of the full method."""
    recipe = shares_recipe(asked, FULL if variant == PARTS else variant, share, seed)
    kind = FULL if variant == PARTS else variant
    folder = asked.folder / f"{kind}-{100 * share:g}-seed{seed}"
    say(f"{variant}, {100 * share:g} % of the masks, seed {seed}")
    run_recipe(recipe, folder)
    stage = {SCRATCH: "train", DENSE: "train", FULL: "res_pseudo" if share < 1 else "res"}.get(
        variant, "res"
    )
    return named(Trained.at(folder / stage), folder)


def trained_task(asked: Few, mode: str, seed: int) -> Trained:
    """A mode's model, trained if it is not yet."""
    folder = asked.folder / f"task-{mode}-seed{seed}"
    say(f"[TASK] {mode}, seed {seed}")
    run_recipe(task_recipe(asked, mode, seed), folder)
    return named(Trained.at(folder / "res"), folder)


def named(run: Trained, folder: Path) -> Trained:
    """The run under its folder's name; a stage's own says little."""
    return Trained(f"{folder.name}-{run.name}", run.model, run.scores)


def scores(run: Trained, dataset: ReferDataset, limit: int | None) -> dict[str, Any]:
    """Protocol -> metrics and intervals, and the IoU of each expression under `original`."""

    def make() -> dict[str, Any]:
        options = Options(limit)
        reports = evaluate_all(run.load(), dataset, PROTOCOLS, options=options)
        return {report.protocol: _told(report, dataset) for report in reports}

    key = {"weights": run.weights, "data": dataset.hash, "limit": limit}
    key["version"] = kept.SCORES_VERSION
    name = f"few-{dataset.name}-{dataset.split}-{limit or 'all'}"
    return kept.kept(run, name, key, make)


def _told(report: Report, dataset: ReferDataset) -> dict[str, Any]:
    return {key: value for key, value in report.to_json().items() if key in _KEPT}


_KEPT = ("n", "metrics", "intervals")


def row(run: Trained, limit: int | None, style: str = "scenes") -> dict[str, Any]:
    """The model on val of a style, plain values for a record."""
    return {**run.identity(), "scores": scores(run, open_scenes(style, "val"), limit)}


def masks_of(recipe: Recipe) -> int | None:
    """How many objects have a mask; None for all."""
    return masked_refs(recipe).objects if recipe.data.few_masks else None


def labels_of(run: Trained) -> str:
    """What the model learned from, by its card."""
    return str(models.read_model_file(run.model).card.get("labels used", "unknown"))
