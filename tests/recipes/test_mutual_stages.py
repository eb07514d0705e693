"""The stages of mutual supervision, whole: resumed, refused, and what each leaves behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models
from refseg.data.catalog import open_data, open_records
from refseg.data.transforms import AugmentConfig
from refseg.errors import ConfigError, ModelError, RunError
from refseg.nn.weights import read_state
from refseg.ops.files import sha256_file
from refseg.recipes import mutual_stages, rewarding, runner
from refseg.recipes.base import Recipe
from refseg.recipes.batches import RecipeBatches, subset
from refseg.recipes.opening import open_split
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.provenance import identity
from refseg.recipes.runner import run_recipe
from refseg.recipes.training import Job
from refseg.types import Labels
from tests.recipes.killing import Death, Killed, again, die_in_turn, fail_after
from tests.recipes.mutual_small import ALL, LIMIT

WITH_MODEL = ("train", "disambiguate", "retrain", "disambiguate_again")


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all five stages."""
    folder = tmp_path_factory.mktemp("mutual") / "whole"
    result = run_recipe(recipe, folder, progress="none", command="refseg train mutual_scenes")
    assert result.skipped == ()
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_state(folder / "model" / "model.safetensors")


def moved(run: Path, before: str, after: str) -> set[str]:
    one, other = tensors(run / before), tensors(run / after)
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_a_finished_run_is_left_alone(recipe: Recipe, whole: Path) -> None:
    bits = (whole / "model" / "model.safetensors").read_bytes()
    assert again(recipe, whole).skipped == ALL
    assert (whole / "model" / "model.safetensors").read_bytes() == bits
    last = (whole / "disambiguate_again" / "model" / "model.safetensors").read_bytes()
    assert last == bits
    starts = json.loads((whole / "provenance.json").read_text())["starts"]
    assert len(starts) == 1


def test_step_2_moves_the_generator_alone(whole: Path) -> None:
    for before, after in (("train", "disambiguate"), ("retrain", "disambiguate_again")):
        names = moved(whole, before, after)
        assert names
        assert all(name.startswith("generator.") for name in names)
    assert any(not name.startswith("generator.") for name in moved(whole, "train", "retrain"))


@pytest.mark.parametrize("ends", [True, False])
def test_a_sentence_that_breaks_off_earns_less_where_ends_are_words(
    recipe: Recipe, whole: Path, ends: bool
) -> None:
    assert recipe.disambiguation is not None
    policy = recipe.disambiguation.policy.model_copy(update={"cider_end": ends})
    config = recipe.disambiguation.model_copy(update={"policy": policy})
    data, model = open_split(recipe, "train"), models.load(whole / "train" / "model")
    rows = list(range(len(data)))
    texts = rewarding.texts_of(model, data, rows, config)
    one = max(rewarding._described(data, rows), key=lambda each: len(each.references[0].split()))
    said = one.references[0]
    tails = ("", texts.end, f" behind the{texts.end}")
    cut, ended, broken = texts.cider([one.ann_id] * 3, [f"{said}{tail}" for tail in tails])
    assert ended > broken
    assert (ended > cut) == ends  # without its end it is no whole sentence


def test_every_stage_says_what_it_saw(recipe: Recipe, whole: Path) -> None:
    for name in ALL:
        manifest = json.loads((whole / name / "manifest.json").read_text())
        assert manifest["stage"] == name
        assert manifest["labels"] == str(recipe.labels()) == "text+mask+category"
        assert "recipe" in manifest["inputs"]
        for path, digest in manifest["outputs"].items():
            assert sha256_file(whole / name / path) == digest
    inputs = json.loads((whole / "disambiguate" / "manifest.json").read_text())["inputs"]
    weights = whole / "train" / "model" / "model.safetensors"
    assert inputs["model"] == sha256_file(weights)
    told = json.loads((whole / "label" / "data" / "labels.json").read_text())
    assert told["labels used"] == "text+mask+category"
    assert told["labels seen here"] == "text+box+mask+category"
    card = models.load(whole / "disambiguate" / "model").card
    assert card["labels used"] == "text+mask+category"
    assert card["disambiguation"].startswith("2 steps of 2 images, 2 beams and the greedy")


def test_written_expressions_are_about_what_nobody_described(recipe: Recipe, whole: Path) -> None:
    """`limit` takes refs away; their objects and the pool's are described, others are not."""
    human = open_split(recipe, "train")
    kept = subset(len(human), LIMIT, recipe.train.seed)
    records = human.records
    ids = records.column("annotations", "ann_id")

    def objects(rows: Any) -> set[int]:
        return {int(ids[ann]) for row in rows for ann in records.ann_rows(human.entry(row).ref_row)}

    known = objects(kept)
    images = {human.entry(row).image_id for row in range(len(human))}
    described = {ref.image_row for ref in records.refs()}
    pool = {
        records.image(row).image_id for row in range(records.count("images"))
    } - {records.image(row).image_id for row in described}  # fmt: skip
    image_ids = records.column("images", "image_id")
    image_row = records.column("annotations", "image_row")
    wanted = {
        int(one) for one, row in zip(ids, image_row, strict=True)
        if int(image_ids[row]) in images | pool
    } - known  # fmt: skip
    written = open_records(whole / "label" / "data")
    theirs = written.column("annotations", "ann_id")
    found = {int(theirs[row]) for ref in written.refs() for row in ref.ann_rows}
    assert found == wanted
    assert pool
    assert objects(range(len(human))) - known <= found


