"""Fine-tuning of the comparators: settings, labels, and a run of two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg import models
from refseg.convert import convert
from refseg.errors import LabelsError, ModelError
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import RECIPES, get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from refseg.types import TEXT_ONLY
from tests.hub_toys import hub_clip, hub_groupvit

NAMES = [name for name in RECIPES if name.startswith(("maskclip", "groupvit"))]
PAPERS = [name for name in NAMES if name != "maskclip_scenes"]


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_all_that_is_granted_and_nothing_chooses(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.labels() == TEXT_ONLY
    assert (recipe.select, recipe.data.evaluate) == (None, None)
    assert recipe.weights.model == recipe.tokens.source == recipe.method_name
    assert recipe.data.augment.idle


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings(name: str) -> None:
    recipe = get_recipe(name)
    assert (recipe.train.batch_size, recipe.train.lr) == (32, 1e-5)
    assert recipe.preprocess.size == 224
    assert recipe.tokens.max_words == 77


def test_a_row_for_each_benchmark_of_the_table() -> None:
    for method in ("maskclip", "groupvit"):
        rows = [get_recipe(name).data for name in PAPERS if name.startswith(method)]
        assert {(data.name, data.split_by) for data in rows} == {
            ("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "google"), ("phrasecut", None),
        }  # fmt: skip


def small(name: str, folder: Path, world: Path, *more: str) -> Recipe:
    """The recipe on the small world, from the model in `folder`, of its sizes."""
    settings = [
        f"data.name={world}", f"weights.model={folder}", f"tokens.source={folder}",
        "tokens.max_words=12", "preprocess.size=32", "data.limit=8", "train.epochs=null",
        "train.steps=2", "train.batch_size=4", "train.workers=0", "train.cpu=true",
        "train.save_every=1",
    ]  # fmt: skip
    recipe = get_recipe(name)
    method = models.load(folder).method.config
    return apply_overrides(recipe.model_copy(update={"method": method}), [*settings, *more])


@pytest.mark.parametrize(
    ("name", "make"), [("maskclip_gref", hub_clip), ("groupvit_gref", hub_groupvit)]
)
def test_two_steps(name: str, make: object, world: Path, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "hub")
    convert(str(tmp_path / "hub"), tmp_path / "start")
    recipe = small(name, tmp_path / "start", world, "data.split_by=null")
    result = run_recipe(recipe, tmp_path / "run", progress="none")
    tuned, start = models.load(result.model), models.load(tmp_path / "start")
    assert tuned.card["labels used"] == "text; model: {} ({})".format(
        tmp_path / "start", "text (of the pre-training pairs)"
    )
    assert "8 items" in tuned.card["data"]
    before, after = start.method.state_dict(), tuned.method.state_dict()
    moved = [(after[key].float() - before[key].float()).abs().max() for key in before]
    assert max(float(one) for one in moved) > 0, "it learned"
    scale = "pair.logit_scale" if name.startswith("maskclip") else "net.logit_scale"
    assert float(abs(after[scale] - before[scale])) < 1e-3, "from the temperature it had"


def test_absent_weights_are_refused(world: Path, tmp_path: Path) -> None:
    settings = [f"data.name={world}", "data.split_by=null"]
    recipe = apply_overrides(get_recipe("maskclip_refcoco"), settings)
    with pytest.raises(ModelError, match="maskclip is a method") as caught:
        run_recipe(recipe, tmp_path / "run", progress="none")
    assert "refseg models convert" in caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_weights_that_saw_masks_are_refused(world: Path, tmp_path: Path) -> None:
    hub_clip(tmp_path / "hub")
    model = convert(str(tmp_path / "hub"), tmp_path / "start")
    model.card["labels used"] = "text+mask"
    models.save(tmp_path / "start", model)
    recipe = small("maskclip_refcoco", tmp_path / "start", world, "data.split_by=null")
    with pytest.raises(LabelsError, match=r"learned from text\+mask"):
        run_recipe(recipe, tmp_path / "run", progress="none")
