"""Steps 2 and 3 of mutual supervision as stages of a run.

    train               step 1: both heads                       RUN/train/model
    disambiguate        step 2: the generator, by rewards        RUN/disambiguate/model
    label               step 3: expressions for the rest         RUN/label/data
    retrain             step 3: both heads, from step 1's start  RUN/retrain/model
    disambiguate_again  step 2 once more, of what is retrained   RUN/disambiguate_again/model

The paper reports REG of step 2 and RES of step 3. One model that does both best is step 3's with
step 2 done again: ours, and a stage of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.joined import JoinedDataset
from refseg.errors import ConfigError, RunError
from refseg.label import LabelOptions, label
from refseg.methods.mutual.disambiguation import Disambiguation, Texts
from refseg.metrics.captions import CiderD, DocumentFrequency
from refseg.nn.weights import load_state, read_state
from refseg.ops.files import sha256_file
from refseg.recipes.base import DisambiguationConfig, PseudoConfig, Recipe
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.proposal_cache import CachedProposals, keep_proposals, open_proposals
from refseg.recipes.provenance import digest, identity
from refseg.recipes.stages import Stage
from refseg.recipes.training import MODEL_FILES, Job, fit_stage, open_split
from refseg.referred import Referred, merged_references
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.plan import Plan
from refseg.train.progress import Counting
from refseg.train.results import FitResult
from refseg.types import Labels

#: Stage -> the one that it goes on from.
_AFTER = {
    "disambiguate": "train",
    "label": "disambiguate",
    "retrain": "label",
    "disambiguate_again": "retrain",
}


def check_stages(recipe: Recipe) -> None:
    """Refuse what a later stage would fail on, before hours of earlier ones. Raises ConfigError."""
    for place, name in enumerate(recipe.stages):
        if name not in _AFTER:
            continue
        if name in ("label", "retrain"):
            given = _pseudo(recipe).data is not None and name == "retrain"
        else:
            given = _disambiguation(recipe, name).start is not None
        if not given and _AFTER[name] not in recipe.stages[:place]:
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" goes on from "{_AFTER[name]}", which '
                "`stages` does not name before it",
                remedy=f'put "{_AFTER[name]}" before it, or take "{name}" out',
            )


def disambiguate_stage(job: Job) -> Stage:
    """Step 2 from the model of the stage "train"."""
    return _disambiguate("disambiguate", job, job.run_dir / "train" / "model")


def disambiguate_again_stage(job: Job) -> Stage:
    """Step 2 from the model of the stage "retrain"."""
    return _disambiguate("disambiguate_again", job, job.run_dir / "retrain" / "model")


def label_stage(job: Job) -> Stage:
    """Expressions for every object that nobody described, by the generator of the stage before:
    step 2's, or step 1's where there is no step 2 (Table 6 d).
    """
    recipe, config = job.recipe, _pseudo(job.recipe)
    before = recipe.stages[: recipe.stages.index("label")]
    writer = "disambiguate" if "disambiguate" in before else "train"
    source = job.run_dir / writer / "model"
    inputs = {"model": _hash(source), "options": digest(config.model_dump(mode="json"))}

    def run(folder: Path) -> list[Path]:
        data = folder / "data"
        if job.main:
            options = _label_options(recipe, config, source, data)
            progress = Counting(job.progress, "writing expressions, image by image")
            try:
                label(options, workers=1, progress=progress)
            finally:
                progress.close()
        job.barrier()
        return [path for path in sorted(data.iterdir()) if path.suffix in (".p", ".json")]

    return Stage("label", {"recipe": digest(identity(recipe)), **inputs}, str(recipe.labels()), run)


def retrain_stage(job: Job) -> Stage:
    """Step 1 again from its own start, with the written expressions beside people's."""
    recipe, config = job.recipe, _pseudo(job.recipe)
    human = open_split(recipe, recipe.data.train)
    written = open_data(
        job.run_dir / "label" / "data" if config.data is None else config.data,
        "train",
        recipe.labels(),
        view=recipe.data.view,
        mask_rule=recipe.data.mask_rule,
        seed=recipe.train.seed,
        objects=recipe.data.objects,
        pixels=recipe.data.pixels,
    )
    joined = JoinedDataset([human, written])
    train = recipe.train
    if config.steps is not None:
        train = train.model_copy(update={"steps": config.steps, "epochs": None})
    return fit_stage("retrain", job, joined, train, people=len(human))


