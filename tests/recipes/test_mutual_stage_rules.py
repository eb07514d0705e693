"""What the stages of mutual supervision refuse at once, and what they do without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refseg.data.scenes.model import KINDS
from refseg.errors import ConfigError, RefsegError
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.provenance import identity
from tests.recipes.killing import again, fail_after
from tests.recipes.mutual_small import ALL, settings


def test_what_no_stage_reads_is_no_part_of_a_run(recipe: Recipe) -> None:
    """A setting of step 2 neither stops nor repeats a run of step 1 alone."""
    told = ["disambiguation.policy.tau=1", "pseudo.weight=0.5"]
    parts = {"disambiguation": 0, "pseudo": 1}
    for stages, read in (
        ("train", ()),
        ("train,disambiguate", ("disambiguation",)),
        ("train,disambiguate,label,retrain", ("disambiguation", "pseudo")),
    ):
        one = apply_overrides(recipe, [f"stages=[{stages}]"])
        for name, place in parts.items():
            other = apply_overrides(one, [told[place]])
            assert (identity(one) != identity(other)) == (name in read)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pseudo": None}, "need the group pseudo"),
        ({"disambiguation": None}, "needs the group disambiguation"),
        ({"stages": ("label", "retrain")}, '"label" goes on from "disambiguate"'),
        ({"stages": ("disambiguate", "train")}, '"disambiguate" goes on from "train"'),
        ({"stages": ("train", "retrain")}, '"retrain" goes on from "label"'),
    ],
)
def test_what_a_late_stage_lacks_is_told_at_once(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        again(recipe.model_copy(update=changes), tmp_path / "run")
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "told", "remedy"),
    [
        (
            "pseudo.source=coco/nowhere.json",
            "pseudo.source=coco/nowhere.json: ",
            "COCO's instances",
        ),
        ("pseudo.source=nowhere.json", 'unknown data set "nowhere.json"', "pseudo.source=null"),
        ("pseudo.images=pictures", "there is no pseudo.source", "data.images"),
        ("pseudo.filter=random:99999", "99,999 objects, but scenes has only", "draw fewer"),
        ("pseudo.split=pond", 'unknown split of scenes "pond"', "pool"),
    ],
)
def test_a_pool_that_will_not_do_is_told_at_once(
    recipe: Recipe, tmp_path: Path, setting: str, told: str, remedy: str
) -> None:
    with pytest.raises(RefsegError, match=told) as caught:
        again(apply_overrides(recipe, [setting]), tmp_path / "run")
    assert remedy in caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_all_stages_without_a_pixel(recipe: Recipe, world: Path, tmp_path: Path) -> None:
    """Proposals are the annotated objects; not one image is opened."""
    assert recipe.pseudo is not None
    base = get_recipe("mutual_refcoco_boxes").model_copy(
        update={"pseudo": recipe.pseudo, "stages": ALL}
    )
    kinds = "[" + ",".join(KINDS) + "]"
    boxes = apply_overrides(base, [
        *settings("method.extractor", "method.extractor.backbone", "weights"),
        "method.extractor.width=16", f"method.extractor.classes={kinds}",
        f"data.name={world}", "data.split_by=null", "data.limit=30",
    ])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refseg.data.dataset.read_checked", fail_after(0, print))
        patch.setattr("refseg.data.pictures.read_checked", fail_after(0, print))
        patch.setattr("refseg.data.pictures.decode_segmentation", fail_after(0, print))
        result = again(boxes, tmp_path / "run")
    assert result.skipped == ()
    assert not (tmp_path / "run" / "disambiguate" / "proposals").exists()
    assert again(boxes, tmp_path / "run").skipped == ALL
    manifest = json.loads((tmp_path / "run" / "label" / "manifest.json").read_text())
    assert manifest["labels"] == "text+box+category"
    # The world has masks, which were not granted: none is decoded, counted or passed on.
    told = json.loads((tmp_path / "run" / "label" / "data" / "labels.json").read_text())
    assert told["labels seen here"] == "text+box+category"
    written = json.loads((tmp_path / "run" / "label" / "data" / "instances.json").read_text())
    assert {one.get("segmentation") for one in written["annotations"]} == {None}
    assert all(one["bbox"] for one in written["annotations"])
