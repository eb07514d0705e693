"""From a recipe to a model folder: data, method and training meet here.

RUN/recipe.json        the resolved recipe      RUN/train/log.jsonl     the curve
RUN/provenance.json    each start of the run    RUN/train/checkpoints/  to resume from
RUN/model/             what `refseg predict --model RUN/model` loads
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

import refseg
from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.errors import DataError, LabelsError, UnknownName
from refseg.evaluate import target_mask
from refseg.nn.weights import load_state, read_state
from refseg.recipes.base import Recipe
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.provenance import claim, digest, identity, settle
from refseg.recipes.scoring import PROTOCOL, Scorer
from refseg.recipes.stages import Stage, publish, run_stage
from refseg.recipes.starts import CARD_ENTRY, Starts, check_starts, find_starts, start_hashes
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.parallel import make_accelerator
from refseg.train.plan import Plan
from refseg.train.progress import ProgressMode
from refseg.train.results import Evaluation, FitResult

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class RunResult:
    """model: the exported folder. metrics: its card's metrics. skipped: stages found finished."""

    model: Path
    metrics: Mapping[str, float]
    skipped: tuple[str, ...]


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    *,
    resume: bool = True,
    progress: ProgressMode = "auto",
    command: str | None = None,
) -> RunResult:
    """Run the stages of `recipe` in `run_dir`, going on where an earlier start was interrupted.

    command: how a person would repeat this; it goes into the model card.
    Raises RunError (folder in use by another recipe, broken, unwritable), DataError, LabelsError
    (the method needs labels that are not granted), ConfigError, UnknownName.
    """
    # Word pieces are cut in loader workers; threads of a forked tokenizer would only warn.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    accelerator = make_accelerator(recipe.train)
    main, barrier = accelerator.is_main_process, accelerator.wait_for_everyone
    claim(recipe, run_dir, resume=resume)
    barrier()
    place = (accelerator.process_index, accelerator.num_processes)
    job = _Job(recipe, main, progress, command, place)
    first = _first_to_run(job, run_dir)
    if main:
        settle(recipe, run_dir, processes=None if first is None else place[1])
    skipped = []
    for name in recipe.stages:
        stage = first if first is not None and name == first.name else _stage(name, job)
        if not run_stage(stage, run_dir, main=main, barrier=barrier):
            skipped.append(name)
    model = run_dir / "model"
    if main:
        publish(run_dir / recipe.stages[-1] / "model", model)
    barrier()
    card = models.read_model_file(model).card
    return RunResult(model, card.get("metrics", {}), tuple(skipped))


@dataclass(frozen=True)
class _Job:
    """What every stage needs. main: whether this process writes. place: its rank, of how many."""

    recipe: Recipe
    main: bool
    progress: ProgressMode
    command: str | None
    place: tuple[int, int] = (0, 1)


def _first_to_run(job: _Job, run_dir: Path) -> Stage | None:
    """The first stage that is not finished, prepared: nothing is written before that succeeds."""
    for name in job.recipe.stages:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    for name in job.recipe.stages:
        if not (run_dir / name / "manifest.json").exists():
            stage = _stage(name, job)
            if stage.prepare is not None:
                stage.prepare()
            return stage
    return None


def _stage(name: str, job: _Job) -> Stage:
    return STAGES[name](job)


# -- the stage "train" -------------------------------------------------------------------------


def train_stage(job: _Job) -> Stage:
    """Fit the recipe's method to its data; the artifact is a model folder."""
    recipe = job.recipe
    data = open_split(recipe, recipe.data.train)
    inputs = {"recipe": digest(identity(recipe)), "data": data.store.name, "items": str(len(data))}
    prepare = cache(lambda: _ready(job, data))

    def run(folder: Path) -> list[Path]:
        return _train(job, prepare(), folder)

    return Stage("train", {**inputs, **start_hashes(recipe)}, str(recipe.labels()), run, prepare)


@dataclass(frozen=True)
class _Ready:
    """All that training needs, checked. items: expressions to learn from."""

    model: models.Model
    batches: RecipeBatches
    evaluation: Evaluation | None
    starts: Starts
    items: int