def test_retraining_has_peoples_limit_and_all_that_was_written(recipe: Recipe, whole: Path) -> None:
    written = open_data(whole / "label" / "data", "train", Labels.parse("text"), view="ref")
    assert all(written.entry(row).pseudo for row in range(len(written)))
    assert {written.entry(row).weight for row in range(len(written))} == {0.1}
    cards = {name: models.read_model_file(whole / name / "model").card for name in WITH_MODEL}
    assert cards["train"]["data"].endswith(f"split train, {LIMIT} items")
    assert cards["retrain"]["data"].endswith(f"split train, {LIMIT + len(written)} items")
    # Step 1's own start: the pieces are learned from what people wrote.
    pieces = [(whole / name / "model" / "tokenizer.json").read_bytes() for name in WITH_MODEL]
    assert len(set(pieces)) == 1


def test_a_batch_of_written_expressions_alone(recipe: Recipe, whole: Path) -> None:
    """The selection head learns a tenth, the generator nothing, the extractor as ever."""
    model = models.load(whole / "train" / "model")
    labels = recipe.labels()
    data = open_data(whole / "label" / "data", "train", labels, view="ref", objects=True)
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, AugmentConfig(), 0, list(range(len(data))), 3
    )
    batch = batches([0, 1], 0)
    assert batch.pseudo is not None
    assert batch.pseudo.all()
    torch.manual_seed(0)
    terms = model.method.loss(model.method(batch), batch)
    torch.manual_seed(0)
    human = replace(batch, pseudo=None, weights=torch.ones(len(batch)))
    other = model.method.loss(model.method(human), human)
    assert float(terms["generation"].detach()) == 0
    torch.testing.assert_close(terms["selection"], 0.1 * other["selection"])
    assert float(terms["mask"].detach()) == float(other["mask"].detach()) > 0
    terms["total"].backward()
    assert all(p.grad is not None for p in model.method.generator.parameters())
    assert not any(p.grad.any() for p in model.method.generator.parameters())


