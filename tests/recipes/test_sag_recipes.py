"""The recipes of Shatter and Gather: the paper's settings, what each grants and opens, and a whole
run from small encoders.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from refseg import models
from refseg.data.catalog import open_data
from refseg.errors import ConfigError, LabelsError, ModelError
from refseg.methods.sag import SagConfig
from refseg.nn.weights import read_state
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import RECIPES, get_encoder, get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.runner import run_recipe
from refseg.recipes.starts import find_starts
from refseg.train.log import read_log
from refseg.train.schedule import lr_factor
from refseg.types import TEXT_ONLY, Labels
from tests.recipes.partial_small import card, manifest
from tests.recipes.sag_small import WITHHELD, opened, small_bert, small_sag, small_vit
from tests.recipes.test_tris_recipes import changes

#: A run's folder, and what was read meanwhile.
Run = tuple[Path, set[tuple[str, str]]]
NAMES = [name for name in RECIPES if name.startswith("sag_")]
PAPERS = [name for name in NAMES if name != "sag_scenes"]


def method_of(recipe: Recipe) -> SagConfig:
    assert isinstance(recipe.method, SagConfig)
    return recipe.method


# -- what they say -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_all_that_is_granted_and_nothing_chooses(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.labels() == TEXT_ONLY
    assert recipe.select is None
    assert (recipe.stages, recipe.data.objects, recipe.data.few_masks) == (("train",), False, False)
    assert recipe.data.augment.idle
    assert recipe.data.view == "sentence"
    assert recipe.weights.vision
    assert recipe.weights.text == recipe.tokens.source


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings(name: str) -> None:
    recipe = get_recipe(name)
    train, method = recipe.train, method_of(recipe)
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (50, 32, 1e-5, 1e-4)
    assert (train.optimiser, train.clip_norm, train.ema) == ("adamw", 0.1, None)
    assert method.vision_lr_scale * train.lr == pytest.approx(1e-6)
    assert (recipe.preprocess.size, recipe.preprocess.fit) == (384, "square")
    assert recipe.preprocess.mean == recipe.preprocess.std == (0.5, 0.5, 0.5)
    assert (method.width, method.slots.iterations, method.slots.count) == (512, 6, 36)
    assert (method.answer.threshold, method.answer.draws, method.answer.crf) == (0.5, 1, "none")
    assert (method.reconstruction.weight, method.reconstruction.share) == (1, 1)
    assert method.text.frozen == "none"


def test_a_row_for_each_benchmark_of_the_table() -> None:
    rows = [get_recipe(name).data for name in PAPERS]
    assert {(data.name, data.split_by) for data in rows} == {
        ("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "google"), ("phrasecut", None),
    }  # fmt: skip


def test_the_rate_rises_and_falls() -> None:
    """By the cosine of the scripts, which begins after the warm-up, to 0.2 %."""
    train, total = get_recipe("sag_refcoco").train, 50 * 3_769
    assert lr_factor(train, 2_499, total) == pytest.approx(0.5, rel=1e-3)
    assert lr_factor(train, 5_000, total) == pytest.approx(1, abs=2e-3)
    assert lr_factor(train, total - 1, total) < 1e-8
    assert lr_factor(get_recipe("sag_refcoco_released").train, 0, total) == 1


def test_what_the_released_scripts_do_otherwise() -> None:
    assert changes(get_recipe("sag_refcoco"), get_recipe("sag_refcoco_released")) == {
        "method.slots.groups", "method.slots.per_group", "method.reconstruction.position",
        "method.loss.others", "train.warmup",
    }  # fmt: skip
    released = method_of(get_recipe("sag_refcoco_released"))
    assert (released.slots.groups, released.slots.per_group) == (12, 3)


def test_the_small_recipe_has_the_encoders_sizes_and_pixels() -> None:
    recipe, vit, bert = (
        get_recipe("sag_scenes"),
        get_encoder("vit_scenes"),
        get_encoder("bert_scenes"),
    )
    assert method_of(recipe).vision == vit.vit
    assert method_of(recipe).text == bert.text
    assert recipe.preprocess == vit.preprocess
    assert recipe.tokens.max_words == bert.tokens.max_words
    assert recipe.data.per_image > 1
    assert method_of(recipe).loss.others == "distinct"


# -- what a run opens ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    vit = run_encoder(small_vit(world), folder / "vit", progress="none")
    return vit, run_encoder(small_bert(world), folder / "bert", progress="none")


@pytest.fixture(scope="module")
def recipe(world: Path, encoders: tuple[Path, Path]) -> Recipe:
    return small_sag(world, *encoders)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sag") / "run"
    with opened() as seen:
        run_recipe(recipe, folder, progress="none", command="refseg train sag_scenes")
    return folder, seen


def test_no_mask_box_or_category_is_opened(run: Run) -> None:
    folder, seen = run
    assert ("sentences", "raw") in seen
    assert not WITHHELD & {table for table, _ in seen}
    assert ("annotations", "category_id") not in seen
    assert manifest(folder / "train")["labels"] == "text"
    assert not [line for line in read_log(folder / "train" / "log.jsonl") if "metrics" in line]


def test_what_would_be_opened_is_seen(world: Path) -> None:
    with opened() as seen:
        sample = open_data(world, "train", Labels.parse("text+mask+box+category"))[0]
    assert sample.mask is not None
    assert {table for table, _ in seen} >= WITHHELD


def test_the_card_says_what_went_in(run: Run, encoders: tuple[Path, Path]) -> None:
    told, (vit, bert) = card(run[0] / "train"), encoders
    assert told["labels used"] == (
        f"text; encoders: {vit} (attributes of whole pictures), {bert} (text)"
    )
    assert told["starts from"] == {str(vit): "attributes of whole pictures", str(bert): "text"}
    assert told["expressions per image"] == 2
    assert "metrics" not in told
    assert "evaluation" not in told


def test_the_model_began_with_both_encoders(
    recipe: Recipe, encoders: tuple[Path, Path], run: Run
) -> None:
    """Two steps of a small rate hardly move them."""
    state = read_state(run[0] / "model" / "model.safetensors")
    for folder, prefix in zip(encoders, ("vision.vit.", "text.bert."), strict=True):
        for name, value in read_state(folder / "model.safetensors").items():
            assert torch.allclose(state[prefix + name], value, atol=5e-3), name


def test_the_model_answers(run: Run, world: Path) -> None:
    model = models.load(run[0] / "model")
    sample = open_data(world, "val", TEXT_ONLY)[0]
    (answer,) = model.predict([sample])
    assert answer.mask.shape == sample.image.shape[:2]
    assert answer.mask.any()


def test_a_finished_run_is_left_alone(run: Run, recipe: Recipe) -> None:
    assert run_recipe(recipe, run[0], progress="none").skipped == ("train",)


def test_choosing_by_masks_needs_masks_and_is_told(recipe: Recipe, tmp_path: Path) -> None:
    """As the released code does it."""
    with pytest.raises(LabelsError, match="choose its checkpoint by mIoU"):
        apply_overrides(recipe, ["select=mIoU"])
    granted = ["select=mIoU", "data.labels=text+mask", "train.steps=1", "train.evaluate_every=1"]
    run_recipe(apply_overrides(recipe, granted), tmp_path / "run", progress="none")
    told = card(tmp_path / "run" / "train")
    assert told["labels used"].startswith("text+mask; ")
    assert "the choice saw text+mask" in told["weights"]


# -- what is refused -----------------------------------------------------------------------------


def test_absent_weights_are_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refseg.models.BUNDLED", tmp_path)
    recipe = apply_overrides(get_recipe("sag_scenes"), [f"data.name={world}"])
    with pytest.raises(ModelError, match="vit-scenes is not in this installation") as caught:
        find_starts(recipe.weights)
    assert "refseg train vit_scenes" in caught.value.remedy


def test_weights_that_saw_boxes_are_refused(
    recipe: Recipe, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    vit = tmp_path / "seeing"
    vit.mkdir()
    for file in encoders[0].iterdir():
        (vit / file.name).write_bytes(file.read_bytes())
    config = json.loads((vit / "config.json").read_text())
    config["refseg"]["labels"] = "box+attributes"
    (vit / "config.json").write_text(json.dumps(config))
    with pytest.raises(LabelsError, match=r"is granted text alone, but would start from .*seeing"):
        run_recipe(
            apply_overrides(recipe, [f"weights.vision={vit}"]), tmp_path / "run", progress="none"
        )
    assert not (tmp_path / "run").exists()


def test_weights_of_another_size_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="do not fit: missing nothing; unknown"):
        run_recipe(
            apply_overrides(recipe, ["method.vision.layers=1"]), tmp_path / "run", progress="none"
        )
    assert not (tmp_path / "run").exists()


def test_sentences_longer_than_the_table_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    long = apply_overrides(recipe, ["tokens.max_words=40"])
    with pytest.raises(ConfigError, match=r"method\.text\.max_positions only 32"):
        run_recipe(long, tmp_path / "run", progress="none")
