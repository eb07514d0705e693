"""The stages of Partial-RES, whole: what each sees, starts from and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from refseg import models
from refseg.data.catalog import open_data, open_records
from refseg.data.dataset import ReferDataset
from refseg.data.subset import draw_subset, read_subset
from refseg.ops.files import sha256_file
from refseg.ops.projection import projection_score
from refseg.recipes import partial_stages, runner
from refseg.recipes.base import Recipe
from refseg.recipes.batches import RecipeBatches
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from refseg.recipes.training import Job
from refseg.train.log import read_log
from refseg.types import Labels
from tests.recipes.killing import Death, again, die_in_turn
from tests.recipes.partial_small import (
    AGREE,
    ALL,
    ONE_STEP,
    SHARE,
    Watch,
    card,
    entries,
    manifest,
    objects,
    small_partial,
    state,
    watched,
    weights,
)

ROUNDS = (*ALL, "pseudo_2", "res_pseudo_2")
WITH_MODEL = ("rec", "res", "res_pseudo", "res_pseudo_2")
EVALUATED = (
    "data.evaluate=val", "data.evaluate_limit=3", "select=REC@0.5", "train.evaluate_every=2",
    "partial.rec.evaluate_every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(world: Path) -> Recipe:
    return small_partial(world, *EVALUATED)


@pytest.fixture(scope="module")
def seen(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    """A run of all stages and of a second round, and what was looked at meanwhile."""
    folder = tmp_path_factory.mktemp("partial") / "whole"
    with watched() as watch:
        twice = recipe.model_copy(update={"stages": ROUNDS})
        result = run_recipe(twice, folder, progress="none", command="refseg train partial")
    assert result.skipped == ()
    return folder, watch


@pytest.fixture(scope="module")
def whole(seen: tuple[Path, Watch]) -> Path:
    return seen[0]


@pytest.fixture(scope="module")
def granted(world: Path) -> frozenset[int]:
    """Refs whose masks may be seen."""
    return draw_subset(open_records(world), "train", SHARE, seed=0).ref_ids


def from_rec(recipe: Recipe, whole: Path, *more: str) -> Recipe:
    """The stage "res" alone, from the run's REC model."""
    told = [f"weights.rec={whole / 'rec' / 'model'}", "stages=[res]", *more]
    return apply_overrides(recipe, told)


# -- what each stage says ------------------------------------------------------------------------


def test_every_stage_says_what_it_saw(whole: Path, granted: frozenset[int], recipe: Recipe) -> None:
    few = f"text+box+mask({len(granted)} refs)"
    for name in ROUNDS:
        told = manifest(whole / name)
        labels = "text+box" if name.startswith(("rec", "pseudo")) else few
        assert (told["stage"], told["labels"]) == (name, labels)
        for path, digest in told["outputs"].items():
            assert sha256_file(whole / name / path) == digest
    rec = whole / "rec" / "model"
    assert card(whole / "rec")["labels used"] == "text+box"
    for name in WITH_MODEL[1:]:
        assert card(whole / name)["labels used"] == f"{few}; model: {rec} (text+box)"
        assert card(whole / name)["starts from"] == {str(rec): "text+box"}
        assert manifest(whole / name)["inputs"]["rec"] == sha256_file(rec / "model.safetensors")
    made = json.loads((whole / "pseudo" / "data" / "labels.json").read_text())
    assert made["labels used"] == card(whole / "res")["labels used"]
    assert made["labels seen here"] == "text+box"
    pieces = [(whole / name / "model" / "tokenizer.json").read_bytes() for name in WITH_MODEL]
    assert len(set(pieces)) == 1


def test_the_last_model_is_the_runs(whole: Path) -> None:
    published = (whole / "model" / "model.safetensors").read_bytes()
    assert published == weights(whole / "res_pseudo_2")
    assert models.load(whole / "model").card["command"] == "refseg train partial"


