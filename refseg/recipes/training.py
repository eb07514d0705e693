"""The stage "train", and what every stage is told: data and a method's training meet here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

import refseg
from refseg import models
from refseg.data.joined import Items
from refseg.errors import ConfigError, DataError, LabelsError
from refseg.evaluate import target_mask
from refseg.methods.tris.calibrator import Calibrator
from refseg.nn.weights import load_state, read_state
from refseg.ops.files import sha256_file
from refseg.recipes.base import DataConfig, Recipe, WeightsConfig
from refseg.recipes.batches import RecipeBatches, check_negatives, subset
from refseg.recipes.building import build
from refseg.recipes.judging import MARGIN, MarginScorer, check_words, open_calibrator
from refseg.recipes.opening import masked_refs, open_split, open_training, training_labels
from refseg.recipes.provenance import digest, identity
from refseg.recipes.scoring import PROTOCOL, BoxScorer, Scorer
from refseg.recipes.stages import Stage
from refseg.recipes.starts import (
    CARD_ENTRY,
    Starts,
    check_starts,
    find_starts,
    learned_with,
    start_hashes,
)
from refseg.train.config import TrainConfig
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.plan import Plan
from refseg.train.precision import runs_in_bfloat16
from refseg.train.progress import ProgressMode
from refseg.train.results import Evaluation, FitResult

#: What a card says of the margin, in the place of a protocol: it is no IoU and has none.
MARGIN_TOLD = "margin of a frozen image-text model, no mask read"
#: A card's entry for the images that were kept out of training.
LEFT_OUT = "images left out"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Job:
    """What every stage needs. run_dir: the run's folder. main: whether this process writes.

    place: its rank, of how many. barrier: waits for all processes. device: this process's.
    """

    recipe: Recipe
    run_dir: Path
    main: bool
    progress: ProgressMode
    command: str | None
    place: tuple[int, int] = (0, 1)
    barrier: Callable[[], None] = lambda: None
    device: str = "cpu"


def train_stage(job: Job) -> Stage:
    """Fit the recipe's method to its data; the artifact is a model folder."""
    return fit_stage("train", job, open_training(job.recipe))


def fit_stage(
    name: str,
    job: Job,
    data: Items,
    train: TrainConfig | None = None,
    people: int | None = None,
    rec: Path | None = None,
    lent: str | None = None,
    rows: Sequence[int] | None = None,
) -> Stage:
    """Fit the recipe's method to `data` from the recipe's start.

    train: instead of the recipe's own. people: the first so many items are what people wrote (all
    by default); `data.limit` draws from these. rec: a REC model to start from instead. lent: what
    masks a model made, where `data` has such beside what the recipe grants. rows: of `data`, to
    learn from instead of those that `data.limit` draws.
    """
    recipe, config = job.recipe, train or job.recipe.train
    human = len(data) if people is None else people
    inputs = {"recipe": digest(identity(recipe)), "data": data.hash, "items": str(len(data))}
    weights = recipe.weights
    if rec is not None:
        weights = WeightsConfig(rec=str(rec))
        inputs["rec"] = sha256_file(rec / "model.safetensors") if rec.is_dir() else "not there"
    if recipe.data.few_masks:
        inputs["masks"] = digest({"refs": sorted(masked_refs(recipe).ref_ids)})
    asked = _Asked(data, config, human, weights, lent, rows)
    prepare = cache(lambda: _ready(job, asked))

    def run(folder: Path) -> list[Path]:
        return _train(job, prepare(), asked, folder)

    return Stage(
        name, {**inputs, **start_hashes(recipe)}, str(training_labels(recipe)), run, prepare
    )


@dataclass(frozen=True)
class _Asked:
    """What a stage asks for; see `fit_stage`."""

    data: Items
    train: TrainConfig
    people: int
    weights: WeightsConfig
    lent: str | None
    rows: Sequence[int] | None


