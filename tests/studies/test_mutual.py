"""The studies of mutual supervision at toy size: trained, scored, resumed, and on the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refseg.data.catalog import open_data
from refseg.data.scenes.model import KINDS
from refseg.ops.files import sha256_file
from refseg.recipes.batches import subset
from refseg.types import Labels
from studies import kept, mutual, mutual_ablation, mutual_boxes, results, reward_signal
from studies.base import RESULTS, slug
from studies.boxes_scores import WRITTEN
from studies.mutual_scenes import MEASURES, STYLES
from studies.mutual_variants import AREA, PEOPLE, RANDOM
from tests.worlds import WORLD_IMAGES

pytestmark = pytest.mark.usefixtures("small_world")

HEAD = ("width=16", "heads=2", "layers=1", "mlp_width=32")
SHORT = ("batch_size=2", "workers=0", "warmup=0", "cpu=true", "precision=fp32")
HEADS = {
    "method.text": (*HEAD, "vocab_size=200", "max_positions=16"),
    "method.generator": (*HEAD, "vocab_size=200", "max_words=8"),
    "method.selection": (*HEAD, "score_width=16"),
    "tokens": ("vocabulary=200", "max_words=8"),
    "data": ("evaluate=null", "per_image=3"),
    "train": SHORT,
    "disambiguation": ("policy.beams=2", *(f"train.{one}" for one in SHORT)),
}
PIXELS = {
    **HEADS,
    "method.extractor.backbone": (
        "image_size=64", "width=8", "depths=[1,1,1,1]", "heads=[1,2,2,2]", "window=4",
    ),
    "method.extractor": (
        "queries=4", "width=32", "heads=2", "mlp_width=32", "layers=1", "pixel_layers=1",
        "pixel_mlp_width=32", "points.points=40",
    ),
    "weights": ("proposals=null", "text=null"),
    "tokens": (*HEADS["tokens"], "source=data"),
    "data": (*HEADS["data"], "name=scenes"),
    "preprocess": ("size=64",),
    "pseudo": ("beams=2", "min_area=0"),
}  # fmt: skip
BOXES = {
    **HEADS,
    "method.extractor": ("width=16", "mlp_width=16", f"classes=[{','.join(KINDS)}]"),
    "data": HEADS["data"],
}
SHARE, LIMIT = 0.5, 4


def settings(groups: dict[str, tuple[str, ...]]) -> list[str]:
    told = [f"{group}.{one}" for group, ones in groups.items() for one in ones]
    return [word for text in told for word in ("--set", text)]


def numbers_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def recipe_of(run: Path) -> dict[str, Any]:
    return numbers_of(run / "recipe.json")


# -- boxes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(cache: Path, tmp_path_factory: pytest.TempPathFactory, small_world: None) -> Path:
    """The small world as if it were RefCOCO and RefCOCO+; nobody may train on image 3."""
    folder = tmp_path_factory.mktemp("real") / "boxes"
    world = cache / f"scenes-v1-0-{WORLD_IMAGES}"
    for style, name in zip(STYLES, mutual_boxes.SETS, strict=True):
        (folder / name).mkdir(parents=True)
        shutil.copy(world / style / "instances.json", folder / name)
        (refs,) = (world / style).glob("refs(*).p")
        shutil.copy(refs, folder / name / "refs(unc).p")
    (folder.parent / mutual_boxes.NEVER).write_text("3\n")
    return folder


@pytest.fixture(scope="module")
def boxes(real: Path) -> list[str]:
    words = ["boxes", "--real", str(real), "--folder", str(real.parent / "runs")]
    words += ["--steps", "2", "--reward-steps", "1", "--limit", str(LIMIT)]
    return [*words, "--out", str(real.parent / "out"), *settings(BOXES)]


@pytest.fixture(scope="module", autouse=True)
def no_java() -> Iterator[None]:
    """Java takes seconds to start, for every single score."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("refseg.evaluate_text", "studies.kept"):
            patch.setattr(f"{module}.why_no_meteor", lambda: "java is not wanted in tests")
        yield


@pytest.fixture(scope="module")
def boxed(boxes: list[str], real: Path) -> Path:
    """The study's file, trained and then scored by two commands."""
    assert (
        mutual.main([*boxes, "--sets", "refcoco", "--runs", "judge-seed1", "--only", "train"]) == 0
    )
    assert [path.name for path in (real.parent / "runs" / "refcoco").iterdir()] == ["judge-seed1"]
    assert mutual.main([*boxes, "--only", "train"]) == 0
    assert not (real.parent / "out").exists()
    assert mutual.main([*boxes, "--only", "score"]) == 0
    return real.parent / "out" / "mutual_boxes.json"