def test_killed_in_every_stage_it_ends_with_the_same_bits(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    deaths: list[Death] = [
        (RecipeBatches, "__call__", 2, "train"),  # one of them is the first look
        (rewarding, "keep_proposals", 0, "disambiguate"),
        (RecipeBatches, "__call__", 1, "disambiguate"),
        (mutual_stages, "label", 0, "label"),
        (RecipeBatches, "__call__", 2, "retrain"),
        (rewarding.Disambiguation, "forward", 1, "disambiguate_again"),
        (runner, "publish", 0, None),
    ]
    die_in_turn(recipe, folder, deaths, ALL)
    for name in ("label/data/refs(refseg).p", "label/data/instances.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    for name in WITH_MODEL:
        assert moved_between(folder / name, whole / name) == set()


def moved_between(one: Path, other: Path) -> set[str]:
    mine, theirs = tensors(one), tensors(other)
    return {name for name in mine if not torch.equal(mine[name], theirs[name])}


@pytest.mark.parametrize(
    "changed", ["pseudo.weight=0.5", "disambiguation.policy.tau=1", "disambiguation.cached=false"]
)
def test_another_configuration_is_refused(recipe: Recipe, whole: Path, changed: str) -> None:
    with pytest.raises(RunError, match=changed.split("=")[0].replace(".", r"\.")) as caught:
        again(apply_overrides(recipe, [changed]), whole)
    assert caught.value.remedy


def only_step_2(recipe: Recipe, start: Path, *more: str) -> Recipe:
    told = ["stages=[disambiguate]", f"disambiguation.start={start}", *more]
    return apply_overrides(recipe, told)


def test_step_2_of_a_given_model_without_kept_proposals(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    start, folder = whole / "train" / "model", tmp_path / "alone"
    # Averaging must leave the other parts' bits alone, too.
    told = ["disambiguation.cached=false", "disambiguation.train.ema=0.7"]
    result = again(only_step_2(recipe, start, *told), folder)
    assert not (folder / "disambiguate" / "proposals").exists()
    assert (whole / "disambiguate" / "proposals" / "features.npy").is_file()
    (folder / "train").mkdir()
    shutil.copytree(start, folder / "train" / "model")
    names = moved(folder, "train", "disambiguate")
    assert names
    assert all(name.startswith("generator.") for name in names)
    assert models.load(result.model).card["disambiguation"]


def test_proposals_are_kept_and_written_about_where_the_run_is(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    """On a GPU machine no stage works on the CPU, and every GPU writes."""
    shutil.copytree(whole / "train", tmp_path / "train")
    asked: dict[str, Any] = {}

    def kept(model: models.Model, *given: Any, **named: Any) -> None:
        asked["looks"] = model.device.type
        raise Killed

    def written(*given: Any, workers: int | None, **named: Any) -> None:
        asked["workers"] = workers
        raise Killed

    for device, workers in (("meta", 1), ("cuda:1", None)):
        job = Job(recipe, tmp_path, True, "none", None, device=device)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewarding, "keep_proposals", kept)
            patch.setattr(mutual_stages, "label", written)
            if device == "meta":  # there is no GPU here to lie on
                with pytest.raises(Killed):
                    mutual_stages.disambiguate_stage(job).run(tmp_path / "disambiguate")
                assert asked["looks"] == "meta"
            shutil.copytree(whole / "disambiguate", tmp_path / "disambiguate", dirs_exist_ok=True)
            with pytest.raises(Killed):
                mutual_stages.label_stage(job).run(tmp_path / "label")
            assert asked["workers"] == workers


def test_kept_proposals_of_another_model_are_refused(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    start, folder = tmp_path / "start", tmp_path / "run"
    shutil.copytree(whole / "train" / "model", start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewarding, "open_proposals", fail_after(0, print))
        with pytest.raises(Killed):
            again(only_step_2(recipe, start), folder)
    model = models.load(start)
    with torch.no_grad():
        model.method.extractor.whole.class_predictor.bias.add_(1)
    models.save(start, model)
    with pytest.raises(RunError, match="another model") as caught:
        again(only_step_2(recipe, start), folder)
    assert "disambiguate" in caught.value.remedy


def test_a_pool_of_coco(recipe: Recipe, whole: Path, world: Path, tmp_path: Path) -> None:
    """COCO's file names the same pictures and objects: the same are written about."""
    coco = tmp_path / "instances_train.json"
    shutil.copy(world / "instances.json", coco)
    told = [f"pseudo.source={coco}", f"pseudo.images={world.parent / 'images'}"]
    pooled = apply_overrides(recipe, told)
    for name in ("train", "disambiguate"):
        shutil.copytree(whole / name, tmp_path / "run" / name)
    job = Job(pooled, tmp_path / "run", True, "none", None)
    mutual_stages.check_stages(pooled)
    mutual_stages.label_stage(job).run(tmp_path / "run" / "label")
    one, other = (
        open_records(run / "label" / "data").table("sentences").to_pylist()
        for run in (tmp_path / "run", whole)
    )
    assert one == other
    manifest = json.loads((tmp_path / "run" / "label" / "data" / "labels.json").read_text())
    assert manifest["data"]["left out"] == "6 pictures of testA, testB, val"
    moved_since = apply_overrides(pooled, ["pseudo.images=elsewhere"])
    assert identity(moved_since) == identity(pooled) != identity(recipe)
    # A run that began before there was the setting goes on.
    assert "source" not in identity(recipe)["pseudo"]


def test_a_start_with_one_head_is_refused_at_once(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    model = models.load(whole / "train" / "model")
    config = model.method.config.model_copy(update={"generate": False})
    model.method = models.build_method("mutual", config)
    models.save(tmp_path / "reader", model)
    with pytest.raises(ConfigError, match="writes and one that reads"):
        again(only_step_2(recipe, tmp_path / "reader"), tmp_path / "run")
    with pytest.raises(ModelError):
        again(only_step_2(recipe, tmp_path / "nowhere" / "at" / "all"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cached", ["true", "false"])
def test_step_2_sees_pictures_as_people_described_them(
    recipe: Recipe, whole: Path, tmp_path: Path, cached: str
) -> None:
    """Mirrored, they would be rewarded for people's "left" where it is right."""
    start, told = whole / "train" / "model", f"disambiguation.cached={cached}"
    again(only_step_2(recipe, start, told), tmp_path / "plain")
    again(only_step_2(recipe, start, told, "data.augment.flip=1"), tmp_path / "turned")
    made = [tmp_path / name / "disambiguate" for name in ("plain", "turned")]
    assert moved_between(*made) == set()


def test_retraining_on_expressions_that_were_written_before(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    """With `pseudo.data` it needs no stage before, and from the same data is the same."""
    given = f"pseudo.data={whole / 'label' / 'data'}"
    again(apply_overrides(recipe, ["stages=[retrain]", given]), tmp_path / "run")
    assert moved_between(tmp_path / "run" / "retrain", whole / "retrain") == set()


def test_other_processes_wait_for_the_one_that_writes(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "disambiguate" / "model", tmp_path / "disambiguate" / "model")

    def written() -> None:
        (tmp_path / "label" / "data").mkdir(parents=True)
        (tmp_path / "label" / "data" / "refs(refseg).p").write_bytes(b"")

    job = Job(recipe, tmp_path, False, "none", None, (1, 2), written)
    outputs = mutual_stages.label_stage(job).run(tmp_path / "label")
    assert [path.name for path in outputs] == ["refs(refseg).p"]