@dataclass(frozen=True)
class _Ready:
    """All that training needs, checked. items: expressions to learn from."""

    model: models.Model
    batches: RecipeBatches
    evaluation: Evaluation | None
    starts: Starts
    items: int


def _ready(job: Job, asked: _Asked) -> _Ready:
    """Build the model, open the data and make a first batch, so that what cannot work is told
    before anything is written.
    """
    data, people = asked.data, asked.people
    recipe = job.recipe.model_copy(update={"weights": asked.weights})
    starts = find_starts(recipe.weights)
    check_starts(recipe, starts)
    check_negatives(recipe, recipe.method, "method")
    # `limit` is for what people wrote; what a model wrote for want of more comes on top.
    drawn = subset(people, recipe.data.limit, recipe.train.seed) + list(range(people, len(data)))
    rows = drawn if asked.rows is None else list(asked.rows)
    if not rows:
        raise DataError(
            f"no expressions in split {recipe.data.train} of {recipe.data.name}",
            remedy="check the data set with `refseg data check`",
        )
    set_seed(recipe.train.seed)  # initial weights
    # Word pieces are those of people's words: what a model wrote is made of them, and a retraining
    # starts from the same pieces as the training before.
    model = build(recipe, (data.entry(row).text for row in rows if row < people))
    _check_labels(recipe, model.method, asked.lent)
    judge = open_calibrator(recipe)
    if judge is not None:
        check_words(judge, model, str(recipe.weights.calibrator))
        if hasattr(model.method, "judge_by"):
            model.method.judge_by(judge)
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, recipe.data.augment, recipe.train.seed, rows,
        recipe.data.per_image, recipe.data.negatives,
    )  # fmt: skip
    Plan.make(asked.train, len(batches), *job.place)
    batches([0], 0)
    return _Ready(model, batches, _evaluation(recipe, model, judge), starts, len(rows))


def _train(job: Job, ready: _Ready, asked: _Asked, folder: Path) -> list[Path]:
    recipe, model, train = job.recipe, ready.model, asked.train
    # Sharded training takes the parameters apart; the export then needs a method left whole.
    whole = copy.deepcopy(model.method) if train.fsdp else model.method
    result = fit(
        model.method,
        TrainData(len(ready.batches), ready.batches),
        train,
        folder,
        evaluation=ready.evaluation,
        identity=identity(recipe),
        progress=job.progress,
    )
    if job.main:
        load_state(whole.cpu(), read_state(result.weights), source=str(result.weights))
        model.method, model.card = whole, {**_card(job, ready, asked, result), **model.card}
        models.save(folder / "model", model)
    return [folder / "model" / name for name in MODEL_FILES]


def _check_labels(recipe: Recipe, method: Any, lent: str | None) -> None:
    if lent is None and not recipe.labels().covers(method.needs):
        raise LabelsError(
            f"{recipe.method_name} learns from {method.needs}, but only {recipe.labels()} "
            "is granted",
            remedy=f"set data.labels={method.needs}, or use a method for the labels you have",
        )


def _evaluation(recipe: Recipe, model: models.Model, judge: Calibrator | None) -> Evaluation | None:
    labels = recipe.evaluation_labels()
    dense = bool(labels.granted & {"mask", "box"}) and recipe.select != MARGIN
    if recipe.select == MARGIN and recipe.data.evaluate is not None and judge is None:
        raise ConfigError(
            f'recipe {recipe.name}: the metric "{MARGIN}" asks a frozen image-text model, and '
            "weights.calibrator names none",
            remedy="name one, or set select=null (the last weights are kept)",
        )
    if recipe.data.evaluate is None or not (dense or judge is not None):
        return None
    if not dense:  # by the calibrator, which reads texts
        recipe = recipe.model_copy(update={"data": _with_text_alone(recipe)})
        labels = recipe.evaluation_labels()
    objects = bool(getattr(model.method, "reads_objects", False))
    assert recipe.data.evaluate is not None
    data = open_split(recipe, recipe.data.evaluate, view="sentence", objects=objects)
    rows = subset(len(data), recipe.data.evaluate_limit, recipe.train.seed)
    if not rows:
        raise DataError(
            f"no expressions in split {recipe.data.evaluate} of {recipe.data.name}",
            remedy="name another split in data.evaluate, or set it to null",
        )
    if not dense:
        assert judge is not None
        scorer: Callable[[Any], dict[str, float]] = MarginScorer(
            judge, data, model.tokenizer, model.preprocess, rows, recipe.train.seed
        )
        return Evaluation(scorer, recipe.select, str(labels))
    if labels.allows("mask"):
        target_mask(data[rows[0]])
    kind = Scorer if labels.allows("mask") else BoxScorer
    scorer = kind(data, model.tokenizer, model.preprocess, rows)
    return Evaluation(scorer, recipe.select, str(labels))


