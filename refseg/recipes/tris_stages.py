"""The stages of TRIS: from pairs of image and text to a segmentation network.

    respond   step 1: response maps, by classifying texts     RUN/respond/model
    select    PRMS: one map for each ref                      RUN/select/maps.npy
    edges     IRNet, from what the maps are sure of           RUN/edges/net.safetensors
    refine    the maps walked between edges: pseudo masks     RUN/refine/data
    segment   step 2: a network that learns from them         RUN/segment/model

No stage sees a mask, box or category that people made; the weights that are kept are chosen by the
calibrator, which reads texts. (`select=mIoU` chooses by masks instead, once they are granted, and
the card says so.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.errors import ConfigError
from refseg.ops.crf import SEEDS, refine
from refseg.ops.files import sha256_file
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.judging import open_calibrator
from refseg.recipes.labelling import ref_masks
from refseg.recipes.opening import open_split
from refseg.recipes.provenance import digest, identity
from refseg.recipes.rewarding import model_hash
from refseg.recipes.stages import Stage
from refseg.recipes.training import Job, fit_stage
from refseg.recipes.tris_edges import (
    build_edges,
    edges_hash,
    learn_edges,
    read_refiner,
    write_masks,
)
from refseg.recipes.tris_select import MAPS, REFS, Selected, select_maps
from refseg.train.progress import Counting
from refseg.types import Labels

ORDER = ("respond", "select", "edges", "refine", "segment")


def check_tris(recipe: Recipe, run_dir: Path) -> None:
    """Refuse what a later stage would fail on, before hours of earlier ones.

    Raises ConfigError (stages that do not fit, no calibrator, no encoder for edges), RefsegError
    (the CRF asks for a package that is not there).
    """
    named = [name for name in recipe.stages if name in ORDER]
    if not named:
        return
    part = _part(recipe)
    for place, name in enumerate(ORDER[1:], start=1):
        if name in named and ORDER[place - 1] not in recipe.stages[: recipe.stages.index(name)]:
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" goes on from "{ORDER[place - 1]}", '
                "which `stages` does not name before it",
                remedy=f'put "{ORDER[place - 1]}" before it',
            )
    asks = part.response.loss.calibrated or part.choice == "prms" or recipe.select == "margin"
    if asks and recipe.weights.calibrator is None:
        raise ConfigError(
            f"recipe {recipe.name}: a frozen image-text model judges response maps, and "
            "weights.calibrator names none",
            remedy="name one (clip-scenes, openai/clip-vit-base-patch32), or do without: set "
            "tris.response.loss.attract=0, tris.response.loss.repel=0, tris.choice=first and "
            "select=null",
        )
    if part.response.loss.repel > 0 and recipe.data.negatives < 1:
        raise ConfigError(
            f"recipe {recipe.name}: tris.response.loss.repel={part.response.loss.repel:g} pushes "
            "other texts away, and data.negatives=0 brings none",
            remedy="set data.negatives=3, or tris.response.loss.repel=0",
        )
    if recipe.weights.model is not None or recipe.data.also:
        raise ConfigError(
            f"recipe {recipe.name}: its two networks cannot both be weights.model, and its stages "
            "read one data set",
            remedy="set weights.model=null and data.also=[]",
        )
    # What is finished outlives what it was made with.
    if "edges" in named and not (run_dir / "edges" / "manifest.json").exists():
        build_edges(recipe, part)
        pixel = np.zeros((1, 1, 3), np.uint8)
        refine(pixel, np.full((1, 1), 0.5, np.float32), part.smooth, SEEDS)


def respond_stage(job: Job) -> Stage:
    """Step 1, from pairs of image and text."""
    recipe = response_recipe(job.recipe)
    return fit_stage("respond", replace(job, recipe=recipe), open_split(recipe, recipe.data.train))


def response_recipe(recipe: Recipe) -> Recipe:
    """What the stage "respond" trains: the same data, and step 1's method."""
    part = _part(recipe)
    return recipe.model_copy(
        update={
            "method_name": "tris_response",
            "method": part.response,
            "train": part.train,
            "stages": ("train",),
            "tris": None,
        }
    )