def _pseudo(recipe: Recipe) -> PseudoConfig:
    if recipe.pseudo is None:
        raise ConfigError(
            f'recipe {recipe.name}: the stages "label" and "retrain" need the group pseudo',
            remedy="take these stages out, or start from a recipe that has it (mutual_scenes)",
        )
    return recipe.pseudo


def _disambiguation(recipe: Recipe, stage: str) -> DisambiguationConfig:
    if recipe.disambiguation is None:
        raise ConfigError(
            f'recipe {recipe.name}: the stage "{stage}" needs the group disambiguation',
            remedy="take the stage out, or start from a recipe that has it (mutual_scenes)",
        )
    return recipe.disambiguation


def _label_options(recipe: Recipe, config: PseudoConfig, model: Path, out: Path) -> LabelOptions:
    return LabelOptions(
        model=str(model),
        task="expressions",
        data=recipe.data.name,
        out=out,
        split=config.split,
        split_by=recipe.data.split_by,
        images=Path(recipe.data.images) if recipe.data.images else None,
        exclude_images=frozenset(recipe.data.exclude_images),
        beams=config.beams,
        per_object=config.beams,
        filter=config.filter,
        min_area=config.min_area,
        known_refs=_known_refs(recipe),
        pixels=recipe.data.pixels,
        weight=config.weight,
        seed=recipe.train.seed,
    )


def _known_refs(recipe: Recipe) -> frozenset[int] | None:
    """All refs but those of training that `data.limit` takes out; None if it takes out none."""
    if recipe.data.limit is None:
        return None
    human = open_split(recipe, recipe.data.train)
    rows = subset(len(human), recipe.data.limit, recipe.train.seed)
    kept = {human.entry(row).ref_id for row in rows}
    left_out = {human.entry(row).ref_id for row in range(len(human))} - kept
    return frozenset(human.records.column("refs", "ref_id").tolist()) - left_out


# -- disambiguation ----------------------------------------------------------------------------


def _disambiguate(name: str, job: Job, before: Path) -> Stage:
    recipe, config = job.recipe, _disambiguation(job.recipe, name)
    start = before if config.start is None else models.find_model(config.start)
    data = open_split(recipe, recipe.data.train)
    inputs = {"recipe": digest(identity(recipe)), "model": _hash(start), "data": data.hash}
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
    model = models.load(start)
    rows = subset(len(data), recipe.data.limit, recipe.train.seed)
    texts = _texts(model, data, rows, config.merge)
    Disambiguation(model.method, config.policy, texts)  # refuses a model with one head
    return _Ready(start, model, data, rows, texts)


def _texts(
    model: models.Model, data: ReferDataset, rows: list[int], merge: tuple[str, ...]
) -> Texts:
    """References are what people wrote about the rows' objects, all sentences of a ref; the idf is
    of these: that of a batch would be meaningless.
    """
    about = _described(data, rows)
    references = merged_references(data, about, merge)
    cider = CiderD(references, DocumentFrequency.fit(references))

    def read(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
        encoded = model.tokenizer.encode(list(texts))
        return torch.from_numpy(encoded.words), torch.from_numpy(encoded.mask)

    return Texts(model.tokenizer.decode, read, cider.score)


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
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, recipe.data.augment, recipe.train.seed,
        ready.rows, recipe.data.per_image,
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
    if job.recipe.data.augment != type(job.recipe.data.augment)():
        raise ConfigError(
            "kept proposals are of images as they are, but data.augment changes them",
            remedy="set disambiguation.cached=false, or take the augmentation out",
        )
    images = list(dict.fromkeys(ready.data.entry(row).image_row for row in ready.rows))
    made_from = digest({"model": _hash(ready.start), "data": ready.data.hash, "images": images})
    kept = folder / "proposals"
    if job.main:
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
    policy = config.policy
    kept = {key: value for key, value in model.card.items() if key not in ("command",)}
    told = {
        "disambiguation": f"{result.steps} steps of {config.train.batch_size} images, alpha "
        f"{policy.alpha:g}, tau {policy.tau:g}, {policy.form}, CIDEr x {policy.cider:g}, baseline "
        f"{policy.baseline}",
    }
    return {**kept, **told, **({"command": job.command} if job.command else {})}


def _hash(folder: Path) -> str:
    """Of the model that a stage starts from. Raises RunError when an earlier stage left none."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RunError(
            f"no model in {folder}: the stage before has not been run",
            remedy="let `stages` name it first",
        )
    return sha256_file(weights)
