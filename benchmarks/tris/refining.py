"""The stage "refine": all refs of an image at once, beside each by itself.

The plain form finds the edges anew for every ref, as the released code does, which is handed a ref
at a time. Between them, edges are found once and each ref's map walks by itself. Weights, pictures
and maps are random, the edge network is that of `tris_scenes`. Displacements of random weights say
nothing: they would cut an image into hundreds of instances, so maps are not cut here, and what
cutting costs is in no form. Nor do such edges hold a walk up; the threshold is higher than usual,
so that there are masks to compare. Before anything is timed, all must give the same masks and
scores.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.mutual.measuring import Table, compared
from refseg.methods.tris.edges import EdgeNet
from refseg.methods.tris.refine import refine
from refseg.nn.clip import Pixels
from refseg.recipes.tris import tris_scenes
from refseg.recipes.tris_edges import Refiner
from refseg.recipes.tris_select import Selected

SIZES = ((128, 128), 6), ((480, 640), 3)
GRID = 8  # cells of a side of a response map of `tris_scenes`
BACKGROUND = 0.7
ANEW, BETWEEN = "edges anew for every ref", "edges once, refs one by one"
OURS = "ours: edges once, refs together"
Picture = NDArray[np.uint8]
Found = list[tuple[NDArray[np.bool_], float]]


def refining(runs: int = 5) -> dict[str, Table]:
    """By size: the forms with "ms" an image, "per_second" images, "as_fast"."""
    return {
        f"{hw[0]} x {hw[1]} px, refs: {count}": measured(hw, count, runs) for hw, count in SIZES
    }


def measured(hw: tuple[int, int], count: int, runs: int) -> Table:
    """The forms in turn, after they were seen to agree."""
    refiner, picture = made(count), noise(hw)
    tasks = {
        ANEW: partial(anew, refiner, picture),
        BETWEEN: partial(one_by_one, refiner, picture),
        OURS: partial(refiner, picture, refiner.selected.ref_ids),
    }
    plain, *others = (task() for task in tasks.values())
    for found in others:
        agree(found, plain)
    table = compared(tasks, runs)
    for row in table.values():
        row["per_second"] = 1000 / row["ms"]
    return table


def agree(found: Found, plain: Found) -> None:
    """Stop the run where masks or scores differ, or masks say nothing."""
    for (mask, score), (other, twin) in zip(found, plain, strict=True):
        assert np.array_equal(mask, other)
        assert abs(score - twin) < 1e-6
        assert 0.01 < mask.mean() < 0.99, f"a mask of {mask.mean():.1%} of the image"


def made(count: int) -> Refiner:
    """A refiner of random weights, with maps of as many refs."""
    recipe = tris_scenes()
    assert recipe.tris is not None
    torch.manual_seed(0)
    net = EdgeNet(recipe.tris.edges).eval()
    net.set_pixels(Pixels(mean=recipe.preprocess.mean, std=recipe.preprocess.std))
    maps = np.random.default_rng(0).normal(size=(count, GRID, GRID)).astype(np.float32)
    selected = Selected(maps, range(count), [0] * count, [0.0] * count)
    settings = recipe.tris.refine.model_copy(update={"split": False, "background": BACKGROUND})
    return Refiner(net, selected, recipe.preprocess, settings)


def noise(hw: tuple[int, int]) -> Picture:
    return np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)


# -- the slower forms ------------------------------------------------------------------------


def anew(refiner: Refiner, picture: Picture) -> Found:
    return [found for ref in refiner.selected.ref_ids for found in refiner(picture, [ref])]


def one_by_one(refiner: Refiner, picture: Picture) -> Found:
    edge, displacement = refiner.look(picture)
    hw = (picture.shape[0], picture.shape[1])
    geometry = refiner.preprocess.geometry(hw)
    found: Any = []
    for ref in refiner.selected.ref_ids:
        response = refiner.selected.in_px(ref, geometry)
        found += refine(response[None], edge, displacement, refiner.settings, hw)
    return [(one.mask, one.score) for one in found]
