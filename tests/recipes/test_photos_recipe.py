"""The heads for photographs: two data sets joined, detections simulated, no pixel opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models
from refseg.methods.mutual.config import RECORDS
from refseg.ops.files import sha256_file
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.opening import open_training
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.provenance import identity
from refseg.recipes.runner import run_recipe
from tests.data.refer_trees import make_refer

SMALL = (
    "method.extractor.width=16", "method.extractor.mlp_width=16", "method.text.width=16",
    "method.text.layers=1", "method.text.heads=2", "method.text.mlp_width=16",
    "method.generator.width=16", "method.generator.layers=1", "method.generator.heads=2",
    "method.generator.mlp_width=16", "method.selection.width=16", "method.selection.layers=1",
    "method.selection.heads=2", "method.selection.mlp_width=16", "method.selection.score_width=16",
    "train.steps=3", "train.batch_size=2", "train.save_every=2", "train.warmup=0",
    "disambiguation.train.steps=2", "disambiguation.train.batch_size=1",
    "disambiguation.train.warmup=0",
)  # fmt: skip


def move(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
    """Images 1 and 4 are trained on, 2 and 3 judged by."""
    for entry in refs:
        entry["split"] = "train" if entry["image_id"] in (1, 4) else "val"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    first, second = (
        make_refer(tmp_path / "a"),
        make_refer(tmp_path / "b", "refcoco+", change=move),
    )
    for folder in (first, second):
        for picture in folder.parent.rglob("*.jpg"):
            picture.unlink()
    places = (
        f"data.name={first}", f'data.also=["{second}"]', f'disambiguation.merge=["{second}"]',
    )  # fmt: skip
    return apply_overrides(get_recipe("photos"), [*places, *SMALL])


def test_what_either_evaluates_on_neither_learns(recipe: Recipe) -> None:
    """The first trains on images 1 and 2 and judges by 3 and 4, the second as in `move`."""
    data = open_training(recipe)
    assert [data.entry(i).image_id for i in range(len(data))] == [1, 1, 1, 1]
    assert {data.entry(i).category for i in range(len(data))} == {"cup"}
    alone = apply_overrides(recipe, ["data.also=[]"])
    assert sorted({open_training(alone).entry(i).image_id for i in range(3)}) == [1, 2]
    left_out = apply_overrides(recipe, ["data.exclude_images=[1]"])
    assert len(open_training(left_out)) == 0


def test_it_trains_and_tells_of_both(recipe: Recipe, tmp_path: Path) -> None:
    run_recipe(recipe, tmp_path / "run")
    model = models.load(tmp_path / "run" / "model")
    assert " and " in model.card["data"]
    assert "4 items" in model.card["data"]
    assert model.card["labels used"] == (
        "text+box+category; with detections.npz (box+mask+category)"
    )
    assert model.card["starts from"] == {"detections.npz": "box+mask+category"}
    assert "images left out" not in model.card
    assert model.card["disambiguation"].startswith("2 steps of 1 images")
    assert model.card["disambiguation"].endswith("merged with refcoco+")
    before = models.load(tmp_path / "run" / "train" / "model").method.state_dict()
    for name, value in model.method.state_dict().items():
        assert name.startswith("generator.") or torch.equal(value, before[name])
    manifest = json.loads((tmp_path / "run" / "train" / "manifest.json").read_text())
    assert manifest["inputs"]["detections.npz"] == sha256_file(RECORDS)
    state = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert state["method_config"]["extractor"]["kind"] == "detected"


def test_runs_of_before_there_was_also_go_on(recipe: Recipe) -> None:
    assert "also" not in identity(get_recipe("mutual_scenes"))["data"]
    assert len(identity(recipe)["data"]["also"]) == 1
