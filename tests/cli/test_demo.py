"""`refseg demo`: the main job on the small world."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from refseg import models
from refseg.data.catalog import find_folder, open_data
from refseg.data.scenes.model import Scene, SceneObject
from refseg.demo import (
    LABELS,
    WrittenRow,
    demo_world,
    meaning,
    scene_of,
    scored_split,
    show_scenes,
    write_about,
)
from refseg.describe import describe
from refseg.meaning import meaning as judged
from refseg.predict import load
from tests.cli.conftest import Run, files_below, refused
from tests.methods.toy import toy_model


@pytest.fixture(autouse=True)
def writer(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy that writes, beside the one that segments."""
    shelf = tmp_path / "shelf"
    shutil.copytree(bundle, shelf)
    models.save(shelf / "mutual-scenes", toy_model("mutual"))
    monkeypatch.setattr(models, "BUNDLED", shelf)


def thing(number: int, kind: str, colour: str, pattern: str, x: float) -> SceneObject:
    return SceneObject(
        number, kind, colour, "small", "matte", pattern, (x, 0.0, 4.0), 0.5, 0.0,
        area=100, box_xyxy=(x, 40.0, x + 10, 50.0), centre_xy=(x + 5, 45.0), depth=4.0,
    )  # fmt: skip


def test_the_oracle_names_the_referent() -> None:
    scene = Scene(
        (96, 128),
        (thing(0, "ball", "red", "plain", 10.0), thing(1, "cube", "blue", "striped", 90.0)),
    )
    assert meaning("red ball", scene) == "small red matte ball"
    assert meaning("the blue cube", scene) == "small blue matte striped cube"


def test_scored_are_whole_images() -> None:
    world = demo_world()
    data, limit = scored_split(world, 1)
    assert limit == len(data.groups_by_image()[0])
    assert scored_split(world, 10_000)[1] == len(data)


def test_the_page_and_pictures(run: Run, sandbox: Path) -> None:
    result = run("demo", "--out", "d", "--images", "1", "--json")
    told = json.loads(result.stdout)
    assert told["page"] == "d/index.html"
    page = Path("d/index.html").read_text()
    assert page.count("data:image/png;base64,") == len(told["pictures"])
    assert not re.search(r"<script|<link|https?://", page)
    assert files_below(sandbox) == sorted(["d", "d/index.html", *told["pictures"]])
    for row in told["rows"]:
        assert set(row) == {"expression", "referent", "iou", "ms"}
        assert row["referent"]
    for row in told["written"]:
        named = {"picture", "described", "iou", "expression", "refers_back", "margin", "means"}
        assert set(row) == named
        assert row["expression"] in page
    assert len(told["written"]) == 2 * len(told["pictures"])
    models = [score["model"] for score in told["scores"]]
    assert models[0] == models[1] == "vega-scenes"
    assert sum(name.startswith("baseline:") for name in models) == 3


def test_what_is_written_belongs_to_its_object() -> None:
    """Asked again one object at a time, and judged by the scene itself."""
    world = demo_world()
    writer = load("mutual-scenes", "cpu")
    shown = list(show_scenes(load("vega-scenes", "cpu"), world, 2))
    rows = write_about(writer, world, shown)
    expected = []
    for one in shown:
        picture = open_data(world / one.style, "val", LABELS, objects=True).picture(one.image_row)
        assert picture.objects is not None
        assert picture.objects.masks is not None
        scene = scene_of(world, picture.image_id)
        by_id = dict(zip(sorted(picture.objects.ann_ids.tolist()), scene.objects, strict=True))
        ids = picture.objects.ann_ids.tolist()
        sizes = [int(mask.sum()) for mask in picture.objects.masks]
        for row in sorted(range(len(ids)), key=lambda row: -sizes[row])[:2]:
            thing = by_id[ids[row]]
            (told,) = describe(writer, [picture], [(0, row)], beams=5, verify=True)
            (best,) = told.expressions
            means = judged(best.text, scene, thing.object_id)
            expected.append(
                (one.name, thing.kind, told.iou, best.text, best.refers_back, best.margin, means)
            )
    assert len(expected) == 4
    for row, (name, kind, iou, *rest) in zip(rows, expected, strict=True):
        assert (row.picture, row.described.split()[-1]) == (name, kind)
        assert row.iou == pytest.approx(iou, abs=1e-4)
        text, back, margin, means = rest
        assert (row.expression, row.refers_back, row.means) == (text, back, means)
        assert row.margin == pytest.approx(margin, abs=1e-4)


@pytest.mark.parametrize(("iou", "told"), [(0.5, "50"), (0.499, "50 (poor)"), (0.0, "0 (poor)")])
def test_a_poor_fit_is_marked(iou: float, told: str) -> None:
    assert WrittenRow("p", "red ball", iou, "ball", True, 0.5, "unambiguous").fit == told


def test_without_a_writer_nothing_is_written(run: Run, bundle: Path) -> None:
    shutil.rmtree(models.BUNDLED / "mutual-scenes")
    result = run("demo", "--out", "d", "--images", "1", "--json")
    assert json.loads(result.stdout)["written"] == []
    assert "mutual-scenes is not in this installation" in result.stderr
    assert "Written expressions" not in Path("d/index.html").read_text()


def test_referents_are_those_of_the_data(run: Run) -> None:
    """What the oracle says is what the annotation says, kind by kind."""
    data = open_data("scenes", "val", LABELS)
    entry = data.entry(0)
    scene = scene_of(find_folder("scenes").parent, entry.image_id)
    category = data.records.annotation(data.records.ann_rows(entry.ref_row)[0]).category
    assert meaning(entry.text, scene).split()[-1] == category


def test_tables_are_shown(run: Run) -> None:
    result = run("demo", "--images", "1")
    for words in (
        "expression",
        "referent",
        "IoU %",
        "mIoU",
        "largest-object",
        "refers back",
        "demo/index.html",
    ):
        assert words in result.stdout


@pytest.mark.parametrize("words", [("--model", "vega-scene"), ("--images", "0")])
def test_bad_input(run: Run, sandbox: Path, words: tuple[str, str]) -> None:
    refused(run("demo", *words), words[1], "->")
    assert files_below(sandbox) == []
