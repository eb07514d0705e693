"""The stages of Partial-RES: boxes for all, masks for a few.

    rec           REC on all boxes, SeqTR's model              RUN/rec/model
    res           RES on the few masks, from REC's weights     RUN/res/model, RUN/res/masks.json
    pseudo        masks of the rest, kept where they fit the   RUN/pseudo/data
                  known box (RPP), by res's averaged weights
    res_pseudo    RES on both, from REC's weights again        RUN/res_pseudo/model

The paper has one round; `pseudo_2` and `res_pseudo_2` are a second, labelled by the first's model.
The rules of RPP (render, contour, resample) need no code here: a pseudo mask is kept as the filled
outline, and whoever learns from it draws uniform points along its contour, as along any mask's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from refseg.data.catalog import open_data
from refseg.data.joined import JoinedDataset
from refseg.data.subset import write_subset
from refseg.errors import ConfigError, LabelsError, RunError
from refseg.label import LabelOptions, label
from refseg.label.agreement import NoneKept
from refseg.methods.partial_res.config import PartialResConfig
from refseg.recipes.base import PartialConfig, Recipe
from refseg.recipes.batches import subset
from refseg.recipes.labelling import ref_masks
from refseg.recipes.opening import masked_refs, open_split
from refseg.recipes.provenance import digest, identity
from refseg.recipes.rewarding import model_hash
from refseg.recipes.stages import Stage
from refseg.recipes.training import Job, fit_stage
from refseg.train.plan import Plan
from refseg.train.progress import Counting

#: Rounds of pseudo labels that there are stages for.
ROUNDS = 3
#: What each kind of stage looks at beside the words.
_LOOKS_AT = {"rec": "box", "res": "mask", "pseudo": "box", "res_pseudo": "mask"}


def check_partial(recipe: Recipe) -> None:
    """Refuse what a later stage would fail on, before hours of earlier ones.

    Raises ConfigError (stages that do not fit, a batch of more than the few masks), LabelsError,
    DataError (`masked_refs`).
    """
    names = recipe.stages
    for place, name in enumerate(names):
        before = _goes_on_from(name)
        if before is None and name != "rec":
            continue
        _config(recipe, name)
        if name == "rec" and recipe.weights.rec is not None:
            raise ConfigError(
                f"recipe {recipe.name}: weights.rec={recipe.weights.rec} stands for what the stage "
                '"rec" would learn, and both are asked for',
                remedy='take "rec" out of `stages`, or set weights.rec=null',
            )
        started = name == "res" and recipe.weights.rec is not None
        if before is not None and not started and before not in names[:place]:
            offer = ", or name a model in weights.rec" if name == "res" else ""
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" goes on from "{before}", which '
                "`stages` does not name before it",
                remedy=f'put "{before}" before it{offer}',
            )
        if name != "rec" and _method(recipe).task == "rec":
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" learns outlines, and method.task=rec '
                "writes boxes",
                remedy="set method.task=res, or stages=[rec]",
            )
        all_masks = not recipe.data.few_masks or recipe.data.mask_share == 1
        if name.startswith("pseudo") and all_masks:
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" labels refs without masks, and all '
                "masks are granted",
                remedy="set data.mask_share below 1, or take the stage out",
            )
        label_kind = _LOOKS_AT[_parsed(name)[0]]
        if not recipe.labels().allows(label_kind):
            raise LabelsError(
                f'recipe {recipe.name}: the stage "{name}" looks at the label "{label_kind}", but '
                f"only {recipe.labels()} is granted",
                remedy=f"grant {label_kind} in data.labels, or take the stage out",
            )
    if "res_pseudo" in names:
        _check_rise(recipe)
    if "res" in names and recipe.data.few_masks:
        _check_few(recipe)


def _check_rise(recipe: Recipe) -> None:
    """Raise where steps would end a training whose rise is told in epochs."""
    steps, rise = _config(recipe, "res_pseudo").again_steps, recipe.train.warmup_epochs
    if steps is not None and rise:
        raise ConfigError(
            f"recipe {recipe.name}: partial.again_steps={steps} is a length in steps, and "
            f"train.warmup_epochs={rise} needs one in epochs",
            remedy="set train.warmup_epochs=0 and train.warmup (steps), or again_steps=null",
        )


def _check_few(recipe: Recipe) -> None:
    """Raise where there are fewer masks than a batch of the stage "res" takes."""
    if any(name.startswith("pseudo") for name in recipe.stages):
        _check_rest(recipe)
    data = open_split(recipe, recipe.data.train)
    wanted = set(subset(len(data), recipe.data.limit, recipe.train.seed))
    sizes = [len(wanted.intersection(group)) for group in data.groups_by_image()]
    # As `RecipeBatches` deals them out.
    dealt = sum(-(-size // recipe.data.per_image) for size in sizes)
    Plan.make(recipe.train, dealt, of="the refs whose masks are granted")


def _check_rest(recipe: Recipe) -> None:
    """Raise where the masks that are granted are those of every ref: there is nothing to label."""
    boxes = rec_recipe(recipe)
    data = open_split(boxes, boxes.data.train)
    if {data.entry(row).ref_id for row in range(len(data))} <= masked_refs(recipe).ref_ids:
        raise ConfigError(
            f"recipe {recipe.name}: masks are granted for every ref of the split "
            f'{recipe.data.train}, and the stage "pseudo" labels the others',
            remedy="grant fewer (data.mask_share, data.mask_refs), or set stages=[rec,res]",
        )


def rec_stage(job: Job) -> Stage:
    """Learn boxes from every ref's box; no mask is granted."""
    recipe = rec_recipe(job.recipe)
    return fit_stage("rec", replace(job, recipe=recipe), open_split(recipe, recipe.data.train))