def test_a_finished_run_is_left_alone(recipe: Recipe, whole: Path) -> None:
    before = weights(whole)
    twice = recipe.model_copy(update={"stages": ROUNDS})
    assert again(twice, whole).skipped == ROUNDS
    assert weights(whole) == before
    assert len(json.loads((whole / "provenance.json").read_text())["starts"]) == 1
    # How often a stage is saved is no part of what it learns.
    other = apply_overrides(twice, ["partial.rec.save_every=7", "partial.rec.log_every=1"])
    assert again(other, whole).skipped == ROUNDS


# -- labels outside the subset -------------------------------------------------------------------


def test_no_mask_outside_the_subset_is_read(
    seen: tuple[Path, Watch], world: Path, granted: frozenset[int]
) -> None:
    """Of val none at all, although the weights are chosen on it."""
    _, watch = seen
    may = objects(world, granted)
    for name in ROUNDS:
        learns = name.startswith("res")
        assert bool(watch.masks[name]) == learns
        assert watch.masks[name] <= may
        assert not watch.pseudo[name] or name.startswith("res_pseudo")
    assert set(watch.masks) | set(watch.pseudo) <= set(ROUNDS)


def test_evaluation_while_training_is_of_boxes(whole: Path) -> None:
    for name in WITH_MODEL:
        lines = [one for one in read_log(whole / name / "log.jsonl") if one["kind"] == "eval"]
        assert lines
        assert {tuple(line["metrics"]) for line in lines} == {("REC@0.5",)}
        assert {line["labels"] for line in lines} == {"text+box"}
        told = card(whole / name)
        assert told["evaluation"]["chosen by"] == "REC@0.5"
        assert told["metrics"].keys() == {"REC@0.5 (original, val)"}


def test_the_drawn_refs_are_kept_and_can_be_given_again(
    recipe: Recipe, whole: Path, granted: frozenset[int], tmp_path: Path
) -> None:
    """And REC's model stands for the stage: the same bytes from both."""
    file = whole / "res" / "masks.json"
    kept = read_subset(file)
    assert kept.ref_ids == granted
    assert (kept.split, kept.seed, kept.share) == ("train", 0, SHARE)
    given = ["data.mask_share=null", f"data.mask_refs={file}"]
    again(from_rec(recipe, whole, *given), tmp_path / "run")
    assert weights(tmp_path / "run" / "res") == weights(whole / "res")
    assert (tmp_path / "run" / "res" / "masks.json").read_bytes() == file.read_bytes()
    told = manifest(tmp_path / "run" / "res")
    assert told["inputs"]["masks"] == manifest(whole / "res")["inputs"]["masks"]
    assert told["inputs"]["weights.rec"] == manifest(whole / "res")["inputs"]["rec"]
    assert card(tmp_path / "run" / "res")["starts from"] == card(whole / "res")["starts from"]


# -- pseudo masks --------------------------------------------------------------------------------


def made_by(stage: Path, **options: Any) -> ReferDataset:
    return open_data(stage / "data", "train", Labels.parse("text+box+mask"), **options)


@pytest.mark.parametrize("name", ["pseudo", "pseudo_2"])
def test_pseudo_masks_are_of_other_refs_and_fit_their_boxes(
    name: str, whole: Path, world: Path, granted: frozenset[int]
) -> None:
    made, source = made_by(whole / name), entries(world)
    extras = [made.records.extra("refs", made.entry(row).ref_row) for row in range(len(made))]
    about = [extra["source_ref_id"] for extra in extras]
    assert len(made) == made.records.count("refs") == len(set(about)) > 0
    assert not granted.intersection(about)
    boxes = {entry.ref_id: entry.box_xyxy for entry in source}
    texts = {(entry.ref_id, entry.text) for entry in source}
    for row, (ref_id, extra) in enumerate(zip(about, extras, strict=True)):
        sample, box = made[row], boxes[ref_id]
        assert (ref_id, sample.text) in texts
        assert sample.mask is not None
        assert box is not None
        assert extra["projection"] == round(projection_score(sample.mask, box), 6) < AGREE
        assert sample.weight == 1
    told = json.loads((whole / name / "data" / "labels.json").read_text())
    assert told["asked"] == len(boxes) - len(granted)  # one sentence of each
    assert told["left_out"]["mask known"] == len(granted)
    assert told["counts"]["refs"] == len(made) < told["asked"]


