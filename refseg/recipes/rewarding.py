"""Step 2 of mutual supervision as a stage: sentences, rewards, and a generator that learns.

The frozen extractor's proposals are kept (proposal_cache.py), and all that is said of words comes
from the model's tokenizer and from what people wrote in the training split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from refseg import models
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import AugmentConfig
from refseg.errors import RunError
from refseg.methods.mutual.disambiguation import Disambiguation, Texts
from refseg.metrics.captions import CiderD, DocumentFrequency
from refseg.nn.weights import load_state, read_state
from refseg.ops.files import sha256_file
from refseg.recipes.base import DisambiguationConfig
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.opening import open_split
from refseg.recipes.proposal_cache import CachedProposals, keep_proposals, open_proposals
from refseg.recipes.provenance import digest, identity
from refseg.recipes.stages import Stage
from refseg.recipes.training import MODEL_FILES, Job
from refseg.referred import Referred, merged_references
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.plan import Plan
from refseg.train.progress import Counting
from refseg.train.results import FitResult
from refseg.types import Labels

#: Read by CIDEr after a whole sentence; nobody writes it.
END = " endofsentence"


def step_2(name: str, job: Job, config: DisambiguationConfig, before: Path) -> Stage:
    """The stage `name`: the generator of `config.start`, or of the model in `before`, by rewards.

    Raises RunError when there is no such model, ConfigError for one that lacks a head.
    """
    recipe = job.recipe
    start = before if config.start is None else models.find_model(config.start)
    data = open_split(recipe, recipe.data.train)
    inputs = {"recipe": digest(identity(recipe)), "model": model_hash(start), "data": data.hash}
    prepare = cache(lambda: _ready(job, config, data, start))

    def run(folder: Path) -> list[Path]:
        return _learn(job, config, prepare(), folder)

    return Stage(name, inputs, str(recipe.labels()), run, prepare)


@dataclass(frozen=True)
class _Ready:
    """All that step 2 needs, checked. start: the folder of the model."""

    start: Path
    model: models.Model
    data: ReferDataset
    rows: list[int]
    texts: Texts


def _ready(job: Job, config: DisambiguationConfig, data: ReferDataset, start: Path) -> _Ready:
    recipe = job.recipe
    model = models.load(start, eyes=False)
    rows = subset(len(data), recipe.data.limit, recipe.train.seed)
    texts = texts_of(model, data, rows, config)
    Disambiguation(model.method, config.policy, texts)  # refuses a model with one head
    return _Ready(start, model, data, rows, texts)


def texts_of(
    model: models.Model, data: ReferDataset, rows: list[int], config: DisambiguationConfig
) -> Texts:
    """What step 2 must be told of words, for the items `rows` of `data`.

    References are what people wrote about the rows' objects, all sentences of a ref; the idf is of
    these: that of a batch would be meaningless. Raises DataError as `merged_references`.
    """
    about = _described(data, rows)
    end = END if config.policy.cider_end else ""
    references = {
        key: [text + end for text in texts]
        for key, texts in merged_references(data, about, config.merge).items()
    }
    cider = CiderD(references, DocumentFrequency.fit(references))

    def read(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        encoded = model.tokenizer.encode(list(texts))
        return torch.from_numpy(encoded.words), torch.from_numpy(encoded.mask)

    return Texts(model.tokenizer.decode, read, cider.score, end)


def _described(data: ReferDataset, rows: list[int]) -> list[Referred]:
    """The objects that the rows mean, each with all sentences of its refs among them."""
    records, field = data.records, data.options.text_field
    found: dict[int, Referred] = {}
    for ref_row in dict.fromkeys(data.entry(row).ref_row for row in rows):
        ref = records.ref(ref_row)
        if len(ref.ann_rows) != 1:
            continue
        annotation = records.annotation(ref.ann_rows[0])
        texts = tuple(records.text("sentences", field, row) for row in ref.sent_rows)
        image = records.image(ref.image_row)
        new = Referred(annotation.ann_id, ref.ann_rows[0], image.image_id, ref.image_row, ())
        one = found.get(annotation.ann_id, new)
        found[annotation.ann_id] = replace(one, references=(*one.references, *texts))
    return list(found.values())


def _learn(job: Job, config: DisambiguationConfig, ready: _Ready, folder: Path) -> list[Path]:
    recipe, model, data = job.recipe, ready.model, ready.data
    source: CachedProposals | None = None
    if config.cached and model.method.reads_pixels:
        source = _cached(job, ready, folder)
        data = _without_pixels(data)
    # Images as they are, whatever step 1 made of them: so people's references describe them.
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, AugmentConfig(), recipe.train.seed, ready.rows,
        recipe.data.per_image,
    )  # fmt: skip
    Plan.make(config.train, len(batches), *job.place)
    learner = Disambiguation(model.method, config.policy, ready.texts, source)
    result = fit(
        learner,
        TrainData(len(batches), batches),
        config.train,
        folder,
        identity=identity(recipe),
        progress=job.progress,
    )
    if job.main:
        load_state(learner.cpu(), read_state(result.weights), source=str(result.weights))
        model.name, model.card = recipe.name, _card(job, config, model, result)
        models.save(folder / "model", model)
    return [folder / "model" / name for name in MODEL_FILES]


def _cached(job: Job, ready: _Ready, folder: Path) -> CachedProposals:
    images = list(dict.fromkeys(ready.data.entry(row).image_row for row in ready.rows))
    made_from = digest(
        {"model": model_hash(ready.start), "data": ready.data.hash, "images": images}
    )
    kept = folder / "proposals"
    if job.main:
        ready.model.method.to(job.device)
        progress = Counting(job.progress, "looking at each image once")
        try:
            keep_proposals(ready.model, ready.data, images, kept, progress, made_from)
        finally:
            progress.close()
    job.barrier()
    return open_proposals(kept, made_from)


def _without_pixels(data: ReferDataset) -> ReferDataset:
    """The same items without images, and with no more of the objects than who they are.

    Images are opened all the same where the annotations do not state their sizes.
    """
    sizes = [data.records.column("images", name) for name in ("height", "width")]
    if not all((size > 0).all() for size in sizes):
        return data
    least = Labels(frozenset({"category"})) if data.labels.allows("category") else data.labels
    options = replace(data.options, pixels=False)
    return ReferDataset(data.store, data.folder, data.split, least, data.finder, options)


def _card(
    job: Job, config: DisambiguationConfig, model: models.Model, result: FitResult
) -> dict[str, object]:
    policy, train = config.policy, config.train
    averaged = "" if train.ema is None else f", averaged by {train.ema:g}"
    kept = {key: value for key, value in model.card.items() if key not in ("command",)}
    told = {
        "disambiguation": f"{result.steps} steps of {train.batch_size} images, "
        f"{policy.beams} beams{' and the greedy sentence' * policy.with_greedy}, alpha "
        f"{policy.alpha:g}, tau {policy.tau:g}, {policy.form}, CIDEr x {policy.cider:g}"
        f"{' with ends' * policy.cider_end}, baseline {policy.baseline}, weights "
        f"{policy.weighting}{', log p by mean' * (policy.log_p == 'mean')}, "
        f"{train.schedule} rate{averaged}"
        + "".join(f", merged with {Path(name).name}" for name in config.merge),
    }
    return {**kept, **told, **({"command": job.command} if job.command else {})}


def model_hash(folder: Path) -> str:
    """Of the weights that a stage starts from. Raises RunError when an earlier one left none."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RunError(
            f"no model in {folder}: the stage before has not been run",
            remedy="let `stages` name it first",
        )
    return sha256_file(weights)