def rec_recipe(recipe: Recipe) -> Recipe:
    """What the stage "rec" trains: the same data with boxes alone, the model for boxes."""
    config, method = _config(recipe, "rec"), _method(recipe)
    boxes = {
        "labels": "text+box", "mask_share": None, "mask_refs": None, "mask_seed": 0
    }  # fmt: skip
    method = method.model_copy(update={"freeze_vision": False})
    same = {"task": "rec", "task_token": "zero"}
    return recipe.model_copy(
        update={
            "method": method.seqtr("rec") if config.plain else method.model_copy(update=same),
            "data": recipe.data.model_copy(update=boxes),
            "train": config.rec,
            "select": "REC@0.5" if recipe.select else None,
            "stages": ("train",),
            "partial": None,
        }
    )


def res_stage(job: Job) -> Stage:
    """Learn outlines from the refs whose masks are granted; the subset is kept beside the model."""
    recipe = job.recipe
    rec = None if recipe.weights.rec is not None else job.run_dir / "rec" / "model"
    fit = fit_stage("res", job, open_split(recipe, recipe.data.train), rec=rec)

    def run(folder: Path) -> list[Path]:
        outputs = list(fit.run(folder))
        if not recipe.data.few_masks:
            return outputs
        kept = folder / "masks.json"
        if job.main:
            write_subset(kept, masked_refs(recipe))
        job.barrier()
        return [*outputs, kept]

    return replace(fit, run=run)


def pseudo_stage(job: Job, number: int = 1) -> Stage:
    """Masks for the refs that have none, by the model of the stage before; one phrase a ref."""
    recipe, name = job.recipe, _numbered("pseudo", number)
    source = job.run_dir / (_goes_on_from(name) or "") / "model"
    told = identity(recipe)
    inputs = {
        "recipe": digest(told),
        "model": model_hash(source),
        "masks": digest({"refs": sorted(masked_refs(recipe).ref_ids)}),
    }

    def run(folder: Path) -> list[Path]:
        data = folder / "data"
        if job.main:
            progress = Counting(job.progress, "labelling, image by image")
            workers = None if job.device.startswith("cuda") else 1
            try:
                label(
                    _label_options(recipe, source, data, number),
                    workers=workers,
                    device="cpu" if recipe.train.cpu else "auto",
                    progress=progress,
                )
            except NoneKept as error:
                raise RunError(error.message, remedy=_more_kept(recipe, job.run_dir)) from error
            finally:
                progress.close()
        job.barrier()
        return [path for path in sorted(data.iterdir()) if path.suffix in (".p", ".json")]

    return Stage(name, inputs, "text+box", run)


def _more_kept(recipe: Recipe, run_dir: Path) -> str:
    """What to do where no pseudo mask was kept; boxes need not be learned again."""
    rec = recipe.weights.rec or run_dir / "rec" / "model"
    agree = 2 * _config(recipe, "pseudo").agree
    return (
        f'in a new --out: --set partial.agree={agree:g} --set weights.rec="{rec}" --set '
        'weights.vision=null --set "stages=[res,pseudo,res_pseudo]"; or more masks, or more steps'
    )


def res_pseudo_stage(job: Job, number: int = 1) -> Stage:
    """Learn outlines from true and pseudo masks, from REC's weights once more."""
    recipe, config = job.recipe, _config(job.recipe, "res_pseudo")
    true = open_split(recipe, recipe.data.train)
    made = open_data(
        job.run_dir / _numbered("pseudo", number) / "data",
        recipe.data.train,
        recipe.labels(),
        view=recipe.data.view,
        text_field=recipe.data.text_field,
        seed=recipe.train.seed,
    )
    rec = None if recipe.weights.rec is not None else job.run_dir / "rec" / "model"
    train = recipe.train
    if config.again_steps is not None:
        train = train.model_copy(update={"steps": config.again_steps, "epochs": None})
    return fit_stage(
        _numbered("res_pseudo", number), job, JoinedDataset([true, made]), train,
        people=len(true), rec=rec,
    )  # fmt: skip


def _goes_on_from(name: str) -> str | None:
    """The stage whose result `name` needs; None for "rec" and for other methods' stages."""
    kind, number = _parsed(name)
    match kind:
        case "res":
            return "rec"
        case "pseudo":
            return "res" if number == 1 else _numbered("res_pseudo", number - 1)
        case "res_pseudo":
            return _numbered("pseudo", number)
    return None


def _parsed(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if number.isdigit() else (name, 1)


def _numbered(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}_{number}"


def _method(recipe: Recipe) -> PartialResConfig:
    if not isinstance(recipe.method, PartialResConfig):
        raise ConfigError(
            f"recipe {recipe.name}: its stages are those of partial_res, its method is "
            f"{recipe.method_name}",
            remedy="start from a recipe of partial_res (partial_res_scenes)",
        )
    return recipe.method


def _config(recipe: Recipe, stage: str) -> PartialConfig:
    _method(recipe)
    if recipe.partial is None:
        raise ConfigError(
            f'recipe {recipe.name}: the stage "{stage}" needs the group partial',
            remedy="take the stage out, or start from a recipe that has it (partial_res_scenes)",
        )
    return recipe.partial


def _label_options(recipe: Recipe, model: Path, out: Path, number: int) -> LabelOptions:
    config = _config(recipe, "pseudo")
    return ref_masks(
        recipe,
        model,
        out,
        agree=config.agree,
        skip_refs=masked_refs(recipe).ref_ids,
        weight=config.weight,
        seed=recipe.train.seed + number - 1,
    )
