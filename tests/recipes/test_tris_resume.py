"""Runs of TRIS that were interrupted end as others do; what was made of other files is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg.errors import RunError
from refseg.methods.tris.edges import EdgeNet
from refseg.ops.files import sha256_file
from refseg.recipes import runner, tris_edges, tris_select
from refseg.recipes.base import Recipe
from refseg.recipes.batches import RecipeBatches
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.tris_rules import ORDER
from refseg.recipes.tris_seeds import EdgeBatches
from refseg.recipes.tris_select import MAPS, REFS
from tests.recipes.killing import Death, again, die_in_turn
from tests.recipes.partial_small import manifest, state
from tests.recipes.tris_small import small_pair, small_tris


@pytest.fixture(scope="module")
def recipe(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    pair = run_encoder(small_pair(world), tmp_path_factory.mktemp("pair") / "run", progress="none")
    return small_tris(world, pair, "tris.edge_crop=64", "data.limit=30")


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tris") / "whole"
    again(recipe, folder)
    return folder


def test_killed_in_every_stage_it_ends_with_the_same_bits(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    deaths: list[Death] = [
        (RecipeBatches, "__call__", 2, "respond"),  # one of them is the first look
        (tris_select, "_of_images", 0, "select"),
        (EdgeBatches, "__call__", 1, "edges"),
        (EdgeNet, "set_mean", 0, "edges"),
        (tris_edges.Refiner, "__call__", 3, "refine"),
        (tris_edges, "merge", 0, "refine"),
        (RecipeBatches, "__call__", 2, "segment"),
        (runner, "publish", 0, None),
    ]
    die_in_turn(recipe, folder, deaths, ORDER)
    assert_same(folder, whole)


def assert_same(one: Path, other: Path) -> None:
    files = (f"select/{MAPS}", f"select/{REFS}", "refine/data/instances.json")
    for name in (*files, "refine/data/refs(refseg).p", "edges/net.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("respond", "segment"):
        mine, theirs = state(one / name), state(other / name)
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


# -- what stages are made from -------------------------------------------------------------------


def test_each_stage_says_what_it_was_made_from(whole: Path) -> None:
    """Beside the recipe."""
    files = {
        "maps": whole / "select" / MAPS,
        "refs": whole / "select" / REFS,
        "edges": whole / "edges" / "net.safetensors",
        "model": whole / "respond" / "model" / "model.safetensors",
    }
    told = {name: manifest(whole / name)["inputs"] for name in ORDER}
    read = {"select": {"model"}, "edges": {"maps", "refs"}, "refine": {"maps", "refs", "edges"}}
    for name, keys in read.items():
        assert {key: told[name][key] for key in keys} == {k: sha256_file(files[k]) for k in keys}
        assert told[name]["recipe"] == told["segment"]["recipe"]
    assert told["select"]["weights.calibrator"] == told["segment"]["weights.calibrator"]
    assert told["edges"]["weights.edges"] == told["segment"]["weights.edges"]
    assert told["select"]["data"] == told["edges"]["source"] == told["refine"]["source"]
    assert told["segment"]["data"] != told["respond"]["data"] == told["select"]["data"]
    for name in ORDER:
        assert json.loads((whole / name / "inputs.json").read_text()) == told[name]


def done_again(stage: Path, name: str, change: Callable[[Path], object]) -> None:
    """As if the finished stage had been deleted and had left another file at its second time."""
    change(stage / name)
    told = manifest(stage)
    told["outputs"][name] = sha256_file(stage / name)
    (stage / "manifest.json").write_text(json.dumps(told))


def spaced(path: Path) -> None:
    """Other bytes that say the same."""
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))


def louder(path: Path) -> None:
    """Other maps."""
    np.save(path, 2 * np.load(path))


@pytest.mark.parametrize(
    ("made", "file", "change", "refused", "changed"),
    [
        ("select", MAPS, louder, "edges", "maps"),
        ("select", REFS, spaced, "edges", "refs"),
        ("refine", "data/instances.json", spaced, "segment", "data"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_what_was_made_of_other_files_is_refused(
    finished: bool, made: str, file: str, change: Any, refused: str, changed: str,
    recipe: Recipe, whole: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """And so are checkpoints of a stage that is not finished."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    if not finished:
        for name in ORDER[ORDER.index(refused) :]:
            (folder / name / "manifest.json").unlink()
    done_again(folder / made, file, change)
    with pytest.raises(RunError) as caught:
        again(recipe, folder)
    verb = "was made from" if finished else "was begun with"
    told = f"stage {refused} in {folder / refused} {verb} other inputs: {changed}"
    assert caught.value.message == told
    assert str(folder / refused) in str(caught.value.remedy)
    if refused == ORDER[-1]:  # (behind others as well, and more than once, it takes long)
        shutil.rmtree(folder / refused)
        assert again(recipe, folder).skipped == ORDER[:-1]


def test_runs_from_before_these_were_told_are_still_whole(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    for name in ("select", "edges", "refine"):
        told = manifest(folder / name)
        for key in ("refs", "source", "weights.edges", "weights.calibrator"):
            told["inputs"].pop(key, None)
        (folder / name / "manifest.json").write_text(json.dumps(told))
        (folder / name / "inputs.json").unlink()
    assert again(recipe, folder).skipped == ORDER


def test_a_broken_list_of_inputs_says_what_to_do(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    (folder / "segment" / "manifest.json").unlink()
    (folder / "segment" / "inputs.json").write_text("3")
    with pytest.raises(RunError, match=r"broken .*inputs\.json") as caught:
        again(recipe, folder)
    assert "redo the stage" in str(caught.value.remedy)
