"""From an encoder's recipe to a folder in the hub's format.

RUN/recipe.json   RUN/train/...   RUN/model/{config.json, model.safetensors, README.md[, tokenizer]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

import refseg
from refseg.data.catalog import open_data
from refseg.data.pictures import PictureSource, open_source
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.errors import ConfigError, DataError
from refseg.methods.encoders.attributes import AttributeNamer, AttributeNamerConfig
from refseg.methods.encoders.objects import ObjectNamer, ObjectNamerConfig
from refseg.methods.encoders.pairs import PairLearner
from refseg.methods.encoders.words import WordBatch, WordGuesser, WordGuesserConfig
from refseg.methods.mutual.pretraining import ProposalLearner
from refseg.models import find_encoder
from refseg.nn.clip_pair import PairConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.nn.weights import load_hub_part, load_state, read_state, weight_file
from refseg.ops.files import atomic_path, sha256_file
from refseg.recipes.attributes import (
    AttributeBatches,
    MeanPrecision,
    read_attributed,
    vocabulary,
)
from refseg.recipes.captions import PairBatches, Retrieval, captions_file, read_captioned
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.masks import Coverage, PictureBatches
from refseg.recipes.pictures import (
    ATTRIBUTES,
    Accuracy,
    ObjectBatches,
    read_pictures,
    world_record,
)
from refseg.recipes.provenance import claim, digest, identity, settle
from refseg.recipes.stages import Stage, publish, run_stage
from refseg.recipes.starts import ENCODER_ENTRY, NOT_STATED, encoder_labels
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.parallel import make_accelerator
from refseg.train.plan import Plan
from refseg.train.progress import ProgressMode
from refseg.train.results import Evaluation, FitResult
from refseg.types import Labels


def run_encoder(
    recipe: EncoderRecipe,
    run_dir: Path,
    *,
    progress: ProgressMode = "auto",
    command: str | None = None,
) -> Path:
    """Train the encoder, going on where an earlier start was interrupted; the exported folder.

    Raises RunError (folder in use by another recipe, broken, unwritable), DataError, UnknownName,
    ConfigError; what stops a first start leaves no folder behind.
    """
    # Word pieces are cut in loader workers; threads of a forked tokenizer would only warn.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    accelerator = make_accelerator(recipe.train)
    main, barrier = accelerator.is_main_process, accelerator.wait_for_everyone
    claim(recipe, run_dir)
    barrier()
    place = (accelerator.process_index, accelerator.num_processes)
    stage = _stage(recipe, main, progress, command, place)
    finished = (run_dir / stage.name / "manifest.json").exists()
    if not finished and stage.prepare is not None:
        stage.prepare()
    if main:
        settle(recipe, run_dir, processes=None if finished else place[1])
    run_stage(stage, run_dir, main=main, barrier=barrier)
    model = run_dir / "model"
    if main:
        publish(run_dir / stage.name / "model", model)
    barrier()
    return model


def _stage(
    recipe: EncoderRecipe,
    main: bool,
    progress: ProgressMode,
    command: str | None,
    place: tuple[int, int],
) -> Stage:
    """The one stage of an encoder's run. place: this process's rank, of how many."""
    prepare = cache(lambda: _ready(recipe, place))

    def run(folder: Path) -> Sequence[Path]:
        job = prepare()
        result = fit(
            job.learner,
            job.data,
            recipe.train,
            folder,
            evaluation=job.evaluation,
            identity=identity(recipe),
            progress=progress,
        )
        if main:
            load_state(job.learner.cpu(), read_state(result.weights), source=str(result.weights))
            _export(folder / "model", recipe, job, _card(recipe, job, result, command))
        return sorted((folder / "model").iterdir())

    inputs = {"recipe": digest(identity(recipe))}
    if recipe.kind in ("objects", "attributes"):  # before other data is converted for nothing
        inputs["objects"] = sha256_file(world_record(recipe.data.name))
    if recipe.kind == "pairs":
        inputs["captions"] = sha256_file(captions_file(recipe.data.name))
    if recipe.start is not None:
        inputs["start"] = sha256_file(weight_file(str(find_encoder(recipe.start))))
    if recipe.kind == "proposals":
        source, rows = _pictures(recipe, recipe.data.train)
        inputs |= {"data": source.store.name, "items": str(len(rows))}
    else:
        data = open_data(recipe.data.name, recipe.data.train, Labels())
        inputs |= {"data": data.store.name, "items": str(len(data))}
    return Stage("train", inputs, recipe.labels, run, prepare)


@dataclass(frozen=True)
class _Job:
    """learner: trained. encoder: its transformers model, exported."""

    learner: nn.Module
    encoder: Any
    data: TrainData
    evaluation: Evaluation | None = None
    tokenizer: WordTokenizer | None = None


def _ready(recipe: EncoderRecipe, place: tuple[int, int]) -> _Job:
    """All that training needs, checked: nothing is written before this succeeds."""
    set_seed(recipe.train.seed)  # initial weights
    jobs = {
        "objects": _objects,
        "words": _words,
        "proposals": _proposals,
        "pairs": _pairs,
        "attributes": _attributes,
    }
    job = jobs[recipe.kind](recipe)
    Plan.make(recipe.train, job.data.size, *place)
    return job


def _export(folder: Path, recipe: EncoderRecipe, job: _Job, card: dict[str, Any]) -> None:
    """The encoder as a folder of the hub's format, whole or not at all. Its config.json says
    what it was learned from, for `refseg.recipes.starts`.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in job.encoder.state_dict().items()}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(state, temporary / "model.safetensors")
        (temporary / "model.safetensors").chmod(0o644)
        about = {"labels": _labels(recipe), "recipe": recipe.name, "data": recipe.data.name}
        config = {**_described(job.encoder.config, recipe), ENCODER_ENTRY: about}
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        lines = [f"# {card['recipe']}", "", *(f"- **{k}**: {v}" for k, v in card.items())]
        (temporary / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if job.tokenizer is not None:
            job.tokenizer.save(temporary / "tokenizer.json")


def _described(config: Any, recipe: EncoderRecipe) -> dict[str, Any]:
    """What config.json says of the encoder: transformers' own words, or a pair's, with the pixels
    that it learned from.
    """
    if isinstance(config, PairConfig):
        pixels = recipe.preprocess.model_dump(mode="json", include={"mean", "std"})
        return {"pair": config.model_dump(mode="json"), "pixels": pixels}
    return dict(config.to_dict())


def _labels(recipe: EncoderRecipe) -> str:
    """All that went in: its own labels, and those of the weights it started from."""
    if recipe.start is None:
        return recipe.labels
    before = encoder_labels(find_encoder(recipe.start))
    if before == NOT_STATED:
        return f"{recipe.labels}; started from {recipe.start} ({before})"
    return "+".join(dict.fromkeys([*recipe.labels.split("+"), *before.split("+")]))


def _card(
    recipe: EncoderRecipe, job: _Job, result: FitResult, command: str | None
) -> dict[str, Any]:
    forms = {"objects": "{} named rightly", "attributes": "mean average precision, {}"}
    told = forms.get(recipe.kind, "{}")
    scores = {told.format(k): f"{v:.1%}" for k, v in result.metrics.items()}
    return {
        "recipe": recipe.name,
        **({"command": command} if command else {}),
        "data": f"{recipe.data.name}, split {recipe.data.train}, {job.data.size} items",
        "labels used": _labels(recipe),
        "steps": result.steps,
        "batch size": recipe.train.batch_size,
        "seed": recipe.train.seed,
        **scores,
        "refseg": refseg.__version__,
        "licence": "Apache-2.0",
    }


# -- objects -----------------------------------------------------------------------------------


def _objects(recipe: EncoderRecipe) -> _Job:
    data, seed = recipe.data, recipe.train.seed
    pictures = read_pictures(data.name, data.train, recipe.preprocess, None)
    batches = ObjectBatches(pictures, recipe.preprocess, recipe.zoom, recipe.most, seed)
    classes = tuple(len(values) for values in ATTRIBUTES.values())
    learner = ObjectNamer(ObjectNamerConfig(vision=recipe.vision, classes=classes))
    if data.evaluate is None:
        return _Job(learner, learner.pyramid.swin, TrainData(len(pictures.images), batches))
    held_out = read_pictures(data.name, data.evaluate, recipe.preprocess, data.evaluate_limit)
    judge = ObjectBatches(held_out, recipe.preprocess, 0.0, recipe.most, seed)
    return _Job(
        learner,
        learner.pyramid.swin,
        TrainData(len(pictures.images), batches),
        Evaluation(Accuracy(judge), None, recipe.labels),
    )


# -- attributes --------------------------------------------------------------------------------


def _attributes(recipe: EncoderRecipe) -> _Job:
    data, prepare, seed = recipe.data, recipe.preprocess, recipe.train.seed
    pictures = read_attributed(data.name, data.train, prepare, None)
    batches = AttributeBatches(pictures, prepare, recipe.mirror, seed)
    groups = tuple(len(values) for values in vocabulary().values())
    learner = AttributeNamer(AttributeNamerConfig(vision=recipe.vit, groups=groups))
    evaluation = None
    if data.evaluate is not None:
        held_out = read_attributed(data.name, data.evaluate, prepare, data.evaluate_limit)
        judge = AttributeBatches(held_out, prepare, 0.0, seed)
        evaluation = Evaluation(MeanPrecision(judge), None, recipe.labels)
    job = TrainData(len(pictures.images), batches)
    return _Job(learner, learner.vision.vit, job, evaluation)


# -- proposals ---------------------------------------------------------------------------------


def _pictures(recipe: EncoderRecipe, split: str) -> tuple[PictureSource, list[int]]:
    """Where the pictures of a split are, and their rows. Raises DataError if there is none."""
    data = recipe.data
    source = open_source(data.name, images=Path(data.images) if data.images else None)
    keep = source.in_split(split)
    keep &= ~np.isin(source.records.column("images", "image_id"), list(data.exclude_images))
    rows = np.flatnonzero(keep).tolist()
    if not rows:
        raise DataError(f"no pictures in split {split} of {data.name}", remedy="name another split")
    return source, rows


def _proposals(recipe: EncoderRecipe) -> _Job:
    labels, data, prepare = Labels.parse(recipe.labels), recipe.data, recipe.preprocess
    source, rows = _pictures(recipe, data.train)
    batches = PictureBatches(source, rows, prepare, labels, recipe.mirror, recipe.train.seed)
    learner = ProposalLearner(recipe.proposals)
    if recipe.start is not None:
        swin = isinstance(recipe.proposals.backbone, SwinVisionConfig)
        where = str(find_encoder(recipe.start))
        prefix = "swin." if swin else "resnet."
        load_hub_part(learner.extractor.vision, where, prefix=prefix)
    evaluation = None
    if data.evaluate is not None:
        source, rows = _pictures(recipe, data.evaluate)
        judge = PictureBatches(source, rows[: data.evaluate_limit], prepare, labels)
        evaluation = Evaluation(Coverage(judge), None, recipe.labels)
    job = TrainData(len(batches), batches)
    return _Job(learner, learner.extractor.whole, job, evaluation)


# -- pairs -------------------------------------------------------------------------------------


def _pairs(recipe: EncoderRecipe) -> _Job:
    data, prepare, seed = recipe.data, recipe.preprocess, recipe.train.seed
    pictures = read_captioned(data.name, data.train, prepare, None)
    dataset = open_data(data.name, data.train, Labels())
    # Expressions lend their words alone: whoever goes on from here reads these, too.
    texts = [dataset.entry(row).text for row in range(len(dataset))]
    texts += [caption for captions in pictures.captions for caption in captions]
    tokenizer = _pieces(recipe, texts, recipe.pair.text.vocab_size, "pair.text.vocab_size")
    batches = PairBatches(pictures, tokenizer, prepare, recipe.mirror, seed, recipe.captions)
    learner, evaluation = PairLearner(recipe.pair), None
    if data.evaluate is not None:
        held_out = read_captioned(data.name, data.evaluate, prepare, data.evaluate_limit)
        judge = PairBatches(held_out, tokenizer, prepare, 0.0, seed)
        evaluation = Evaluation(Retrieval(judge), None, recipe.labels)
    job = TrainData(len(pictures.images), batches)
    return _Job(learner, learner.pair, job, evaluation, tokenizer)


# -- words -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordBatches:
    """make_batch(indices, epoch) for the loop: BERT's rule, of hidden words 80 % become [MASK],
    10 % another piece, 10 % stay.
    """

    texts: list[str]
    tokenizer: WordTokenizer
    hide: float
    seed: int

    def __call__(self, indices: list[int], epoch: int) -> WordBatch:
        """The expressions of these indices with words hidden by a draw of their own."""
        encoded = self.tokenizer.encode([self.texts[index] for index in indices])
        targets, real = encoded.words, encoded.mask
        words, hidden = targets.copy(), np.zeros_like(real)
        cover = int(self.tokenizer.tokenizer.token_to_id("[MASK]") or 0)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, index])
            inner = np.arange(1, int(real[row].sum()) - 1)  # not [CLS], not [SEP]
            chosen = inner[rng.random(len(inner)) < self.hide]
            chosen = np.union1d(chosen, rng.choice(inner, 1)).astype(int)
            fate = rng.random(len(chosen))
            other = rng.integers(0, self.tokenizer.vocab_size, len(chosen))
            hidden[row, chosen] = True
            words[row, chosen[fate < 0.8]] = cover
            words[row, chosen[fate > 0.9]] = other[fate > 0.9]
        tensors = (torch.from_numpy(array) for array in (words, real, hidden, targets))
        return WordBatch(*tensors)


def _words(recipe: EncoderRecipe) -> _Job:
    dataset = open_data(recipe.data.name, recipe.data.train, Labels())
    texts = [dataset.entry(row).text for row in range(len(dataset))]
    tokenizer = _pieces(recipe, texts, recipe.text.vocab_size, "text.vocab_size")
    learner = WordGuesser(WordGuesserConfig(text=recipe.text))
    batches = WordBatches(texts, tokenizer, recipe.hide, recipe.train.seed)
    return _Job(
        learner,
        learner.text.bert,
        TrainData(len(texts), batches),
        tokenizer=tokenizer,
    )


def _pieces(recipe: EncoderRecipe, texts: list[str], most: int, key: str) -> WordTokenizer:
    """Word pieces learned from texts, no more than the text encoder's table has rows.

    key: what sets the rows. Raises ConfigError.
    """
    tokens = recipe.tokens
    tokenizer = train_wordpiece(texts, size=tokens.vocabulary, max_words=tokens.max_words)
    if tokenizer.vocab_size > most:
        raise ConfigError(
            f"{tokenizer.vocab_size} word pieces, but {key} is {most}",
            remedy=f"set {key}={tokenizer.vocab_size} or lower tokens.vocabulary",
        )
    return tokenizer
