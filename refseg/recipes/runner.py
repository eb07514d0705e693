"""From a recipe to a model folder: data, method and training meet here.

RUN/recipe.json        the resolved recipe      RUN/train/log.jsonl     the curve
RUN/provenance.json    each start of the run    RUN/train/checkpoints/  to resume from
RUN/model/             what `refseg predict --model RUN/model` loads
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from refseg import models
from refseg.errors import UnknownName
from refseg.recipes.base import Recipe
from refseg.recipes.mutual_stages import (
    check_stages,
    disambiguate_again_stage,
    disambiguate_stage,
    label_stage,
    retrain_stage,
)
from refseg.recipes.partial_stages import (
    ROUNDS,
    check_partial,
    pseudo_stage,
    rec_stage,
    res_pseudo_stage,
    res_stage,
)
from refseg.recipes.provenance import claim, settle
from refseg.recipes.stages import Stage, publish, run_stage
from refseg.recipes.training import Job, train_stage
from refseg.recipes.tris_rules import check_tris
from refseg.recipes.tris_stages import STAGES as TRIS_STAGES
from refseg.train.parallel import make_accelerator
from refseg.train.progress import ProgressMode

STAGES: dict[str, Callable[[Job], Stage]] = {
    "train": train_stage,
    "disambiguate": disambiguate_stage,
    "label": label_stage,
    "retrain": retrain_stage,
    "disambiguate_again": disambiguate_again_stage,
    "rec": rec_stage,
    "res": res_stage,
    "pseudo": pseudo_stage,
    "res_pseudo": res_pseudo_stage,
    **TRIS_STAGES,
    **{f"pseudo_{n}": partial(pseudo_stage, number=n) for n in range(2, ROUNDS + 1)},
    **{f"res_pseudo_{n}": partial(res_pseudo_stage, number=n) for n in range(2, ROUNDS + 1)},
}


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
    device = str(accelerator.device)
    job = Job(recipe, run_dir, main, progress, command, place, barrier, device)
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
        publish(_last_model(recipe, run_dir), model)
    barrier()
    card = models.read_model_file(model).card
    return RunResult(model, card.get("metrics", {}), tuple(skipped))


def _first_to_run(job: Job, run_dir: Path) -> Stage | None:
    """The first stage that is not finished, prepared: nothing is written before that succeeds."""
    for name in job.recipe.stages:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    check_stages(job.recipe)
    check_partial(job.recipe)
    check_tris(job.recipe, run_dir)
    for name in job.recipe.stages:
        if not (run_dir / name / "manifest.json").exists():
            stage = _stage(name, job)
            if stage.prepare is not None:
                stage.prepare()
            return stage
    return None


def _last_model(recipe: Recipe, run_dir: Path) -> Path:
    """The model of the last stage that leaves one; the stage "label" leaves data."""
    folders = [run_dir / name / "model" for name in recipe.stages]
    return next((folder for folder in reversed(folders) if folder.is_dir()), folders[-1])


def _stage(name: str, job: Job) -> Stage:
    return STAGES[name](job)