def test_boxes_has_the_runs_that_it_says(boxed: Path, real: Path) -> None:
    for name in mutual_boxes.SETS:
        folder = real.parent / "runs" / name
        held = {path.name: recipe_of(path) for path in folder.iterdir()}
        assert set(held) == {
            "writer-seed0", "judge-seed1", "unambiguity-cider", "unambiguity", "sigmoid",
            "softmax-tau-1", "beams-alone",
        }  # fmt: skip
        assert all(run["data"]["exclude_images"] == [3] for run in held.values())
        assert not held["judge-seed1"]["method"]["generate"]
        policies = {run: one["disambiguation"]["policy"] for run, one in held.items()}
        assert policies["unambiguity"]["cider"] == 0
        assert policies["sigmoid"]["form"] == "sigmoid"
        assert policies["softmax-tau-1"]["tau"] == 1
        assert policies["unambiguity-cider"]["tau"] == 2.5
        printed = {"weighting": "equal", "cider_end": False, "with_greedy": False}
        as_printed = {
            run for run in mutual_boxes.REWARDS if printed.items() <= policies[slug(run)].items()
        }
        assert as_printed == {"beams alone"}
        starts = {run: one["disambiguation"]["start"] for run, one in held.items()}
        assert {starts[slug(one)] for one in mutual_boxes.REWARDS} == {
            str(folder / "writer-seed0" / "model")
        }


def test_what_makes_a_run_counts_more_than_settings_for_all(real: Path) -> None:
    told = ("disambiguation.policy.weighting=posterior", "disambiguation.policy.tau=2")
    asked = mutual_boxes.Boxes(real=real, folder=real.parent / "none", overrides=told)
    policies = {
        run: recipe.disambiguation.policy
        for run, recipe in mutual_boxes.recipes(asked, "refcoco").items()
        if recipe.disambiguation is not None
    }
    assert policies["unambiguity-cider"].weighting == policies["sigmoid"].weighting == "posterior"
    assert policies["beams-alone"].weighting == "equal"
    assert (policies["softmax-tau-1"].tau, policies["beams-alone"].tau) == (1, 2)


def test_boxes_tells_every_score_and_where_it_comes_from(boxed: Path, real: Path) -> None:
    text = boxed.read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["model"] is None
    assert str(real.parent) not in text
    assert record["command"].startswith("python -m studies.mutual boxes --limit 4")
    assert "--real boxes" in record["command"]
    assert "--only" not in record["command"]
    assert record["numbers"]["never"] == 1
    for name in mutual_boxes.SETS:
        found = record["numbers"]["sets"][name]
        read = {(row["reader"], row["split"]) for row in found["comprehension"]}
        assert len(read) == len(found["comprehension"]) == 2 * 3
        told = {(row["variant"], row["split"], row["beams"]) for row in found["expressions"]}
        assert len(told) == len(found["expressions"]) == 6 * 2 * 2
        for row in found["expressions"]:
            assert {"CIDEr", "CIDEr merged", "Rb-Acc", "runs on"} <= row["metrics"].keys()
            assert row["merged"] == [{"refcoco": "refcoco+", "refcoco+": "refcoco"}[name]]
            assert "samples" not in row
        for split in WRITTEN:
            judged = found["directions"][split]
            assert [row["beams"] for row in judged] == [1] * 8 + [3] * 8
            assert [row["claim"] for row in judged[:8]] == [row["claim"] for row in judged[8:]]
            rewards = found["rewards"][split]
            assert 1 <= rewards["objects"] <= rewards["sentences"] <= 5 * LIMIT
            assert set(rewards["forms"]) == set(reward_signal.FORMS)
            assert 0 < found["people"][split]["distinct"] <= 1
            assert found["people"][split]["runs on"] == 0
    weights = real.parent / "runs" / "refcoco" / "writer-seed0" / "model" / "model.safetensors"
    first = record["numbers"]["sets"]["refcoco"]["runs"][0]
    assert (first["sha256"], first["seed"]) == (sha256_file(weights)[:16], 0)
    step_2 = record["numbers"]["sets"]["refcoco"]["runs"][1:-1]
    assert all(one["disambiguation"].startswith("1 steps of 2 images") for one in step_2)


