"""The stages of TRIS, whole: what each sees, starts from and leaves behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg import models
from refseg.data.catalog import open_data, open_records
from refseg.errors import ConfigError, LabelsError, ModelError, RefsegError, RunError
from refseg.methods.tris.calibrator import weighted_map
from refseg.methods.tris.response import in_net
from refseg.nn.clip_weights import read_pair
from refseg.recipes import tris_edges
from refseg.recipes.base import Recipe, WeightsConfig
from refseg.recipes.judging import open_calibrator
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.runner import run_recipe
from refseg.recipes.tris_data import response_recipe
from refseg.recipes.tris_rules import ORDER, check_tris
from refseg.recipes.tris_select import MAPS, REFS, Selected, normalised
from refseg.train.log import read_log
from refseg.types import Geometry, Labels
from tests.recipes.partial_small import Watch, card, manifest, watched
from tests.recipes.tris_small import small_pair, small_tris


@pytest.fixture(scope="module")
def pair(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_encoder(small_pair(world), tmp_path_factory.mktemp("pair") / "run", progress="none")


@pytest.fixture(scope="module")
def recipe(world: Path, pair: Path) -> Recipe:
    return small_tris(world, pair)


@pytest.fixture(scope="module")
def seen(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    folder = tmp_path_factory.mktemp("tris") / "whole"
    with watched() as watch:
        result = run_recipe(recipe, folder, progress="none", command="refseg train tris")
    assert result.skipped == ()
    return folder, watch


@pytest.fixture(scope="module")
def whole(seen: tuple[Path, Watch]) -> Path:
    return seen[0]


def test_the_pair_says_what_it_saw(pair: Path) -> None:
    told = json.loads((pair / "config.json").read_text())
    assert told["refseg"]["labels"] == "text"
    assert set(told["pair"]) == {"vision", "text"}
    assert "found among" in (pair / "README.md").read_text()
    assert not read_pair(pair).training


def test_no_stage_opens_a_mask_or_box_of_people(seen: tuple[Path, Watch]) -> None:
    whole, watch = seen
    assert not any(watch.masks.values())
    assert set(watch.pseudo) == {"segment"}
    for name in ORDER:
        assert manifest(whole / name)["labels"] == "text"


def test_cards_say_that_masks_were_its_own(whole: Path) -> None:
    first, last = card(whole / "respond"), card(whole / "segment")
    assert first["labels used"].startswith("text; encoders: ")
    assert last["labels used"].startswith("text; encoders: ")
    assert last["labels used"].endswith("masks that its own step 1 proposed")
    for told in (first, last):
        assert told["evaluation"]["chosen by"] == "margin"
        assert "the choice saw text" in told["weights"]
        # The margin is no IoU: no protocol of masks is named for it.
        says = "margin of a frozen image-text model, no mask read"
        assert told["weights"].startswith(f"best margin on val (the {says}), at step ")
        assert told["evaluation"]["measure"] == says
        assert set(told["metrics"]) == {"margin (val)"}
        assert not {"protocol", "original"} & set(json.dumps(told).replace('"', " ").split())
        assert "box" not in told["labels used"]


def test_weights_are_chosen_by_the_margin(whole: Path) -> None:
    for name in ("respond", "segment"):
        evaluated = [line for line in read_log(whole / name / "log.jsonl") if "metrics" in line]
        assert evaluated
        for line in evaluated:
            assert set(line["metrics"]) == {"margin"}
            assert line["labels"] == "text"


def test_every_ref_has_a_map_of_one_of_its_sentences(whole: Path, world: Path) -> None:
    selected = Selected.read(whole / "select")
    records = open_records(world)
    data = open_data(world, "train", Labels())
    refs = {data.entry(row).ref_id: data.entry(row).ref_row for row in range(len(data))}
    assert set(selected.ref_ids) == set(refs)
    for ref_id, sentence in zip(selected.ref_ids, selected.sentence, strict=True):
        assert 0 <= sentence < len(records.ref(refs[ref_id]).sent_rows)
    assert selected.maps.shape[1:] == (4, 4)  # 64 px at stride 16


def test_a_map_is_the_models_own_answer(whole: Path, world: Path) -> None:
    model = models.load(whole / "respond" / "model")
    selected = Selected.read(whole / "select")
    data = open_data(world, "train", Labels())
    rows = [row for row in range(len(data)) if data.entry(row).ref_id == selected.ref_ids[3]]
    batch = model.batch([data[rows[selected.sentence[3]]]])
    with torch.inference_mode():
        own = model.method.own(model.method(batch))[0]
    np.testing.assert_allclose(selected.maps[3], own.numpy(), atol=1e-4)


def test_prms_is_that_of_each_ref_by_itself(whole: Path, world: Path, recipe: Recipe) -> None:
    """Images are answered and judged together; here each sentence alone."""
    model = models.load(whole / "respond" / "model")
    selected, judge = Selected.read(whole / "select"), open_calibrator(response_recipe(recipe))
    data = open_data(world, "train", Labels())
    method, several = model.method, 0
    for ref_id, number, score in zip(
        selected.ref_ids[:20], selected.sentence, selected.scores, strict=False
    ):
        seen, texts = [], []
        for row in (row for row in range(len(data)) if data.entry(row).ref_id == ref_id):
            batch = model.batch([data[row]])
            with torch.inference_mode():
                logits = method.own(method(batch))
                shown = weighted_map(in_net(logits, (64, 64)), method.config.select_map)
                seen.append(judge.seen(batch.images, shown)[0])
                texts.append(
                    judge.texts(*method.text.cut_for_judge(batch.words, batch.word_mask))[0]
                )
        told = [sum(float(one @ text) for text in texts) for one in seen]
        assert score == pytest.approx(max(told), abs=1e-4)
        assert told[number] == pytest.approx(max(told), abs=1e-4)
        several += len(told) > 1
    assert several > 5


def test_pseudo_masks_are_an_ordinary_data_set(whole: Path, world: Path) -> None:
    made = open_data(whole / "refine" / "data", "train", Labels.parse("text+mask"))
    source = open_data(world, "train", Labels())
    texts = sorted((e.image_id, e.text) for e in map(source.entry, range(len(source))))
    kept = sorted((e.image_id, e.text) for e in map(made.entry, range(len(made))))
    told = json.loads((whole / "refine" / "data" / "labels.json").read_text())
    assert told["labels used"].startswith("text; encoders: ")
    assert told["counts"]["refs"] + told["counts"]["nothing found"] == len(
        {source.entry(row).ref_id for row in range(len(source))}
    )
    assert set(kept) <= set(texts)
    assert len(kept) == told["counts"]["expressions"] > 0
    sample = made[0]
    assert sample.mask is not None
    assert sample.mask.shape == sample.image.shape[:2]
    assert sample.mask.any()
    # All sentences of a ref share its mask.
    twin = next(r for r in range(1, len(made)) if made.entry(r).ref_id == made.entry(0).ref_id)
    assert made[twin].text != sample.text or made.entry(twin).sent_id != made.entry(0).sent_id
    np.testing.assert_array_equal(made[twin].mask, sample.mask)


def test_a_finished_run_is_left_alone(whole: Path, recipe: Recipe) -> None:
    again = run_recipe(recipe, whole, progress="none")
    assert again.skipped == ORDER


def test_interrupted_refinement_goes_on(
    whole: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has the bytes of an undisturbed run."""
    torn = tmp_path / "torn"
    shutil.copytree(whole, torn, symlinks=True)
    for name in ("refine/manifest.json", "segment/manifest.json"):
        (torn / name).unlink()
    sorted((torn / "refine/data/shards").iterdir())[-1].unlink()
    for name in ("labels.json", "instances.json", "refs(refseg).p"):
        (torn / "refine/data" / name).unlink()
    made: list[int] = []
    call = tris_edges.Refiner.__call__

    def counted(self: tris_edges.Refiner, picture: np.ndarray, ref_ids: list[int]) -> object:
        made.append(len(ref_ids))
        return call(self, picture, ref_ids)

    monkeypatch.setattr(tris_edges.Refiner, "__call__", counted)
    run_recipe(recipe, torn, progress="none")
    for name in ("instances.json", "refs(refseg).p"):
        ours, theirs = torn / "refine/data" / name, whole / "refine/data" / name
        assert ours.read_bytes() == theirs.read_bytes()
    assert made


