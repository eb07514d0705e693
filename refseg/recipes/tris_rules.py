"""What a run of TRIS must fulfil before its first stage: a later one comes hours after it, and what
it would fail on is tried before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refseg.errors import ConfigError, ModelError
from refseg.ops.crf import SEEDS, refine
from refseg.recipes.base import Recipe, TrisPart
from refseg.recipes.batches import check_negatives
from refseg.recipes.building import build
from refseg.recipes.starts import check_starts, find_starts
from refseg.recipes.tris_data import part_of, refs, sentences
from refseg.recipes.tris_edges import build_edges
from refseg.train.config import TrainConfig
from refseg.train.plan import Plan

ORDER = ("respond", "select", "edges", "refine", "segment")


def check_tris(recipe: Recipe, run_dir: Path) -> None:
    """Refuse what a later stage would fail on, before hours of earlier ones.

    Raises ConfigError (stages that do not fit, no calibrator, no encoder for edges, no negatives,
    sizes of step 2, batches of more than there is), ModelError (weights of step 2 that are absent
    or do not fit), RefsegError (the CRF asks for a package that is not there).
    """
    named = [name for name in recipe.stages if name in ORDER]
    if not named:
        return
    part = part_of(recipe)
    _check_order(recipe, named)
    asks = part.response.loss.calibrated or part.choice == "prms" or recipe.select == "margin"
    if asks and recipe.weights.calibrator is None:
        raise ConfigError(
            f"recipe {recipe.name}: a frozen image-text model judges response maps, and "
            "weights.calibrator names none",
            remedy="name one (clip-scenes, openai/clip-vit-base-patch32), or do without: set "
            "tris.response.loss.attract=0, tris.response.loss.repel=0, tris.choice=first and "
            "select=null",
        )
    check_negatives(recipe, part.response, "tris.response")
    if recipe.weights.model is not None or recipe.data.also:
        raise ConfigError(
            f"recipe {recipe.name}: its two networks cannot both be weights.model, and its stages "
            "read one data set",
            remedy="set weights.model=null and data.also=[]",
        )
    # What is finished outlives what it was made with.
    ahead = {name for name in named if not (run_dir / name / "manifest.json").exists()}
    if "edges" in ahead:
        build_edges(recipe, part)
        pixel = np.zeros((1, 1, 3), np.uint8)
        refine(pixel, np.full((1, 1), 0.5, np.float32), part.smooth, SEEDS)
    if "segment" in ahead:
        _check_step_2(recipe)
    if ahead & {"edges", "segment"}:
        _check_sizes(recipe, part, ahead)


def _check_order(recipe: Recipe, named: list[str]) -> None:
    for place, name in enumerate(ORDER[1:], start=1):
        if name in named and ORDER[place - 1] not in recipe.stages[: recipe.stages.index(name)]:
            raise ConfigError(
                f'recipe {recipe.name}: the stage "{name}" goes on from "{ORDER[place - 1]}", '
                "which `stages` does not name before it",
                remedy=f'put "{ORDER[place - 1]}" before it',
            )


def _check_step_2(recipe: Recipe) -> None:
    """Build what the stage "segment" starts from, word pieces included, and let it go again."""
    check_starts(recipe, find_starts(recipe.weights))
    try:
        build(recipe, _texts(recipe))
    except (ConfigError, ModelError) as error:
        told = f'the stage "segment" could not start: {error.message}'
        raise type(error)(told, remedy=error.remedy) from error


def _texts(recipe: Recipe) -> Iterator[str]:
    """What word pieces are learned from, where they are; else the data stay closed."""
    data, rows = sentences(recipe)
    yield from (data.entry(row).text for row in rows)


def _check_sizes(recipe: Recipe, part: TrisPart, ahead: set[str]) -> None:
    """Raise where a batch takes more than every ref's map and mask together, if all are found."""
    data, rows = sentences(recipe)
    known = len(refs(recipe))
    if recipe.data.limit is not None:
        known = len({data.entry(row).ref_id for row in rows})
    if "edges" in ahead:
        most = min(known, part.edge_refs or known)
        _check_batch(part.edges_train, most, "refs that edges are learned from", "tris.edges_train")
    if "segment" in ahead:
        most = known if recipe.data.view == "ref" else len(rows)
        _check_batch(recipe.train, most, "expressions that step 2 learns from", "train")


def _check_batch(train: TrainConfig, count: int, of: str, group: str) -> None:
    try:
        Plan.make(train, count, of=f"the {of}")
    except ConfigError as error:
        remedy = error.remedy.replace("train.batch_size", f"{group}.batch_size")
        raise ConfigError(error.message, remedy=remedy) from error