def test_what_was_scored_is_not_scored_again(
    boxed: Path, boxes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = numbers_of(boxed)["numbers"]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(kept, "evaluate_expressions", refuse)
    monkeypatch.setattr(kept, "evaluate_objects", refuse)
    monkeypatch.setattr(reward_signal, "measure", refuse)
    assert mutual.main([*boxes, "--only", "score"]) == 0
    assert numbers_of(boxed)["numbers"] == first
    with pytest.raises(AssertionError, match="scored again"):
        mutual.main([*boxes, "--only", "score", "--beams", "2"])


def test_boxes_that_are_not_trained_are_named(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["boxes", "--real", str(real), "--folder", str(tmp_path), "--out", str(tmp_path)]
    assert mutual.main([*words, "--only", "score"]) == 2
    assert "not trained yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- scenes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, small_world: None) -> list[str]:
    folder = tmp_path_factory.mktemp("scenes")
    words = ["--folder", str(folder / "runs"), "--out", str(folder / "out")]
    return [*words, "--limit", str(LIMIT)]


@pytest.fixture(scope="module")
def ablated(scenes: list[str]) -> Path:
    """The table "written" and what it has trained."""
    words = ["ablation", *scenes, "--table", "written", "--variants", RANDOM, AREA, PEOPLE]
    words += ["--seeds", "0", "--share", str(SHARE), "--steps", "2", "--reward-steps", "1"]
    words += ["--judge-steps", "2"]
    assert mutual.main([*words, *settings(PIXELS)]) == 0
    return Path(scenes[3])


def test_written_shares_steps_1_and_2_and_counts_what_it_used(ablated: Path) -> None:
    runs = ablated.parent / "runs" / "written"
    people, area, random = (
        runs / f"share50-{slug(one)}-seed0-steps2" for one in (PEOPLE, AREA, RANDOM)
    )
    assert (people / "disambiguate" / "model").is_dir()
    assert {one.name for one in area.iterdir()} >= {"retrain", "model"}
    assert not (area / "train").exists()
    human = open_data("scenes", "train", Labels.parse("text"), view="ref")
    limit = round(SHARE * len(human))
    assert all(recipe_of(run)["data"]["limit"] == limit for run in (people, area, random))
    # Twin of what is written about: train's objects, without those of the refs that are kept.
    rows, records = set(subset(len(human), limit, 0)), human.records
    away = {human.entry(row).ref_row for row in range(len(human)) if row not in rows}
    known = {
        ann for row, ref in enumerate(records.refs()) if row not in away for ann in ref.ann_rows
    }
    pictures = {human.entry(row).image_row for row in range(len(human))}
    image_row = records.column("annotations", "image_row").tolist()
    objects = sum(image in pictures and ann not in known for ann, image in enumerate(image_row))
    written = {row["variant"]: row for row in _of(ablated, "written")["written"]}
    assert written[PEOPLE]["objects"] == 0
    assert written[AREA]["objects"] == written[RANDOM]["objects"] == objects
    assert written[AREA]["known refs"] == len(rows)
    assert recipe_of(random)["pseudo"]["filter"] == f"random:{written[AREA]['objects']}"


def test_written_has_rows_in_order_and_differences(ablated: Path) -> None:
    found = _of(ablated, "written")
    assert [row["variant"] for row in found["rows"]] == [PEOPLE, AREA, RANDOM]
    assert found["share"] == SHARE
    pairs = {(row["of"], row["over"]) for row in found["differences"]}
    assert pairs == {(AREA, PEOPLE), (RANDOM, PEOPLE), (AREA, RANDOM)}
    for run in found["runs"]:
        assert set(run["values"]) == set(MEASURES)
        assert None not in run["values"].values()
    assert found["judge"]["seed"] == mutual_ablation.JUDGE_SEED


def test_a_model_that_only_reads_has_no_score_for_writing(ablated: Path, scenes: list[str]) -> None:
    runs = ablated.parent / "runs"
    words = ["ablation", *scenes, "--variants", "reads only", "writes only", "whole"]
    words += ["--seeds", "0", "--steps", "2", "--judge", str(next(runs.glob("judge*")))]
    assert mutual.main([*words, *settings(PIXELS)]) == 0
    found = _of(ablated, "parts")
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == ["whole", "reads only", "writes only"]
    assert rows["reads only"]["CIDEr"] is None
    assert rows["reads only"]["oracle"] is not None
    assert rows["writes only"]["mIoU"] is None
    assert rows["writes only"]["Rb-Acc"] is not None
    told = {(row["over"], row["measure"]) for row in found["differences"]}
    assert ("reads only", "mIoU") in told
    assert ("reads only", "CIDEr") not in told


def test_scenes_has_every_split_and_every_step(ablated: Path, scenes: list[str]) -> None:
    runs = ablated.parent / "runs"
    run = runs / "written" / f"share50-{slug(PEOPLE)}-seed0-steps2"
    words = ["scenes", *scenes, "--model", str(run / "model"), "--run", str(run)]
    assert mutual.main([*words, "--judge", str(next(runs.glob("judge*")))]) == 0
    record = numbers_of(ablated / "mutual_scenes.json")
    found = record["numbers"]
    splits = {(style, split) for style in STYLES for split in ("val", "testA", "testB")}
    assert {(row["data"], row["split"]) for row in found["reports"]} == splits
    assert all("oracle" in row["metrics"] for row in found["reports"])
    assert {(row["data"], row["split"]) for row in found["expressions"]} == splits
    assert all("unambiguous" in row["metrics"] for row in found["expressions"])
    assert [row["step"][:6] for row in found["steps"]] == ["step 1"] * 4 + ["step 2"] * 4
    assert [row["beams"] for row in found["steps"]] == [1, 3] * 4
    compared = {(row["data"], row["beams"], row["measure"]) for row in found["differences"]}
    assert len(compared) == len(found["differences"]) == 2 * 2 * 4
    assert not any("samples" in row for rows in found.values() for row in rows)
    assert record["model"]["sha256"] == sha256_file(run / "model" / "model.safetensors")[:16]
    assert not (run / "model" / "scores").exists()  # what may be bundled stays as it is


def test_the_model_before_step_2_is_no_judge(
    ablated: Path, scenes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ablated.parent / "runs" / "written" / f"share50-{slug(PEOPLE)}-seed0-steps2"
    words = ["scenes", *scenes, "--out", str(tmp_path), "--model", str(run / "disambiguate/model")]
    assert mutual.main([*words, "--judge", str(run / "train")]) == 2
    assert "no independent judge" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _of(out: Path, table: str) -> dict[str, Any]:
    found: dict[str, Any] = numbers_of(out / f"mutual_ablation-{table}.json")["numbers"]
    return found


# -- the page --------------------------------------------------------------------------------------


def test_the_page_tells_all_of_it(boxed: Path, ablated: Path, tmp_path: Path) -> None:
    for path in (boxed, *ablated.glob("*.json")):
        shutil.copy(path, tmp_path)
    told = ["--results", str(tmp_path), "--figures", str(tmp_path / "figures")]
    assert results.main([*told, "--page", str(tmp_path / "results.md")]) == 0
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "No picture was looked at" in page
    for name in ("boxes", *(path.stem.removeprefix("mutual_") for path in ablated.glob("*.json"))):
        assert f"`{results.COMMANDS[f'mutual_{name}']}`" not in page, "told as not run"
    for picture in re.findall(r"\]\((figures/mutual[^)]*)\)", page):
        assert (tmp_path / picture).stat().st_size > 1000
    for line in page.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) > 2
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    for one in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in one.splitlines()}
        assert len(widths) == 1, one


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["boxes", "--real", "nowhere"], "no such folder"),
        (["boxes", "--real", "REAL", "--sets", "refcocog"], "unknown data set"),
        (["boxes", "--real", "REAL", "--runs", "judge"], "unknown run"),
        (["boxes", "--real", "REAL", "--set", "train.lrr=1"], "unknown key"),
        (["boxes", "--real", "REAL", "--never", "nowhere.txt"], "nowhere.txt"),
        (["ablation", "--variants", "hole"], "unknown variant"),
        (["ablation", "--table", "written", "--variants", PEOPLE, RANDOM], "name both"),
        (["ablation", "--table", "written", "--share", "0"], "share"),
        (["ablation", "--seeds", "100"], "judge's"),
        (["ablation", "--set", "train.lrr=1"], "unknown key"),
        (["scenes", "--model", "mutual-scene", "--judge", "."], "unknown model"),
    ],
)
def test_bad_input_is_told_in_a_line(
    words: list[str], told: str, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--out", str(tmp_path), "--folder", str(tmp_path / "runs")]
    asked = [str(real) if word == "REAL" else word for word in words]
    assert mutual.main([*asked, *places]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_there_is_a_command_for_every_section() -> None:
    assert set(results.SECTIONS) <= set(results.COMMANDS)
    assert RESULTS.is_dir()