def test_the_papers_preset_runs_too(world: Path, pair: Path, tmp_path: Path) -> None:
    paper = small_tris(world, pair, name="tris_scenes_paper")
    assert paper.tris is not None
    assert paper.tris.response.prompt == "batch"
    assert not paper.tris.response.cut.keep_end
    run_recipe(paper, tmp_path / "run", progress="none")
    model = models.load(tmp_path / "run" / "model")
    assert model.method_name == "tris"
    assert not model.method.config.mask_padding


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stages=[respond,edges]", 'goes on from "select"'),
        ("weights.calibrator=null", "weights.calibrator names none"),
        ("data.negatives=0", "data.negatives=0 brings none"),
        ("weights.edges=null", "weights.edges names none"),
        ("data.also=[scenes]", "read one data set"),
        ("weights.model=vega-scenes", "cannot both be weights.model"),
        ("method.text.vocab_size=100", '"segment" could not start'),
    ],
)
def test_what_a_later_stage_would_fail_on_is_refused_first(
    setting: str, told: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_recipe(apply_overrides(recipe, [setting]), tmp_path / "run", progress="none")
    assert told in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "told", "remedy"),
    [
        ("tris.edges_train.batch_size=500", "the 4 samples of the refs", "tris.edges_train"),
        ("train.batch_size=900", "expressions that step 2 learns from", "set train.batch_size"),
        ("data.limit=1 tris.train.batch_size=1", "the 1 samples of the refs", "tris.edges_train"),
    ],
)
def test_batches_of_more_than_there_is_are_refused_first(
    setting: str, told: str, remedy: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_recipe(apply_overrides(recipe, setting.split()), tmp_path / "run", progress="none")
    assert told in caught.value.message
    assert remedy in caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("method.vision.width=16", "other shapes"),
        ("method.vision.layers=[1,1,1,2]", "missing layer4.1"),
        ("method.text.heads=4", "has 2 heads, not 4"),
    ],
)
def test_weights_that_do_not_fit_step_2_are_refused_before_step_1(
    setting: str, told: str, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    """But for who has step 2 already, or does not ask for it."""
    other = apply_overrides(recipe, [setting])
    with pytest.raises(ModelError, match="segment") as caught:
        run_recipe(other, tmp_path / "run", progress="none")
    assert told in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()
    check_tris(other, whole)
    check_tris(other.model_copy(update={"stages": ORDER[:-1]}), tmp_path)


def test_step_1_alone_asks_for_what_it_pushes_away_too(recipe: Recipe, tmp_path: Path) -> None:
    """The term would be 0 in silence."""
    alone = apply_overrides(response_recipe(recipe), ["data.negatives=0", "select=null"])
    with pytest.raises(ConfigError) as caught:
        run_recipe(alone, tmp_path / "run", progress="none")
    assert "method.loss.repel=2 pushes other texts away" in caught.value.message
    assert "method.loss.repel=0" in caught.value.remedy
    assert not (tmp_path / "run").exists()
    quiet = apply_overrides(alone, ["method.loss.repel=0"])
    run_recipe(quiet, tmp_path / "run", progress="none")


def test_weights_that_saw_boxes_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    dense = apply_overrides(recipe, ["weights.edges=swin-scenes", "stages=[respond]"])
    with pytest.raises(LabelsError) as caught:
        run_recipe(dense, tmp_path / "run", progress="none")
    assert "swin-scenes" in caught.value.message


def test_absent_weights_are_refused_loudly(recipe: Recipe, tmp_path: Path) -> None:
    for part in ("vision", "calibrator"):
        absent = apply_overrides(recipe, [f"weights.{part}={tmp_path / 'nowhere'}"])
        with pytest.raises(ModelError):
            run_recipe(absent, tmp_path / "run", progress="none")
        assert not (tmp_path / "run").exists()


def test_the_papers_crf_is_asked_for_before_hours_of_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    wanted = apply_overrides(recipe, ["tris.smooth=pydensecrf2"])
    with pytest.raises(RefsegError, match="pydensecrf2"):
        run_recipe(wanted, tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_outlives_what_edges_were_seen_through(
    whole: Path, recipe: Recipe, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(whole, kept, symlinks=True)
    part = recipe.tris
    assert part is not None
    check_tris(recipe.model_copy(update={"weights": WeightsConfig(calibrator="gone")}), kept)


def test_a_margin_without_a_judge_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    alone = response_recipe(recipe)
    quiet = apply_overrides(
        alone,
        [
            "weights.calibrator=null",
            "method.loss.attract=0",
            "method.loss.repel=0",
            "stages=[train]",
        ],
    )
    with pytest.raises(ConfigError, match="margin"):
        run_recipe(quiet, tmp_path / "run", progress="none")


def test_masks_choose_only_on_request(recipe: Recipe) -> None:
    with pytest.raises(LabelsError):
        apply_overrides(recipe, ["select=mIoU"])
    granted = apply_overrides(recipe, ["select=mIoU", "data.labels=text+mask"])
    assert granted.select == "mIoU"


def test_a_map_in_px_is_positive_stretched_and_at_most_one() -> None:
    logits = np.array([[-3.0, 1.0], [2.0, -1.0]], np.float32)
    geometry = Geometry((6, 10), (8, 8), (0.8, 8 / 6))
    found = normalised(logits, geometry)
    assert found.shape == (6, 10)
    assert found.min() == 0
    assert 0.99 < found.max() < 1
    assert not normalised(np.full((2, 2), -1, np.float32), geometry).any()


def test_broken_maps_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        Selected.read(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "select again" in str(caught.value.remedy)
    (tmp_path / MAPS).write_bytes(b"no array")
    (tmp_path / REFS).write_text('{"refs": [1], "sentence": [0], "score": [0.5]}')
    with pytest.raises(RunError, match="broken maps"):
        Selected.read(tmp_path)
    with (tmp_path / MAPS).open("wb") as stream:
        np.save(stream, np.zeros((2, 4, 4), np.float32))
    with pytest.raises(RunError, match="2 maps of 1 refs"):
        Selected.read(tmp_path)


def test_an_encoder_that_is_not_here_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        models.find_encoder("proposals-coco")
    assert "refseg train proposals_coco" in str(caught.value.remedy)
