"""A whole run on a drawn folder data set: stages, resume, manifest, exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refseg import models
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.errors import DataError, LabelsError, RunError, UnknownName
from refseg.methods.vega import VegaConfig
from refseg.methods.vega.config import DecoderConfig, SelectionConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.ops.files import atomic_path
from refseg.recipes import runner
from refseg.recipes.base import DataConfig, Recipe, TokenConfig
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.building import build
from refseg.recipes.opening import open_split
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from refseg.recipes.scoring import Scorer
from refseg.recipes.stages import Stage, run_stage
from refseg.train.config import TrainConfig
from refseg.train.log import read_log
from refseg.types import Batch

METHOD = VegaConfig(
    vision=SwinVisionConfig(
        image_size=32, patch=2, width=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), window=2,
        drop_path=0.1, absolute_positions=True,
    ),
    text=BertTextConfig(
        vocab_size=120, width=16, layers=1, heads=2, mlp_width=32, max_positions=16, frozen="none"
    ),
    selection=SelectionConfig(stage=3, heads=2),
    decoder=DecoderConfig(widths=(16, 16, 16, 16), heads=2, norm="group"),
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares on the left or the right, in the plain folder form; 12 to learn, 5 to score."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rows = ["image,text,mask,split"]
    for index in range(17):
        image, mask = np.full((32, 40, 3), 40 + index, np.uint8), np.zeros((32, 40), np.uint8)
        left = index % 2 == 0
        x = 4 if left else 24
        image[8:24, x : x + 12] = (200, 10 * index, 60)
        mask[8:24, x : x + 12] = 255
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        split = "train" if index < 12 else "val"
        rows.append(f"{index}.png,square on the {'left' if left else 'right'},{index}.png,{split}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def recipe(drawn: Path) -> Recipe:
    return Recipe(
        name="drawn",
        method_name="vega",
        method=METHOD,
        data=DataConfig(name=str(drawn), augment=AugmentConfig(flip=0.5, crop=0.5)),
        preprocess=PreprocessConfig(size=32),
        tokens=TokenConfig(vocabulary=120, max_words=10),
        train=TrainConfig(
            steps=6, batch_size=4, lr=1e-3, save_every=2, log_every=1, ema=0.9, cpu=True
        ),
        select="mIoU",
    )


def tensors(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_run_interrupted_and_resumed_is_the_same_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(recipe, tmp_path / "whole", progress="none", command="refseg train drawn")

    call, left = RecipeBatches.__call__, 3

    def fail(self: RecipeBatches, indices: list[int], epoch: int) -> Batch:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return call(self, indices, epoch)

    folder = tmp_path / "resumed"
    monkeypatch.setattr(RecipeBatches, "__call__", fail)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, progress="none")
    assert not (folder / "model").exists()
    monkeypatch.undo()
    resumed = run_recipe(recipe, folder, progress="none", command="refseg train drawn")
    assert tensors(folder) == tensors(tmp_path / "whole")
    assert resumed.metrics == whole.metrics
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[0]["torch"].split("+")[0] == torch.__version__.split("+")[0]

    again = run_recipe(recipe, folder, progress="none")
    assert again.skipped == ("train",)
    assert again.metrics == whole.metrics


def test_a_score_that_chose_nothing_is_told_too(recipe: Recipe, tmp_path: Path) -> None:
    last = recipe.model_copy(update={"select": None})
    result = run_recipe(last, tmp_path / "run", progress="none")
    model = models.load(result.model)
    data = open_split(recipe, "val")
    scored = Scorer(data, model.tokenizer, model.preprocess, list(range(len(data))))(model.method)
    assert result.metrics["mIoU (original, val)"] == pytest.approx(scored["mIoU"])
    assert "chosen by" not in model.card["evaluation"]
    assert model.card["weights"].startswith("the last, at step ")


def test_the_model_folder_answers_and_explains_itself(recipe: Recipe, tmp_path: Path) -> None:
    result = run_recipe(recipe, tmp_path / "run", progress="none", command="refseg train drawn")
    model = models.load(result.model)
    data = open_split(recipe, "val")
    assert [p.mask.shape for p in model.predict(data.samples([0, 1]))] == [(32, 40)] * 2
    scored = Scorer(data, model.tokenizer, model.preprocess, list(range(len(data))))(model.method)
    assert result.metrics["mIoU (original, val)"] == pytest.approx(scored["mIoU"])
    assert model.card["labels used"] == "text+mask"
    assert model.card["evaluation"] == {
        "data": recipe.data.name,
        "split": "val",
        "expressions": 5,
        "protocol": "original",
        "chosen by": "mIoU",
    }
    assert model.card["command"] == "refseg train drawn"
    manifest = json.loads((tmp_path / "run" / "train" / "manifest.json").read_text())
    assert manifest["labels"] == "text+mask"
    assert set(manifest["outputs"]) == {
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    }
    last = [n for n in read_log(tmp_path / "run" / "train" / "log.jsonl") if n["kind"] == "eval"]
    assert {"mIoU", "oIoU", "Pr@0.5"} <= last[-1]["metrics"].keys()


def test_another_recipe_or_a_foreign_folder_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    run_recipe(recipe, tmp_path / "run", progress="none")
    other = apply_overrides(recipe, ["method.guidance=language", "train.lr=0.5"])
    with pytest.raises(RunError) as caught:
        run_recipe(other, tmp_path / "run", progress="none")
    assert "method.guidance: 'enhanced+visual' in the run, 'language' now" in str(caught.value)
    assert "train.lr" in str(caught.value)
    with pytest.raises(RunError, match="holds a run"):
        run_recipe(recipe, tmp_path / "run", resume=False, progress="none")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(RunError, match="not empty"):
        run_recipe(recipe, tmp_path / "photos", progress="none")
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(RunError, match="cannot read the recipe"):
        run_recipe(recipe, tmp_path / "run", progress="none")


def test_labels_that_the_method_needs_must_be_granted(recipe: Recipe, tmp_path: Path) -> None:
    text = apply_overrides(recipe, ["data.labels=text", "select=null"])
    with pytest.raises(LabelsError, match="vega learns from text"):
        run_recipe(text, tmp_path / "run", progress="none")


def test_unknown_split_and_stage(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="trian"):
        run_recipe(apply_overrides(recipe, ["data.train=trian"]), tmp_path / "a", progress="none")
    with pytest.raises(UnknownName, match="stage"):
        run_recipe(apply_overrides(recipe, ["stages=[trains]"]), tmp_path / "b", progress="none")


def test_no_images_is_a_data_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    lost = apply_overrides(recipe, [f"data.images={tmp_path / 'empty'}"])
    with pytest.raises(DataError):
        run_recipe(lost, tmp_path / "run", progress="none")


def test_augmentation_depends_on_seed_epoch_and_index_alone(recipe: Recipe) -> None:
    model = build(recipe, ["square on the left", "square on the right"])
    data, augment = open_split(recipe, "train"), recipe.data.augment
    make = RecipeBatches(data, model.tokenizer, model.preprocess, augment, 0, list(range(12)))
    together = make([3, 4, 5], 1)
    apart = [make([index], 1) for index in (5, 4, 3)][::-1]
    for row, one in enumerate(apart):
        assert together.texts[row] == one.texts[0]
        assert torch.equal(together.images[row], one.images[0])
    assert any(make([i], 0).texts != make([i], 1).texts for i in range(12))


def test_a_batch_is_never_empty(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(recipe, ["square on the left"])
    data, augment = open_split(recipe, "train"), recipe.data.augment
    make = RecipeBatches(data, model.tokenizer, model.preprocess, augment, 0, list(range(12)))
    monkeypatch.setattr(AugmentConfig, "apply", lambda self, sample, rng: None)
    assert make([3, 4], 0).keys == (data[3].key,)


def test_subset_is_drawn_once() -> None:
    assert subset(5, None, 0) == subset(5, 9, 3) == [0, 1, 2, 3, 4]
    drawn = subset(100, 10, 1)
    assert drawn == sorted(set(drawn)) == subset(100, 10, 1) != subset(100, 10, 2)


def test_stages_check_what_went_in_and_what_came_out(tmp_path: Path) -> None:
    runs: list[Path] = []

    def work(folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        (folder / "out.txt").write_text("made")
        runs.append(folder)
        return [folder / "out.txt"]

    def run(inputs: dict[str, str]) -> bool:
        stage = Stage("label", inputs, "text", work)
        return run_stage(stage, tmp_path, main=True, barrier=lambda: None)

    assert run({"data": "a"}) is True
    assert run({"data": "a"}) is False
    assert len(runs) == 1
    with pytest.raises(RunError, match="other inputs: data"):
        run({"data": "b"})
    (tmp_path / "label" / "out.txt").write_text("changed")
    with pytest.raises(RunError, match=r"out\.txt"):
        run({"data": "a"})
    (tmp_path / "label" / "manifest.json").write_text("[]")
    with pytest.raises(RunError, match="broken"):
        run({"data": "a"})


def test_stages_run_in_order(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    """A second stage sees what the first has left; the last model that there is is exported."""

    def copy(job: Any) -> Stage:
        def run(folder: Path) -> list[Path]:
            with atomic_path(folder / "model") as temp:
                temp.mkdir()
                for path in (tmp_path / "run" / "train" / "model").iterdir():
                    (temp / path.name).write_bytes(path.read_bytes())
            return [folder / "model" / "config.json"]

        return Stage("copy", {}, "text", run)

    def count(job: Any) -> Stage:
        def run(folder: Path) -> list[Path]:
            folder.mkdir()
            (folder / "count.txt").write_text("1")
            return [folder / "count.txt"]

        return Stage("count", {}, "text", run)

    monkeypatch.setitem(runner.STAGES, "copy", copy)
    monkeypatch.setitem(runner.STAGES, "count", count)
    several = recipe.model_copy(update={"stages": ("train", "copy", "count")})
    result = run_recipe(several, tmp_path / "run", progress="none")
    assert result.skipped == ()
    assert tensors(tmp_path / "run" / "copy") == tensors(tmp_path / "run")
    assert run_recipe(several, tmp_path / "run", progress="none").skipped == several.stages