def _with_text_alone(recipe: Recipe) -> DataConfig:
    few = {"mask_share": None, "mask_refs": None}
    return recipe.data.model_copy(update={"labels": "text", "objects": False, **few})


def _card(job: Job, ready: _Ready, asked: _Asked, result: FitResult) -> dict[str, Any]:
    recipe, granted = job.recipe, str(training_labels(job.recipe))
    files = {path.name: labels for path, labels in learned_with(recipe).items()}
    parts, excluded = {**ready.starts.parts, **files}, sorted(recipe.data.exclude_images)
    told = "".join(f"; with {name} ({labels})" for name, labels in files.items())
    told = f"; {asked.lent}{told}" if asked.lent else told
    card: dict[str, Any] = {
        "recipe": recipe.name,
        "data": f"{' and '.join((recipe.data.name, *recipe.data.also))}, "
        f"split {recipe.data.train}, {ready.items} items",
        "labels used": ready.starts.told(granted) + told,
        **({"labels granted": granted, CARD_ENTRY: parts} if parts else {}),
        **({LEFT_OUT: left_out(excluded)} if excluded else {}),
        "steps": result.steps,
        "batch size": asked.train.batch_size,
        "precision": "bfloat16"
        if runs_in_bfloat16(asked.train, torch.device(job.device))
        else "float32",
        **({"expressions per image": recipe.data.per_image} if recipe.data.per_image > 1 else {}),
        "seed": recipe.train.seed,
        "parameters": sum(p.numel() for p in ready.model.method.parameters()),
        "refseg": refseg.__version__,
        "licence": "Apache-2.0",
    }
    if job.command:
        card["command"] = job.command
    if result.metrics and recipe.data.evaluate is not None:
        card.update(_scored(recipe, result, recipe.data.evaluate))
    return card


def left_out(image_ids: Iterable[int]) -> str:
    """What a card says of the images that were kept out: how many, and a hash of their ids."""
    ids = sorted(set(image_ids))
    return f"{len(ids):,}, sha256 {digest({'ids': ids})[:16]}"


def _scored(recipe: Recipe, result: FitResult, split: str) -> dict[str, Any]:
    """What the weights that are kept score, and whether the score chose them."""
    chosen, best = {}, result.best
    scores = result.metrics if best is None else best.metrics  # fit evaluates after its last step
    rule, under, names = "protocol", PROTOCOL, f"{PROTOCOL}, {split}"
    if MARGIN in scores:
        rule, under, names = "measure", MARGIN_TOLD, split
    if best is None:
        weights = f"the last, at step {result.steps}"
    else:
        told = f"under the protocol {under}" if rule == "protocol" else f"(the {under})"
        weights = (
            f"best {best.metric} on {split} {told}, at step {best.step}; the choice saw "
            f"{best.labels}"
        )
        chosen = {"chosen by": best.metric}
    expressions = len(open_split(recipe, split, view="sentence"))
    return {
        "weights": weights,
        "evaluation": {
            "data": recipe.data.name,
            "split": split,
            "expressions": len(subset(expressions, recipe.data.evaluate_limit, recipe.train.seed)),
            rule: under,
            **chosen,
        },
        "metrics": {f"{name} ({names})": scores[name] for name in scores},
    }
