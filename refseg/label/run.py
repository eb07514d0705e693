"""Labels that a model writes: pseudo masks and pseudo expressions, as an ordinary data set.

    options = LabelOptions(model="vega-scenes", task="masks", data="scenes", out=Path("taught"))
    label(options, workers=2)
    student_data = open_data("taught", "train", Labels.parse("text+mask"))

Stages meet through files, so any model can teach any other. A job may be killed at any moment and
started again with the same words: finished shards are kept, nothing is lost or doubled, and the
files have the same bytes as those of an undisturbed start, whatever the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import refseg
from refseg import models
from refseg.describe import check_writes
from refseg.errors import ConfigError, RunError
from refseg.label.job import (
    Job,
    is_finished,
    one_start,
    read_claim,
    read_plan,
    settle,
)
from refseg.label.options import LabelOptions as LabelOptions
from refseg.label.options import Progress
from refseg.label.output import merge
from refseg.label.workers import Task, answer_here, answer_in_processes, make_task
from refseg.models import Model
from refseg.ops.files import sha256_file
from refseg.predict import pick_device
from refseg.recipes.provenance import digest
from refseg.recipes.starts import CARD_ENTRY, NOT_STATED


@dataclass(frozen=True)
class LabelResult:
    """out: the data set's folder. found: shards that an earlier start had finished.

    left_out: why -> what was not asked. counts: "refs", "expressions" and what the model could not
    do ("nothing found", "nothing written", "no proposal fits"). Where masks had to agree with boxes
    counts also has "box disagrees" and "no box known", and summary the "kept share", 0..1.
    """

    out: Path
    about: Mapping[str, Any]
    images: int
    asked: int
    left_out: Mapping[str, int]
    counts: Mapping[str, int]
    shards: int
    found: int
    summary: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "out": str(self.out),
            **self.about,
            "images": self.images,
            "asked": self.asked,
            "left_out": dict(self.left_out),
            **self.counts,
            **self.summary,
            "shards": self.shards,
            "shards_found": self.found,
        }


def label(
    options: LabelOptions,
    *,
    workers: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    looked: Progress | None = None,
) -> LabelResult:
    """Do the job, or what an earlier start has left of it.

    workers: processes, each with a model of its own; by default one for each processor or GPU.
    device: "auto" and "cuda" spread the workers over all GPUs. progress(images done, images): of
    this start and earlier ones; told once before any work. looked(objects done, objects): before
    that, while the sizes of objects are looked at.
    Raises ConfigError (the model cannot do the task), DataError (no objects, nothing left to ask,
    images missing, no boxes to agree with), RunError (the folder holds another job, is in use or
    cannot be written; nothing at all was written or kept).
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", remedy="give 1 or more")
    picked = pick_device(device)
    model = models.load(options.model)
    options = _fitted(options, model)
    task = make_task(options)
    identity = _identity(options, task, model, picked)
    held = read_claim(options.out, identity)  # a cheap look, before the work of planning
    plan = None if held is None else read_plan(options.out, held)
    if plan is None:
        plan = task.plan(looked)
    about = _about(options, task, model)
    job = Job(options.out, identity, about, plan, options.shard_images)
    root = task.image_root(plan)
    with one_start(options.out):
        held = read_claim(options.out, identity)  # another start may have been quicker
        if held is not None and held["plan"]["sha256"] != job.plan_sha256:
            raise RunError(
                f"{options.out}: its plan was lost, and the present one is another: have images "
                "been moved?",
                remedy="put them back, or give another --out",
            )
        settle(job, root)
        todo = [number for number in range(job.shards) if not is_finished(job, number)]
        _answer(options, task, model, job, todo, _devices(picked, workers, len(todo)), progress)
        counts = merge(job, task)
    found = job.shards - len(todo)
    return LabelResult(
        options.out, about, len(plan.images), plan.asked, plan.left_out, counts, job.shards, found,
        task.summary(counts, plan.asked),
    )  # fmt: skip


def _answer(
    options: LabelOptions,
    task: Task,
    model: Model,
    job: Job,
    todo: Sequence[int],
    devices: Sequence[str],
    progress: Progress | None,
) -> None:
    total = len(job.plan.images)
    done = total - sum(len(job.shard(number)) for number in todo)

    def tell(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    tell(0)
    if len(devices) > 1:
        answer_in_processes(options, job, todo, devices, tell)
    elif todo:
        model.method.to(devices[0])
        answer_here(model, task, job, todo, tell)


def _fitted(options: LabelOptions, model: Model) -> LabelOptions:
    """The options, with what the model settles. Raises ConfigError if it cannot do the task."""
    if options.task == "expressions":
        check_writes(model, verify=options.verify)
        pixels = getattr(model.method, "reads_pixels", True)
        return options if options.pixels is not None else replace(options, pixels=pixels)
    chooses = bool(getattr(model.method, "reads_objects", False))
    if chooses or not getattr(model.method.config, "select", True):
        why = "chooses among annotated objects" if chooses else "was taught to write alone"
        raise ConfigError(
            f"{model.name} (method {model.method_name}) cannot make masks: it {why}",
            remedy="choose a model that segments pictures (refseg models)",
        )
    return options


def _identity(options: LabelOptions, task: Task, model: Model, device: str) -> dict[str, Any]:
    """All that the answers depend on."""
    folder = models.find_model(options.model)
    network = {
        "method": model.method_name,
        "config": model.method.config.model_dump(mode="json"),
        "preprocess": model.preprocess.model_dump(mode="json"),
        "max_words": model.tokenizer.max_words,
    }
    return {
        "refseg": refseg.__version__,
        "task": options.task,
        "weights": sha256_file(folder / "model.safetensors"),
        "tokenizer": sha256_file(folder / "tokenizer.json"),
        "network": digest(network),
        "source": task.data_hash,
        "device": device.partition(":")[0],
        "options": options.identity(),
    }


def _about(options: LabelOptions, task: Task, model: Model) -> dict[str, Any]:
    """Names for people, and which labels went in."""
    card = model.card
    return {
        "model": options.model,
        "method": model.method_name,
        "labels used": str(card.get("labels used", NOT_STATED)),
        CARD_ENTRY: card.get(CARD_ENTRY, {}),
        "labels seen here": task.labels_seen,
        "data": task.about,
    }


def _devices(picked: str, workers: int | None, shards: int) -> list[str]:
    """Where each worker's model goes: all GPUs in turn, unless one of them was named."""
    names = [picked]
    if picked == "cuda":
        names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    usual = len(names) if picked.startswith("cuda") else len(os.sched_getaffinity(0))
    count = min(workers or usual, max(shards, 1))
    return [names[number % len(names)] for number in range(count)]
