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

from refseg import models
from refseg.data.catalog import open_data
from refseg.ops.files import sha256_file
from refseg.recipes.base import Recipe
from refseg.recipes.judging import open_calibrator
from refseg.recipes.labelling import ref_masks
from refseg.recipes.opening import open_split
from refseg.recipes.provenance import digest, identity
from refseg.recipes.rewarding import model_hash
from refseg.recipes.stages import Stage, begun
from refseg.recipes.starts import weight_hashes
from refseg.recipes.training import Job, fit_stage
from refseg.recipes.tris_data import (
    part_of,
    refs,
    response_recipe,
    sentences,
    taught,
    without_map,
)
from refseg.recipes.tris_edges import edges_hash, learn_edges, read_refiner, write_masks
from refseg.recipes.tris_select import MAPS, REFS, Selected, select_maps
from refseg.train.progress import Counting
from refseg.types import Labels


def respond_stage(job: Job) -> Stage:
    """Step 1, from pairs of image and text."""
    recipe = response_recipe(job.recipe)
    return fit_stage("respond", replace(job, recipe=recipe), open_split(recipe, recipe.data.train))


def select_stage(job: Job) -> Stage:
    """One map for each ref of the training split, by step 1's model."""
    recipe, part = job.recipe, part_of(job.recipe)
    source = job.run_dir / "respond" / "model"
    data, rows = sentences(recipe)
    inputs = {
        "recipe": digest(identity(recipe)),
        "model": model_hash(source),
        "data": data.hash,
        "choice": part.choice,
        **({} if recipe.data.limit is None else {"rows": digest({"rows": rows})}),
        **_weights(recipe, "calibrator"),
    }

    def run(folder: Path) -> list[Path]:
        if job.main:
            model = models.load(source, job.device)
            judge = open_calibrator(response_recipe(recipe)) if part.choice == "prms" else None
            progress = Counting(job.progress, "selecting maps, image by image")
            try:
                select_maps(model, judge, data, progress, rows).write(folder)
            finally:
                progress.close()
        job.barrier()
        return [folder / MAPS, folder / REFS]

    return Stage("select", inputs, "text", run)


def edges_stage(job: Job) -> Stage:
    """IRNet's heads on a frozen encoder, from seeds."""
    recipe, part = job.recipe, part_of(job.recipe)
    data = refs(recipe)
    inputs = {
        "recipe": digest(identity(recipe)),
        "source": data.hash,
        **_maps_hash(job.run_dir),
        **_weights(recipe, "edges"),
    }

    def run(folder: Path) -> list[Path]:
        return learn_edges(job, part, data, Selected.read(job.run_dir / "select"), folder)

    return Stage("edges", inputs, "text", run)


def refine_stage(job: Job) -> Stage:
    """Pseudo masks of every ref that has a map, as a data set."""
    recipe, part = job.recipe, part_of(job.recipe)
    inputs = {
        "recipe": digest(identity(recipe)),
        "source": refs(recipe).hash,
        "edges": edges_hash(job.run_dir / "edges"),
        **_maps_hash(job.run_dir),
    }

    def run(folder: Path) -> list[Path]:
        out = folder / "data"
        if job.main:
            selected = Selected.read(job.run_dir / "select")
            refiner = read_refiner(job.run_dir / "edges", recipe, part, selected, job.device)
            options = ref_masks(
                recipe,
                job.run_dir / "respond" / "model",
                out,
                skip_refs=without_map(recipe, selected),
            )
            write_masks(job, part, options, inputs, refiner)
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
    # (Of what it reads, "data" is the hash: of the refs and of the masks.)
    lent, rows = "masks that its own step 1 proposed", taught(recipe, made)
    return fit_stage("segment", job, made, lent=lent, rows=rows)


def _begun(make: Callable[[Job], Stage]) -> Callable[[Job], Stage]:
    return lambda job: begun(make(job), main=job.main, barrier=job.barrier)


#: Checkpoints and shards do not say what files they were made from: the stages' folders do.
STAGES: dict[str, Callable[[Job], Stage]] = {
    "respond": _begun(respond_stage),
    "select": _begun(select_stage),
    "edges": _begun(edges_stage),
    "refine": _begun(refine_stage),
    "segment": _begun(segment_stage),
}


def _maps_hash(run_dir: Path) -> dict[str, str]:
    files = {"maps": run_dir / "select" / MAPS, "refs": run_dir / "select" / REFS}
    return {
        key: sha256_file(path) if path.is_file() else "not there" for key, path in files.items()
    }


def _weights(recipe: Recipe, part: str) -> dict[str, str]:
    """The hashes of one of the recipe's weights, if it is named."""
    name = getattr(recipe.weights, part)
    return {} if name is None else weight_hashes(f"weights.{part}", name)