def _ready(job: _Job, data: ReferDataset) -> _Ready:
    """Build the model, open the data and make a first batch, so that what cannot work is told
    before anything is written.
    """
    recipe = job.recipe
    starts = find_starts(recipe.weights)
    check_starts(recipe, starts)
    rows = subset(len(data), recipe.data.limit, recipe.train.seed)
    if not rows:
        raise DataError(
            f"no expressions in split {recipe.data.train} of {recipe.data.name}",
            remedy="check the data set with `refseg data check`",
        )
    set_seed(recipe.train.seed)  # initial weights
    model = models.build(recipe, (data.entry(row).text for row in rows))
    _check_labels(recipe, model.method)
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, recipe.data.augment, recipe.train.seed, rows,
        recipe.data.per_image,
    )  # fmt: skip
    Plan.make(recipe.train, len(batches), *job.place)
    batches([0], 0)
    return _Ready(model, batches, _evaluation(recipe, model), starts, len(rows))


def _train(job: _Job, ready: _Ready, folder: Path) -> list[Path]:
    recipe, model = job.recipe, ready.model
    # Sharded training takes the parameters apart; the export then needs a method left whole.
    whole = copy.deepcopy(model.method) if recipe.train.fsdp else model.method
    result = fit(
        model.method,
        TrainData(len(ready.batches), ready.batches),
        recipe.train,
        folder,
        evaluation=ready.evaluation,
        identity=identity(recipe),
        progress=job.progress,
    )
    if job.main:
        load_state(whole.cpu(), read_state(result.weights), source=str(result.weights))
        model.method, model.card = whole, _card(job, ready, whole, result)
        models.save(folder / "model", model)
    return [folder / "model" / name for name in MODEL_FILES]


def open_split(recipe: Recipe, split: str, *, view: str | None = None) -> ReferDataset:
    """A split under the recipe's labels and options."""
    data = recipe.data
    return open_data(
        data.name,
        split,
        recipe.labels(),
        images=Path(data.images) if data.images else None,
        split_by=data.split_by,
        text_field=data.text_field,
        view="sentence" if view == "sentence" else data.view,
        mask_rule=data.mask_rule,
        seed=recipe.train.seed,
        exclude_images=data.exclude_images,
    )


def _check_labels(recipe: Recipe, method: Any) -> None:
    if not recipe.labels().covers(method.needs):
        raise LabelsError(
            f"{recipe.method_name} learns from {method.needs}, but only {recipe.labels()} "
            "is granted",
            remedy=f"set data.labels={method.needs}, or use a method for the labels you have",
        )


def _evaluation(recipe: Recipe, model: models.Model) -> Evaluation | None:
    labels = recipe.labels()
    if recipe.data.evaluate is None or not labels.allows("mask"):
        return None
    data = open_split(recipe, recipe.data.evaluate, view="sentence")
    rows = subset(len(data), recipe.data.evaluate_limit, recipe.train.seed)
    if not rows:
        raise DataError(
            f"no expressions in split {recipe.data.evaluate} of {recipe.data.name}",
            remedy="name another split in data.evaluate, or set it to null",
        )
    target_mask(data[rows[0]])
    scorer: Callable[[Any], dict[str, float]] = Scorer(
        data, model.tokenizer, model.preprocess, rows
    )
    return Evaluation(scorer, recipe.select, str(labels))


def _card(job: _Job, ready: _Ready, method: Any, result: FitResult) -> dict[str, Any]:
    recipe, granted, parts = job.recipe, str(job.recipe.labels()), ready.starts.parts
    card: dict[str, Any] = {
        "recipe": recipe.name,
        "data": f"{recipe.data.name}, split {recipe.data.train}, {ready.items} items",
        "labels used": ready.starts.told(granted),
        **({"labels granted": granted, CARD_ENTRY: parts} if parts else {}),
        "steps": result.steps,
        "batch size": recipe.train.batch_size,
        **({"expressions per image": recipe.data.per_image} if recipe.data.per_image > 1 else {}),
        "seed": recipe.train.seed,
        "parameters": sum(p.numel() for p in method.parameters()),
        "refseg": refseg.__version__,
        "licence": "Apache-2.0",
    }
    if job.command:
        card["command"] = job.command
    split = recipe.data.evaluate
    if result.best is not None and split is not None:
        card["weights"] = (
            f"best {result.best.metric} on {split} under the protocol {PROTOCOL}, "
            f"at step {result.best.step}; the choice saw {result.best.labels}"
        )
        scored = len(open_split(recipe, split, view="sentence"))
        card["evaluation"] = {
            "data": recipe.data.name,
            "split": split,
            "expressions": len(subset(scored, recipe.data.evaluate_limit, recipe.train.seed)),
            "protocol": PROTOCOL,
            "chosen by": result.best.metric,
        }
        scores = result.best.metrics
        card["metrics"] = {f"{n} ({PROTOCOL}, {split})": scores[n] for n in scores}
    return card


STAGES: dict[str, Callable[[_Job], Stage]] = {"train": train_stage}
