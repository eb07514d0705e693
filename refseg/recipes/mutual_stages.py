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

from pathlib import Path

from refseg.data.catalog import open_data, open_records
from refseg.data.joined import JoinedDataset
from refseg.errors import ConfigError, DataError, UnknownName
from refseg.label import LabelOptions, label
from refseg.label.expressions import ExpressionTask
from refseg.recipes.base import DisambiguationConfig, PseudoConfig, Recipe
from refseg.recipes.batches import subset
from refseg.recipes.opening import open_split
from refseg.recipes.provenance import digest, identity
from refseg.recipes.rewarding import model_hash, step_2
from refseg.recipes.stages import Stage
from refseg.recipes.training import Job, fit_stage
from refseg.train.progress import Counting

#: Stage -> those that it can go on from.
_AFTER = {
    "disambiguate": ("train",),
    "label": ("disambiguate", "train"),
    "retrain": ("label",),
    "disambiguate_again": ("retrain",),
}


def check_stages(recipe: Recipe) -> None:
    """Refuse what a later stage would fail on, before hours of earlier ones.

    Raises ConfigError (stages that do not fit), DataError (no pool to write about, or too little).
    """
    for place, name in enumerate(recipe.stages):
        if name not in _AFTER:
            continue
        if name in ("label", "retrain"):
            given = _pseudo(recipe).data is not None and name == "retrain"
        else:
            given = _disambiguation(recipe, name).start is not None
        before = _AFTER[name]
        if not given and not set(before) & set(recipe.stages[:place]):
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" goes on from "{before[0]}", which '
                "`stages` does not name before it",
                remedy=f'put "{before[0]}" before it, or take "{name}" out',
            )
    if "label" in recipe.stages:
        _check_pool(recipe)


def _check_pool(recipe: Recipe) -> None:
    """Raise what the stage "label" would for its data, but for what takes decoding all masks."""
    config = _pseudo(recipe)
    if config.images is not None and config.source is None:
        raise ConfigError(
            f"pseudo.images={config.images}, but there is no pseudo.source whose pictures it holds",
            remedy="set pseudo.source, or data.images for the data set's own pictures",
        )
    open_records(recipe.data.name, split_by=recipe.data.split_by)
    task = ExpressionTask(label_options(recipe, config, Path("model"), Path("data")))
    try:
        _ = task.source
    except (DataError, UnknownName) as error:
        if config.source is None:
            raise
        raise DataError(
            f"pseudo.source={config.source}: {error.message}",
            remedy="name COCO's instances file with --set pseudo.source=FILE (its pictures' folder "
            "with pseudo.images), or stay with the data set's own objects: pseudo.source=null",
        ) from error
    task.check()


def disambiguate_stage(job: Job, name: str = "disambiguate") -> Stage:
    """Step 2 from the model of the stage that `name` goes on from: "train", "retrain"."""
    (before,) = _AFTER[name]
    return step_2(name, job, _disambiguation(job.recipe, name), job.run_dir / before / "model")


def disambiguate_again_stage(job: Job) -> Stage:
    """Step 2 once more, of what step 3 retrained."""
    return disambiguate_stage(job, "disambiguate_again")


def label_stage(job: Job) -> Stage:
    """Expressions for every object that nobody described, by the generator of the stage before:
    step 2's, or step 1's where there is no step 2 (Table 6 d). Whose objects: `pseudo.source`.
    """
    recipe, config = job.recipe, _pseudo(job.recipe)
    before = recipe.stages[: recipe.stages.index("label")]
    writer = "disambiguate" if "disambiguate" in before else "train"
    source = job.run_dir / writer / "model"
    told = identity(recipe)
    inputs = {"model": model_hash(source), "options": digest(told["pseudo"])}

    def run(folder: Path) -> list[Path]:
        data = folder / "data"
        if job.main:
            options = label_options(recipe, config, source, data)
            looked = Counting(job.progress, "looking at the sizes of objects")
            progress = Counting(job.progress, "writing expressions, image by image")
            workers = None if job.device.startswith("cuda") else 1  # None: all GPUs
            try:
                label(
                    options,
                    workers=workers,
                    device="cpu" if recipe.train.cpu else "auto",
                    progress=progress,
                    looked=looked,
                )
            finally:
                looked.close()
                progress.close()
        job.barrier()
        return [path for path in sorted(data.iterdir()) if path.suffix in (".p", ".json")]

    return Stage("label", {"recipe": digest(told), **inputs}, str(recipe.labels()), run)


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


def label_options(recipe: Recipe, config: PseudoConfig, model: Path, out: Path) -> LabelOptions:
    """What `config` asks to be written by `model` into `out`, for the recipe's training."""
    data, own = recipe.data, config.source is None
    images = data.images if own else config.images
    return LabelOptions(
        model=str(model),
        task="expressions",
        data=data.name if config.source is None else config.source,
        refs=None if own else data.name,
        out=out,
        split=config.split,
        split_by=data.split_by,
        images=Path(images) if images else None,
        exclude_images=frozenset(data.exclude_images),
        beams=config.beams,
        per_object=config.beams,
        filter=config.filter,
        min_area=config.min_area,
        known_refs=_known_refs(recipe),
        pixels=data.pixels,
        masks=recipe.labels().allows("mask"),
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