def select_stage(job: Job) -> Stage:
    """One map for each ref of the training split, by step 1's model."""
    recipe, part = job.recipe, _part(job.recipe)
    source = job.run_dir / "respond" / "model"
    data = _sentences(recipe)
    inputs = {
        "recipe": digest(identity(recipe)),
        "model": model_hash(source),
        "data": data.hash,
        "choice": part.choice,
    }

    def run(folder: Path) -> list[Path]:
        if job.main:
            model = models.load(source, job.device)
            judge = open_calibrator(response_recipe(recipe)) if part.choice == "prms" else None
            progress = Counting(job.progress, "selecting maps, image by image")
            try:
                select_maps(model, judge, data, progress).write(folder)
            finally:
                progress.close()
        job.barrier()
        return [folder / MAPS, folder / REFS]

    return Stage("select", inputs, "text", run)


def edges_stage(job: Job) -> Stage:
    """IRNet's heads on a frozen encoder, from seeds."""
    recipe, part = job.recipe, _part(job.recipe)
    inputs = {"recipe": digest(identity(recipe)), **_maps_hash(job.run_dir)}

    def run(folder: Path) -> list[Path]:
        selected = Selected.read(job.run_dir / "select")
        return learn_edges(job, part, _refs(recipe), selected, folder)

    return Stage("edges", inputs, "text", run)


def refine_stage(job: Job) -> Stage:
    """Pseudo masks of every ref, as a data set."""
    recipe, part = job.recipe, _part(job.recipe)
    inputs = {
        "recipe": digest(identity(recipe)),
        "edges": edges_hash(job.run_dir / "edges"),
        **_maps_hash(job.run_dir),
    }

    def run(folder: Path) -> list[Path]:
        out = folder / "data"
        if job.main:
            selected = Selected.read(job.run_dir / "select")
            refiner = read_refiner(job.run_dir / "edges", recipe, part, selected)
            write_masks(
                job,
                part,
                ref_masks(recipe, job.run_dir / "respond" / "model", out),
                inputs,
                refiner,
            )
        job.barrier()
        return [path for path in sorted(out.iterdir()) if path.suffix in (".p", ".json")]

    return Stage("refine", inputs, "text", run)


def segment_stage(job: Job) -> Stage:
    """Step 2 from pseudo masks."""
    recipe = job.recipe
    made = open_data(
        job.run_dir / "refine" / "data",
        recipe.data.train,
        Labels.parse("text+mask"),
        view=recipe.data.view,
        text_field=recipe.data.text_field,
        seed=recipe.train.seed,
    )
    return fit_stage("segment", job, made, lent="masks that its own step 1 proposed")


STAGES: dict[str, Callable[[Job], Stage]] = {
    "respond": respond_stage,
    "select": select_stage,
    "edges": edges_stage,
    "refine": refine_stage,
    "segment": segment_stage,
}


def _sentences(recipe: Recipe) -> ReferDataset:
    """The training split with its words alone, whatever else is granted to choose by."""
    data = recipe.data.model_copy(update={"labels": "text", "objects": False})
    told = recipe.model_copy(update={"data": data})
    return open_split(told, recipe.data.train, view="sentence")


def _refs(recipe: Recipe) -> ReferDataset:
    """The training refs, one item each."""
    return _sentences(recipe).with_options(view="ref")


def _maps_hash(run_dir: Path) -> dict[str, str]:
    path = run_dir / "select" / MAPS
    return {"maps": sha256_file(path) if path.is_file() else "not there"}


def _part(recipe: Recipe) -> TrisPart:
    if recipe.tris is None or recipe.method_name != "tris":
        raise ConfigError(
            f"recipe {recipe.name}: its stages are those of tris, its method is "
            f"{recipe.method_name}",
            remedy="start from a recipe of tris (tris_scenes)",
        )
    return recipe.tris
