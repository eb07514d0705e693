"""What the stages of Partial-RES refuse at once, and what its recipes promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refseg import models
from refseg.data.catalog import open_records
from refseg.data.subset import draw_subset, write_subset
from refseg.errors import (
    ConfigError,
    DataError,
    LabelsError,
    ModelError,
    RefsegError,
    RunError,
    UnknownName,
)
from refseg.methods.partial_res import PartialResConfig
from refseg.nn.darknet import DarkNet, DarkNetVisionConfig
from refseg.recipes.base import Recipe, WeightsConfig
from refseg.recipes.catalog import RECIPES, get_recipe
from refseg.recipes.opening import masked_refs, open_split, training_labels
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.partial_stages import check_partial, rec_recipe
from refseg.recipes.provenance import identity
from refseg.train.config import TrainConfig
from refseg.train.schedule import lr_factor
from tests.methods.toy import toy_model
from tests.recipes.killing import again
from tests.recipes.partial_small import (
    ALL,
    SHARE,
    card,
    entries,
    few_vega,
    manifest,
    objects,
    small_darknet,
    small_partial,
    watched,
)


@pytest.fixture(scope="module")
def recipe(world: Path) -> Recipe:
    return small_partial(world)


@pytest.fixture(scope="module")
def vega(world: Path) -> Recipe:
    return few_vega(world)


@pytest.fixture(scope="module")
def granted(world: Path) -> frozenset[int]:
    """Refs whose masks may be seen."""
    return draw_subset(open_records(world), "train", SHARE, seed=0).ref_ids


def refused(recipe: Recipe, folder: Path, kind: type[RefsegError], told: str) -> RefsegError:
    """The error of a run that leaves nothing behind."""
    with pytest.raises(kind, match=told) as caught:
        again(recipe, folder / "run")
    assert caught.value.remedy
    assert not (folder / "run").exists()
    return caught.value


# -- stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told", "remedy"),
    [
        ({"partial": None}, '"rec" needs the group partial', "partial_res_scenes"),
        ({"stages": ("res",)}, '"res" goes on from "rec"', "name a model in weights.rec"),
        ({"stages": ("res", "rec")}, '"res" goes on from "rec"', 'put "rec" before it'),
        ({"stages": ("rec", "pseudo")}, '"pseudo" goes on from "res"', 'put "res" before it'),
        ({"stages": ("rec", "res", "res_pseudo")}, '"res_pseudo" goes on from "pseudo"', "put"),
        ({"stages": ("rec", "res", "pseudo_2")}, '"pseudo_2" goes on from "res_pseudo"', "put"),
        ({"stages": (*ALL, "res_pseudo_2")}, '"res_pseudo_2" goes on from "pseudo_2"', "put"),
        ({"stages": (*ALL, "pseudo_3")}, '"pseudo_3" goes on from "res_pseudo_2"', "put"),
        (
            {"weights": WeightsConfig(rec="somewhere")},
            "weights.rec=somewhere stands for what the stage",
            "weights.rec=null",
        ),
        (
            {"weights": WeightsConfig(rec="somewhere"), "stages": ("res_pseudo",)},
            '"res_pseudo" goes on from "pseudo"',
            'put "pseudo" before it',
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused_at_once(
    changes: dict[str, Any], told: str, remedy: str, recipe: Recipe, tmp_path: Path
) -> None:
    error = refused(recipe.model_copy(update=changes), tmp_path, ConfigError, told)
    assert remedy in error.remedy


@pytest.mark.parametrize("name", ["rec_2", "pseudo_4", "res_pseudo_0", "res_2"])
def test_there_are_three_rounds(name: str, recipe: Recipe, tmp_path: Path) -> None:
    more = recipe.model_copy(update={"stages": (*ALL, name)})
    assert "res_pseudo_3" in str(refused(more, tmp_path, UnknownName, "unknown stage"))


@pytest.mark.parametrize("share", ["null", "1"])
@pytest.mark.parametrize("stages", ["[rec,res,pseudo,res_pseudo]", "[rec,res,pseudo]"])
def test_with_all_masks_there_is_nothing_to_label(
    share: str, stages: str, recipe: Recipe, tmp_path: Path
) -> None:
    told = apply_overrides(recipe, [f"data.mask_share={share}", f"stages={stages}"])
    error = refused(told, tmp_path, ConfigError, '"pseudo" labels refs without masks')
    assert "mask_share below 1" in error.remedy


def test_with_masks_of_every_ref_there_is_nothing_to_label(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "all.txt"
    file.write_text("\n".join(str(one) for one in sorted({e.ref_id for e in entries(world)})))
    told = apply_overrides(recipe, ["data.mask_share=null", f"data.mask_refs={file}"])
    error = refused(told, tmp_path, ConfigError, "granted for every ref of the split train")
    assert "stages=[rec,res]" in error.remedy


def test_outlines_are_not_learned_by_what_writes_boxes(recipe: Recipe, tmp_path: Path) -> None:
    told = apply_overrides(recipe, ["method.task=rec", "method.task_token=zero"])
    error = refused(told, tmp_path, ConfigError, "method.task=rec writes boxes")
    assert "method.task=res" in error.remedy


def test_no_pseudo_mask_kept_says_how_to_keep_more(recipe: Recipe, tmp_path: Path) -> None:
    told = apply_overrides(recipe, ["partial.agree=1e-9"])
    with pytest.raises(RunError, match="no mask agrees with its box better than 1e-09") as caught:
        again(told, tmp_path / "run")
    assert "partial.agree=2e-09" in caught.value.remedy
    assert f'weights.rec="{tmp_path / "run" / "rec" / "model"}"' in caught.value.remedy


@pytest.mark.parametrize(
    ("labels", "stage", "kind"), [("text+mask", "rec", "box"), ("text+box", "res", "mask")]
)
def test_no_stage_grants_itself_a_label(
    labels: str, stage: str, kind: str, recipe: Recipe, tmp_path: Path
) -> None:
    told = apply_overrides(recipe, [f"data.labels={labels}"])
    error = refused(told, tmp_path, LabelsError, f'"{stage}" looks at the label "{kind}"')
    assert f"grant {kind}" in error.remedy


def test_a_rise_in_epochs_needs_epochs_to_the_end(world: Path, tmp_path: Path) -> None:
    told = [f"stages=[{','.join(ALL)}]", "partial.again_steps=3"]
    papers = ["train.steps=null", "train.epochs=9", "train.warmup_epochs=5"]
    error = refused(small_darknet(world, *papers, *told), tmp_path, ConfigError, "again_steps=3")
    assert "train.warmup (steps)" in error.remedy


@pytest.mark.parametrize("stages", ["[rec]", "[res]", "[train,pseudo]", "[train,res_pseudo_2]"])
def test_they_are_stages_of_one_method(stages: str, vega: Recipe, tmp_path: Path) -> None:
    told = apply_overrides(vega, [f"stages={stages}"])
    refused(told, tmp_path, ConfigError, "its stages are those of partial_res, its method is vega")


def test_what_no_stage_reads_is_no_part_of_a_run(recipe: Recipe) -> None:
    told = ["partial.agree=0.7"]
    for stages, read in (("[train]", False), ("[rec]", True), ("[rec,res]", True)):
        one = apply_overrides(recipe, [f"stages={stages}"])
        assert (identity(one) != identity(apply_overrides(one, told))) == read
    quiet = ["partial.rec.workers=3", "train.log_every=3"]
    assert identity(apply_overrides(recipe, quiet)) == identity(recipe)
    assert {"workers", "amsgrad"}.isdisjoint(identity(recipe)["partial"]["rec"])


@pytest.mark.parametrize("plain", [True, False])
def test_rec_learns_from_boxes_with_the_backbone(plain: bool, recipe: Recipe) -> None:
    told = ["data.mask_seed=3", "select=REC@0.5", "data.evaluate=val", f"partial.plain={plain}"]
    made = rec_recipe(apply_overrides(recipe, told))
    assert recipe.partial is not None
    assert (made.data.labels, made.data.few_masks, made.data.mask_seed) == ("text+box", False, 0)
    assert (made.train, made.select) == (recipe.partial.rec, "REC@0.5")
    assert rec_recipe(recipe).select is None
    method = made.method
    assert isinstance(method, PartialResConfig)
    assert (method.task, method.task_token, method.freeze_vision) == ("rec", "zero", False)
    added = (method.cctf == "intended", method.pmca.on, method.language_token)
    assert added == (not plain,) * 3
    assert str(training_labels(made)) == str(made.evaluation_labels()) == "text+box"


# -- which masks ---------------------------------------------------------------------------------


def test_one_rule_says_which_masks(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"data\.mask_share and data\.mask_refs") as caught:
        apply_overrides(recipe, ["data.mask_refs=masks.json"])
    assert "one of them to null" in caught.value.remedy
    for few in ("mask_share=0.5", "mask_refs=masks.txt"):
        settled = ["data.mask_share=null", f"data.{few}", "data.also=[scenes-sparse]"]
        with pytest.raises(ConfigError, match=r"data\.also names more") as caught:
            apply_overrides(recipe, settled if few.startswith("mask_refs") else settled[1:])
        assert "data.also=[]" in caught.value.remedy
    for share in ("0", "1.5", "-1"):
        with pytest.raises(ConfigError, match=r"mask_share"):
            apply_overrides(recipe, [f"data.mask_share={share}"])


@pytest.mark.parametrize("select", ["mIoU", "oIoU", "Pr@0.5"])
def test_no_checkpoint_is_chosen_by_masks_that_are_not_granted(
    select: str, recipe: Recipe, vega: Recipe
) -> None:
    for base in (apply_overrides(recipe, ["data.evaluate=val"]), vega):
        with pytest.raises(LabelsError, match=f"checkpoint by {select}.*only text.box is granted"):
            apply_overrides(base, [f"select={select}"])
        full = apply_overrides(base, [f"select={select}", "data.mask_share=null"])
        assert full.evaluation_labels().allows("mask")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "masks.txt: No such file"),
        ("7\nnine\n", "line 2 is 'nine'"),
        ('{"data": "scenes"}', 'no "split_by" in it'),
        ("7\n999999\n", "1 of the 2 refs of the subset of masks are no refs of scenes"),
    ],
)
def test_refs_that_are_not_there_are_told_before_anything_is_written(
    content: str | None, told: str, recipe: Recipe, vega: Recipe, tmp_path: Path
) -> None:
    file = tmp_path / "masks.txt"
    if content is not None:
        file.write_text(content)
    given = ["data.mask_share=null", f"data.mask_refs={file}"]
    for base in (recipe, vega):
        error = refused(apply_overrides(base, given), tmp_path, DataError, told)
        assert (str(file) in error.message) == ("999999" not in (content or ""))


def test_a_file_that_has_changed_is_read_anew(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "masks.txt"
    given = apply_overrides(recipe, ["data.mask_share=null", f"data.mask_refs={file}"])
    write_subset(file, masked_refs(recipe))
    assert masked_refs(given) == masked_refs(recipe)
    first = min(masked_refs(recipe).ref_ids)
    file.write_text(f"{first}\n")
    assert masked_refs(given).ref_ids == {first}
    assert str(training_labels(given)) == "text+box+mask(1 refs)"
    assert open_split(given, "train").entry(0).ref_id == first


def test_a_batch_of_more_than_the_few_is_refused_before_rec(
    recipe: Recipe, granted: frozenset[int], world: Path, tmp_path: Path
) -> None:
    """REC has enough, and would be learned for nothing."""
    known = [entry for entry in entries(world) if entry.ref_id in granted]
    for told, items in (
        (["data.per_image=1"], len(known)),
        (["data.per_image=99"], len({entry.image_id for entry in known})),
        (["data.per_image=1", "data.limit=4"], 4),
        (["data.per_image=1", "data.view=ref"], len(granted)),
    ):
        full = apply_overrides(recipe, [*told, f"train.batch_size={items}"])
        check_partial(full)
        over = apply_overrides(recipe, [*told, f"train.batch_size={items + 1}"])
        few = f"{items} samples of the refs whose masks are granted"
        error = refused(
            over, tmp_path, ConfigError, f"batch_size {items + 1} is more than the {few}"
        )
        assert f"train.batch_size to {items}" in error.remedy


def test_another_method_learns_from_the_granted_refs_alone(
    vega: Recipe, world: Path, granted: frozenset[int], tmp_path: Path
) -> None:
    with watched() as watch:
        result = again(vega, tmp_path / "run")
    assert watch.masks.keys() == {"train"}
    assert watch.masks["train"] <= objects(world, granted)
    assert result.metrics.keys() == {"REC@0.5 (original, val)"}
    told = card(tmp_path / "run" / "train")
    assert told["labels used"] == f"text+box+mask({len(granted)} refs)"
    items = sum(entry.ref_id in granted for entry in entries(world))
    assert told["data"].endswith(f"split train, {items} items")


# -- weights -------------------------------------------------------------------------------------


def test_a_rec_model_that_is_no_start_is_refused(
    recipe: Recipe, vega: Recipe, tmp_path: Path
) -> None:
    only = apply_overrides(recipe, ["stages=[res]"])
    for name, told in (
        ("partial_res rec", "is no start for this model .*of another shape"),
        ("vega", "is no start for this model .*missing: "),
    ):
        models.save(tmp_path / "m", toy_model(name))
        start = WeightsConfig(rec=str(tmp_path / "m"))
        changed = only.model_copy(update={"weights": start})
        error = refused(changed, tmp_path, ModelError, told)
        assert "sequence.bins must agree" in error.remedy
        other = vega.model_copy(update={"weights": start})
        error = refused(other, tmp_path, ConfigError, "does not go on from boxes to masks")
        assert "weights.rec=null" in error.remedy
    absent = apply_overrides(only, [f"weights.rec={tmp_path / 'absent'}"])
    refused(absent, tmp_path, ModelError, "absent")


def test_a_file_of_darknet_that_is_not_there_is_named(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "darknet.weights"
    absent = small_darknet(world, f"weights.vision={file}")
    assert str(file) in str(refused(absent, tmp_path, ModelError, "cannot read weights"))
    file.write_bytes(b"no weights at all, but long enough")
    refused(absent, tmp_path, ModelError, "is no .weights file of darknet")
    swin = apply_overrides(small_partial(world), [f"weights.vision={file}"])
    refused(swin, tmp_path, RefsegError, "darknet.weights")


def test_the_papers_preset_from_a_file_of_darknet(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "darknet.weights"
    module = DarkNet(DarkNetVisionConfig(width=2, depths=(1, 1, 1, 1, 1)))
    count = sum(u.conv.weight.numel() + 4 * u.norm.num_features for _, u in module.units())
    header = np.array([0, 2, 0, 0, 0], "<i4").tobytes()
    file.write_bytes(header + np.full(count, 0.1, "<f4").tobytes())
    told = small_darknet(world, f"weights.vision={file}")
    result = again(told, tmp_path / "run")
    assert result.metrics.keys() == {"REC@0.5 (original, val)"}
    told_of = card(tmp_path / "run" / "rec")
    assert told_of["labels used"] == f"text+box; encoders: {file} (not stated)"
    assert "weights.vision" in manifest(tmp_path / "run" / "rec")["inputs"]
    rec = str(tmp_path / "run" / "rec" / "model")
    starts = card(tmp_path / "run" / "res")["starts from"]
    assert starts == {rec: "text+box", str(file): "not stated"}


# -- the recipes ---------------------------------------------------------------------------------

OURS = [name for name in RECIPES if name.startswith(("partial_res", "seqtr"))]
NAME = re.compile(r"(partial_res|seqtr_rec|seqtr)_(refcoco|refcoco_plus|refcocog)(?:_(\d+))?")
SETS = {
    "refcoco": ("refcoco", "unc", 17),
    "refcoco_plus": ("refcoco+", "unc", 17),
    "refcocog": ("refcocog", "umd", 22),
}


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_is_whole(name: str) -> None:
    made = get_recipe(name)
    assert made.name == name
    assert f"Command: refseg train {name}" in made.promise
    assert Recipe.model_validate_json(made.model_dump_json()) == made
    assert isinstance(made.method, PartialResConfig)


def test_the_worlds_recipe() -> None:
    made = get_recipe("partial_res_scenes")
    assert (made.stages, made.data.mask_share, made.select) == (ALL, 0.01, None)
    assert made.data.labels == "text+box+mask"
    assert isinstance(made.method, PartialResConfig)
    assert made.method.freeze_vision


@pytest.mark.parametrize("name", [name for name in OURS if name != "partial_res_scenes"])
def test_the_papers_recipes_keep_their_promises(name: str) -> None:
    made, found = get_recipe(name), NAME.fullmatch(name)
    assert found
    kind, on, share = found[1], found[2], int(found[3] or 1)
    assert (made.data.name, made.data.split_by, made.tokens.max_words) == SETS[on]
    assert (made.data.view, made.data.augment.scale) == ("ref", (0.3, 1.4))
    assert (made.preprocess.size, made.preprocess.fit) == (640, "letterbox")
    assert made.weights.vision == "darknet.weights"
    if kind != "partial_res":
        seqtr_keeps_its_promise(made, on, boxes=kind == "seqtr_rec")
        return
    full = share == 100
    assert made.data.mask_share == (None if full else share / 100)
    assert made.stages == (ALL[:2] if full else ALL)
    assert made.select == ("mIoU" if full else "REC@0.5")
    assert made.partial is not None
    assert (made.partial.plain, made.partial.agree, made.partial.again_steps) == (True, 0.1, None)
    assert made.method == PartialResConfig(text=made.method.text)  # the paper's are the defaults
    assert made.method.sequence.points == 12
    falls(made.train, epochs=90, drop=75)
    falls(made.partial.rec, epochs=60, drop=50)


def seqtr_keeps_its_promise(made: Recipe, on: str, *, boxes: bool) -> None:
    method = made.method
    assert isinstance(method, PartialResConfig)
    assert method == method.seqtr("rec" if boxes else "res")
    assert (made.stages, made.partial, made.data.mask_share) == (("train",), None, None)
    assert made.data.labels == ("text+box" if boxes else "text+box+mask")
    assert made.select == ("REC@0.5" if boxes else "mIoU")
    if boxes:
        falls(made.train, epochs=60, drop=50)
        return
    falls(made.train, epochs=90, drop=75)
    written = method.sequence
    assert (written.points, written.shuffle) == ((18, 0) if on == "refcoco" else (12, 0.2))
    assert (written.contour, written.bin_centre, written.constrained) == ("stride", False, False)


def falls(config: TrainConfig, *, epochs: int, drop: int) -> None:
    """The papers' rate, epoch by epoch, however many steps one has."""
    assert (config.epochs, config.batch_size, config.amsgrad) == (epochs, 128, True)
    assert (config.clip_norm, config.ema, config.eps) == (0.15, 0.999, 1e-9)
    for steps in (1, 3, 331):
        for epoch in range(epochs):
            wanted = 5e-4 * min(1, (epoch + 1) / 6) * (0.1 if epoch + 1 >= drop else 1)
            for step in (epoch * steps, epoch * steps + steps - 1):
                factor = lr_factor(config, step, epochs * steps)
                assert config.lr * factor == pytest.approx(wanted)