def test_who_labels_is_the_stage_before(whole: Path) -> None:
    """The second round's teacher is what the first has taught, and it reads other sentences."""
    for name, before, seed in (("pseudo", "res", 0), ("pseudo_2", "res_pseudo", 1)):
        teacher = sha256_file(whole / before / "model" / "model.safetensors")
        told = json.loads((whole / name / "data" / "labels.json").read_text())
        assert manifest(whole / name)["inputs"]["model"] == told["weights"] == teacher
        assert told["options"]["seed"] == seed
    assert weights(whole / "res_pseudo_2") != weights(whole / "res_pseudo")


def captured(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, dict[str, Any]]]:
    """The calls of what `partial_stages` calls `name`, which does nothing then."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(partial_stages, name, lambda *given, **named: calls.append((given, named)))
    return calls


@pytest.mark.parametrize(("device", "workers"), [("cpu", 1), ("meta", 1), ("cuda:1", None)])
def test_what_the_teacher_is_asked(
    device: str, workers: int | None, recipe: Recipe, whole: Path, granted: frozenset[int],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls = captured(monkeypatch, "label")
    told = apply_overrides(
        recipe, ["partial.weight=0.5", "partial.agree=0.3", "data.exclude_images=[3]"]
    )
    job = Job(told, whole, True, "none", None, device=device)
    (tmp_path / "data").mkdir()
    partial_stages.pseudo_stage(job, 2).run(tmp_path)
    (((options,), named),) = calls
    assert named["workers"] == workers
    assert (options.weight, options.agree, options.per_ref) == (0.5, 0.3, True)
    assert (options.task, options.split, options.out) == ("masks", "train", tmp_path / "data")
    assert (options.skip_refs, options.exclude_images) == (granted, frozenset({3}))
    assert options.model == str(whole / "res_pseudo" / "model")


def test_other_processes_wait_for_the_one_that_writes(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = captured(monkeypatch, "label")

    def written() -> None:
        (tmp_path / "data").mkdir()
        for name in ("refs(refseg).p", "labels.json", ".lock"):
            (tmp_path / "data" / name).write_bytes(b"")

    job = Job(recipe, whole, False, "none", None, (1, 2), written)
    outputs = partial_stages.pseudo_stage(job).run(tmp_path)
    assert [path.name for path in outputs] == ["labels.json", "refs(refseg).p"]
    assert calls == []


# -- the way from REC ----------------------------------------------------------------------------


def test_everything_starts_from_recs_weights(seen: tuple[Path, Watch]) -> None:
    """Also what is taught again. The backbone rests in RES, so there it stays bit for bit."""
    folder, watch = seen
    assert watch.starts == {name: [str(folder / "rec" / "model")] for name in WITH_MODEL[1:]}
    rec = state(folder / "rec")
    for name in WITH_MODEL[1:]:
        own = state(folder / name)
        backbone = [key for key in own if key.startswith("levels.")]
        assert backbone
        assert all(torch.equal(own[key], rec[key]) for key in backbone)
        assert not torch.equal(own["decoder.coordinates.weight"], rec["decoder.coordinates.weight"])


def test_the_last_stage_learns_from_true_and_kept(
    recipe: Recipe, whole: Path, granted: frozenset[int], world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    true = sum(entry.ref_id in granted for entry in entries(world))
    kept = len(made_by(whole / "pseudo"))
    assert card(whole / "res")["data"].endswith(f"split train, {true} items")
    assert card(whole / "res_pseudo")["data"].endswith(f"split train, {true + kept} items")
    assert manifest(whole / "res_pseudo")["inputs"]["items"] == str(true + kept)
    calls = captured(monkeypatch, "fit_stage")
    for told, steps in (("null", recipe.train.steps), ("9", 9)):
        changed = apply_overrides(recipe, [f"partial.again_steps={told}"])
        partial_stages.res_pseudo_stage(Job(changed, whole, True, "none", None))
        (name, _, data, train), named = calls[-1]
        assert name == "res_pseudo"
        assert train == recipe.train.model_copy(update={"steps": steps})
        assert named == {"people": true, "rec": whole / "rec" / "model"}
        assert [len(part) for part in data.parts] == [true, kept]
        assert {data.entry(row).ref_id for row in range(true)} == granted
        assert all(sample.mask is not None for sample in data.samples(range(len(data))))


def test_another_number_of_points_has_another_position_table(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    again(from_rec(recipe, whole, "method.sequence.points=7", *ONE_STEP), tmp_path / "run")
    for stage, rows in ((whole / "res", 11), (tmp_path / "run" / "res", 15)):
        told = card(stage)["taken over"]
        assert f"position table begun anew (5 -> {rows} rows)" in told
        assert "; new here: decoder." in told
        assert "; left behind: inside.bias, inside.weight" in told  # a term of REC's loss alone
        assert len(state(stage)["decoder.positions.weight"]) == rows
    assert "taken over" not in card(whole / "rec")


NAIVE = ("method.cctf=off", "method.pmca.on=false", "method.language_token=false",
         "method.task_token=zero")  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "anew"), [(NAIVE, None), (("partial.plain=false",), "decoder.task")]
)
def test_both_tasks_with_one_model(
    settings: tuple[str, ...], anew: str | None, recipe: Recipe, tmp_path: Path
) -> None:
    """The naive pipeline is SeqTR twice; and REC may have in it what RES adds."""
    told = apply_overrides(
        recipe, [*settings, *ONE_STEP, "stages=[rec,res]", "method.loss.inside=0"]
    )
    assert again(told, tmp_path / "run").skipped == ()
    rec, res = (models.load(tmp_path / "run" / name / "model").method for name in ("rec", "res"))
    assert rec.config.task == "rec"
    assert rec.config.task_token == "zero"
    assert (rec.config.cctf, rec.config.pmca.on) == (res.config.cctf, res.config.pmca.on)
    assert rec.config.language_token == res.config.language_token
    others = rec.state_dict().keys() ^ res.state_dict().keys()
    assert others == (set() if anew is None else {anew})
    told_of = f"{len(rec.state_dict()) - 1} tensors taken; position table begun anew (5 -> 11 rows)"
    told_of += "" if anew is None else f"; new here: {anew}"
    assert card(tmp_path / "run" / "res")["taken over"] == told_of


def test_both_tasks_in_one_sequence_with_all_masks(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    told = ["data.mask_share=null", "method.task=multi", "method.task_token=task-wise"]
    result = again(from_rec(recipe, whole, *told, "select=mIoU", *ONE_STEP), tmp_path / "run")
    assert manifest(tmp_path / "run" / "res")["labels"] == "text+box+mask"
    assert not (tmp_path / "run" / "res" / "masks.json").exists()
    assert {"mIoU (original, val)", "REC@0.5 (original, val)"} <= result.metrics.keys()
    tokens, table = (state(tmp_path / "run" / "res")[f"decoder.{name}"] for name in (
        "task", "positions.weight",
    ))  # fmt: skip
    assert (len(tokens), len(table)) == (2, 16)


# -- interrupted ---------------------------------------------------------------------------------


def test_killed_in_every_stage_it_ends_with_the_same_bits(
    recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    deaths: list[Death] = [
        (RecipeBatches, "__call__", 2, "rec"),  # one of them is the first look
        (RecipeBatches, "__call__", 4, "res"),
        (partial_stages, "write_subset", 0, "res"),
        (partial_stages, "label", 0, "pseudo"),
        (RecipeBatches, "__call__", 2, "res_pseudo"),
        (runner, "publish", 0, None),
    ]
    die_in_turn(recipe, folder, deaths, ALL)
    same_as(whole, folder)
    for name in ("res", "pseudo"):
        (folder / name / "manifest.json").unlink()
    assert again(recipe, folder).skipped == ("rec", "res_pseudo")
    same_as(whole, folder)


def same_as(one: Path, other: Path) -> None:
    for name in ("rec", "res", "res_pseudo"):
        assert weights(one / name) == weights(other / name)
    for file in ("res/masks.json", "pseudo/data/refs(refseg).p", "pseudo/data/instances.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
