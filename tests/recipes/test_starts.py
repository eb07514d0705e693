"""What training starts from is told, refused where it may not be, and hashed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models
from refseg.errors import (
    ConfigError,
    DataError,
    LabelsError,
    ModelError,
    RefsegError,
    RunError,
)
from refseg.methods.vega import Vega
from refseg.ops.files import sha256_file
from refseg.recipes import stages
from refseg.recipes.base import Recipe, WeightsConfig
from refseg.recipes.building import build
from refseg.recipes.catalog import ENCODERS, RECIPES, get_encoder, get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.provenance import identity
from refseg.recipes.runner import run_recipe
from refseg.recipes.stages import Stage, run_stage
from refseg.recipes.starts import check_starts, encoder_labels, find_starts, start_hashes
from refseg.train.config import TrainConfig
from refseg.types import Labels
from tests.methods.toy import preprocess, toy_model, toy_samples, vega_config


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoder(folder: Path, part: Any, labels: str | None) -> Path:
    """A folder in the hub's format that says what it was learned from, or says nothing."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(
        {k: v.contiguous() for k, v in part.state_dict().items()}, folder / "model.safetensors"
    )
    entry = {} if labels is None else {"refseg": {"labels": labels}}
    (folder / "config.json").write_text(json.dumps({"model_type": "x", **entry}))
    toy_model("vega").tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    return encoder(tmp_path / "swin", Vega(vega_config()).encoder.pyramid.swin, "box+attributes")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return encoder(tmp_path / "bert", Vega(vega_config()).text.bert, "text")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four drawn expressions to learn, which are scored too."""
    from PIL import Image

    folder = tmp_path / "drawn"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = ["image,text,mask,split"]
    for index, sample in enumerate(toy_samples(2)):
        Image.fromarray(sample.image).save(folder / "images" / f"{index}.png")
        assert sample.mask is not None
        Image.fromarray(sample.mask).save(folder / "masks" / f"{index}.png")
        rows.append(f"{index}.png,{sample.text},{index}.png,train")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    base = Recipe(
        name="toy",
        method_name="vega",
        method=vega_config(),
        preprocess=preprocess(),
        train=TrainConfig(steps=1, batch_size=2, cpu=True),
        select="mIoU",
    )
    return apply_overrides(
        base, [f"data.name={data}", "data.evaluate=train", "tokens.max_words=12"]
    )


def started(recipe: Recipe, **weights: Path | None) -> Recipe:
    named = {key: None if path is None else str(path) for key, path in weights.items()}
    return recipe.model_copy(update={"weights": WeightsConfig(**named)})


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_bundled_encoders_say_what_they_saw() -> None:
    assert encoder_labels(models.find_encoder("swin-scenes")) == "box+attributes"
    assert encoder_labels(models.find_encoder("bert-scenes")) == "text"
    told = find_starts(get_recipe("vega_scenes").weights).told("text+mask")
    assert told == "text+mask; encoders: swin-scenes (box+attributes), bert-scenes (text)"


def test_what_says_nothing_is_not_stated(tmp_path: Path) -> None:
    assert encoder_labels(tmp_path) == "not stated"
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    assert encoder_labels(tmp_path) == "not stated"
    for broken in ('{"refseg": 3}', "{", "[]"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ModelError, match=r"config\.json"):
            encoder_labels(tmp_path)


def test_the_card_says_what_the_encoders_saw(
    recipe: Recipe, swin: Path, bert: Path, tmp_path: Path
) -> None:
    first = run_recipe(started(recipe, vision=swin, text=bert), tmp_path / "a", progress="none")
    card = models.load(first.model).card
    line = f"text+mask; encoders: {swin} (box+attributes), {bert} (text)"
    assert card["labels used"] == line
    assert card["labels granted"] == "text+mask"
    assert card["starts from"] == {str(swin): "box+attributes", str(bert): "text"}
    inputs = json.loads((tmp_path / "a/train/manifest.json").read_text())["inputs"]
    assert {"weights.vision", "weights.text"} <= inputs.keys()

    again = run_recipe(started(recipe, model=first.model), tmp_path / "b", progress="none")
    card = models.load(again.model).card
    assert card["labels used"] == f"text+mask; model: {first.model} ({line})"
    assert card["starts from"] == {
        str(first.model): "text+mask", str(swin): "box+attributes", str(bert): "text",
    }  # fmt: skip


@pytest.mark.parametrize("labels", ["text", "text+category"])
def test_text_alone_may_not_start_from_boxes_or_masks(
    labels: str, recipe: Recipe, swin: Path, bert: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Vega, "needs", Labels())
    text = apply_overrides(recipe, [f"data.labels={labels}", "select=null"])
    with pytest.raises(LabelsError) as caught:
        run_recipe(started(text, vision=swin, text=bert), tmp_path / "run", progress="none")
    assert f"granted {labels} alone" in caught.value.message
    assert f"{swin}, which was learned from box+attributes" in caught.value.message
    assert "data.labels" in caught.value.remedy
    assert not (tmp_path / "run").exists()
    silent = encoder(tmp_path / "hub", Vega(vega_config()).encoder.pyramid.swin, None)
    for weights in ({"text": bert}, {"vision": silent, "text": bert}, {}):
        allowed = started(text, **weights)
        check_starts(allowed, find_starts(allowed.weights))
    for granted in ("text+box", "text+mask"):
        seeing = apply_overrides(
            started(recipe, vision=swin), [f"data.labels={granted}", "select=null"]
        )
        check_starts(seeing, find_starts(seeing.weights))


def test_a_rec_model_is_told_hashed_and_judged_as_whole_ones_are(
    recipe: Recipe, tmp_path: Path
) -> None:
    card = {"labels used": "text+box; encoders: s (box+attributes)", "labels granted": "text+box",
            "starts from": {"s": "box+attributes"}}  # fmt: skip
    models.save(tmp_path / "m", replace(toy_model("partial_res rec"), card=card))
    wanted = started(recipe, rec=tmp_path / "m", vision=tmp_path / "not read")
    found = find_starts(wanted.weights)
    assert found.parts == {str(tmp_path / "m"): "text+box", "s": "box+attributes"}
    assert found.told("text") == f"text; model: {tmp_path / 'm'} ({card['labels used']})"
    file = tmp_path / "m" / "model.safetensors"
    assert start_hashes(wanted) == {"weights.rec": sha256_file(file)}
    text = apply_overrides(wanted, ["data.labels=text", "select=null"])
    with pytest.raises(LabelsError, match="is granted text alone"):
        check_starts(text, found)
    file.unlink()
    assert start_hashes(wanted) == {}


def test_text_alone_may_not_start_from_a_model_of_masks(recipe: Recipe, tmp_path: Path) -> None:
    text = apply_overrides(recipe, ["data.labels=text", "select=null"])
    for card in (
        {"labels used": "text+mask"},
        {"labels used": "text; ...", "labels granted": "text", "starts from": {"swin": "box+x"}},
        {"labels used": "text+mask(3 refs)"},
    ):
        models.save(tmp_path / "m", replace(toy_model("vega"), card=card))
        wanted = started(text, model=tmp_path / "m")
        with pytest.raises(LabelsError, match="is granted text alone"):
            check_starts(wanted, find_starts(wanted.weights))


# -- hashes ------------------------------------------------------------------------------------


def test_other_weights_under_the_same_name_are_another_run(
    recipe: Recipe, swin: Path, bert: Path, tmp_path: Path
) -> None:
    wanted = apply_overrides(started(recipe, vision=swin, text=bert), [f"tokens.source={bert}"])
    assert start_hashes(wanted).keys() == {"weights.vision", "weights.text", "tokens.source"}
    run_recipe(wanted, tmp_path / "run", progress="none")
    path = tmp_path / "run/train/manifest.json"
    manifest = json.loads(path.read_text())

    old = {k: v for k, v in manifest["inputs"].items() if k in ("recipe", "data", "items")}
    path.write_text(json.dumps({**manifest, "inputs": old}))  # as 0.1.0 wrote it
    assert run_recipe(wanted, tmp_path / "run", progress="none").skipped == ("train",)
    path.write_text(json.dumps(manifest))

    away = swin.rename(tmp_path / "away")
    assert run_recipe(wanted, tmp_path / "run", progress="none").skipped == ("train",)
    encoder(swin, Vega(vega_config()).encoder.pyramid.swin, "box+attributes")
    with pytest.raises(RunError, match=r"other inputs: weights\.vision"):
        run_recipe(wanted, tmp_path / "run", progress="none")
    assert away.is_dir()


@pytest.mark.parametrize(
    ("was", "now", "changed"),
    [
        ({"data": "a"}, {"data": "a", "weights.text": "1"}, ""),
        ({"data": "a", "weights.text": "1"}, {"data": "a"}, ""),
        ({"data": "a", "weights.text": "1"}, {"data": "a", "weights.text": "2"}, "weights.text"),
        ({"weights.text": "1"}, {"data": "a", "weights.text": "1"}, "data"),
        ({"data": "a", "items": "3"}, {"data": "a"}, "items"),
        ({"data": "a"}, {"data": "b", "weights.text": "1"}, "data"),
    ],
)
def test_only_the_inputs_added_later_may_be_absent(
    was: dict[str, str], now: dict[str, str], changed: str, tmp_path: Path
) -> None:
    def work(folder: Path) -> list[Path]:
        folder.mkdir()
        return []

    def run(inputs: dict[str, str]) -> bool:
        stage = Stage("train", inputs, "text", work)
        return run_stage(stage, tmp_path, main=True, barrier=lambda: None)

    assert run(was)
    if not changed:
        assert not run(now)
        return
    with pytest.raises(RunError) as caught:
        run(now)
    assert caught.value.message.endswith(f"other inputs: {changed}")
    assert stages.ADDED.isdisjoint({"recipe", "data", "items"})


#: What a run of 0.1.0 says of itself: keys of groups that got new ones since.
OLD = {
    "data": "augment evaluate evaluate_limit exclude_images labels limit mask_rule name objects "
    "per_image pixels split_by text_field train view",
    "augment": "crop crop_share flip jitter",
    "weights": "model proposals text vision",
    "train": "accumulate batch_size betas clip_norm compile deterministic ema epochs "
    "evaluate_every lr optimiser poly_power precision schedule seed step_at step_factor steps "
    "warmup weight_decay",
}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("vega", "mutual"))])
def test_what_came_later_is_no_part_of_a_run_without_it(name: str) -> None:
    """A run that began before is still the same run."""
    made = get_recipe(name)
    told = identity(made)
    groups = {**told, "augment": told["data"]["augment"]}
    for group, keys in OLD.items():
        assert sorted(groups[group]) == keys.split()
    assert "partial" not in told
    own = [part["train"] for part in told.values() if isinstance(part, dict) and "train" in part]
    for train in own:
        assert not isinstance(train, dict) or sorted(train) == OLD["train"].split()


def test_encoders_are_the_runs_that_they_were() -> None:
    for name in ENCODERS:
        told = identity(get_encoder(name))
        later = {"turn_kernels"} if name == "clip_scenes" else set()
        assert set(told["train"]) == {*OLD["train"].split(), *later}
        assert "partial" not in told


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("data.mask_share=0.5", "data.mask_share"),
        ("data.mask_seed=1", "data.mask_seed"),
        ("data.mask_refs=masks.txt", "data.mask_refs"),
        ("data.also=[other]", "data.also"),
        ("data.augment.scale=[0.5, 1]", "data.augment.scale"),
        ("weights.rec=somewhere", "weights.rec"),
        ("train.amsgrad=true", "train.amsgrad"),
        ("train.eps=1e-9", "train.eps"),
        ("train.warmup_epochs=2", "train.warmup_epochs"),
        ("train.turn_kernels=true", "train.turn_kernels"),
    ],
)
def test_what_came_later_is_a_part_of_a_run_with_it(setting: str, key: str, recipe: Recipe) -> None:
    free = ["select=null", "train.steps=null", "train.epochs=1", "train.optimiser=muon"]
    base = apply_overrides(recipe, free)
    told: Any = identity(apply_overrides(base, [setting]))
    for part in key.split("."):
        told = told[part]
    assert told
    assert identity(apply_overrides(base, [setting])) != identity(base)


# -- a first start that fails ------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ["data.train=trian"],
        ["data.evaluate=vall"],
        ["data.labels=text", "select=null"],
        ["weights.vision=./absent"],
        ["tokens.source=./absent"],
        ["tokens.max_words=33"],
        ["method.selection.cues=none", "method.selection.max_tokens=5"],
        ["train.batch_size=300"],
        ["stages=[train, trains]"],
    ],
)
def test_a_failed_first_start_leaves_nothing(
    settings: list[str], recipe: Recipe, tmp_path: Path
) -> None:
    before = left(tmp_path)
    with pytest.raises(RefsegError) as caught:
        run_recipe(apply_overrides(recipe, settings), tmp_path / "runs" / "run", progress="none")
    assert caught.value.remedy
    assert set(left(tmp_path)) - set(before) <= {"cache"}


def test_the_same_folder_takes_the_corrected_recipe(recipe: Recipe, tmp_path: Path) -> None:
    bad = apply_overrides(recipe, ["weights.vision=./absent"])
    with pytest.raises(ModelError):
        run_recipe(bad, tmp_path / "run", progress="none")
    assert run_recipe(recipe, tmp_path / "run", progress="none").model.is_dir()


def test_lost_pictures_leave_nothing(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (data / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError):
        run_recipe(recipe, tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    bad = apply_overrides(recipe, ["weights.text=./absent"])
    with pytest.raises(ModelError):
        run_recipe(bad, tmp_path / "run", progress="none")
    assert left(tmp_path / "run") == []


def test_a_disk_that_refuses_leaves_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refseg.recipes import provenance

    def full(*_: Any, **__: Any) -> None:
        raise RunError("the disk is full", remedy="free some space")

    monkeypatch.setattr(provenance, "record_start", full)
    with pytest.raises(RunError, match="full"):
        run_recipe(recipe, tmp_path / "runs" / "run", progress="none")
    assert not (tmp_path / "runs").exists()


# -- words that do not fit ---------------------------------------------------------------------


def test_more_words_than_places_are_refused_when_building(recipe: Recipe) -> None:
    texts = ["left red disc"]
    with pytest.raises(ConfigError, match=r"tokens\.max_words is 33, but method\.text\.max_pos"):
        build(apply_overrides(recipe, ["tokens.max_words=33"]), texts)
    nobody = ["method.selection.cues=none", "method.selection.max_tokens=5"]
    with pytest.raises(ConfigError, match=r"method\.selection\.max_tokens only 5") as caught:
        build(apply_overrides(recipe, nobody), texts)
    assert "method.selection.max_tokens=12" in caught.value.remedy
    wordy = [*nobody, "method.guidance=language"]  # then nothing is selected
    assert models.word_limits(build(apply_overrides(recipe, wordy), texts).method) == {
        "text.max_positions": 32
    }
