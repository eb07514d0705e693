"""`refseg report` about runs of several stages and of methods that learn from texts alone."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg import models
from refseg.data.catalog import open_data
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.opening import open_split, open_to_show
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from refseg.recipes.provenance import read_recipe
from refseg.recipes.runner import run_recipe
from refseg.recipes.tris_rules import ORDER
from refseg.recipes.tris_select import Selected
from refseg.steps import Steps, spread, steps_of_run
from refseg.types import Labels
from tests.cli.conftest import Run, files_below, refused
from tests.recipes.sag_small import small_bert, small_sag, small_vit
from tests.recipes.tris_small import small_pair, small_tris
from tests.worlds import WORLD_IMAGES

#: What a row shows once a stage is finished.
SHOWN = {
    "respond": ["step 1, this sentence"],
    "select": ["PRMS: "],
    "edges": ["edges", "walked"],
    "refine": ["pseudo mask"],
    "segment": ["step 2"],
}
WORLD = Path("scenes")


@pytest.fixture(scope="module", autouse=True)
def _small_world(cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(cache))
        patch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))
        yield


@pytest.fixture(scope="module")
def tris(_small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of TRIS, of two steps a stage."""
    folder = tmp_path_factory.mktemp("tris")
    pair = run_encoder(small_pair(WORLD), folder / "pair", progress="none")
    run_recipe(small_tris(WORLD, pair), folder / "texts", progress="none")
    return folder / "texts"


@pytest.fixture(scope="module")
def sag(_small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sag")
    vit = run_encoder(small_vit(WORLD), folder / "vit", progress="none")
    bert = run_encoder(small_bert(WORLD), folder / "bert", progress="none")
    run_recipe(small_sag(WORLD, vit, bert), folder / "gathered", progress="none")
    return folder / "gathered"


@pytest.fixture
def page(run: Run) -> Any:
    """page(folder, ...) -> what is printed as JSON, and the page."""

    def made(*words: Any) -> tuple[dict[str, Any], str]:
        result = run("report", *words, "--limit", "4", "--protocol", "original", "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        return told, Path(told["page"]).read_text()

    return made


def recipe_of(folder: Path) -> Recipe:
    recipe = read_recipe(folder / "recipe.json")
    assert isinstance(recipe, Recipe)
    return recipe


def part_way(run: Path, done: int, folder: Path) -> Path:
    """A copy of a run in which only so many stages are finished."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "model")
    for name in ORDER[done:]:
        shutil.rmtree(folder / name)
    return folder


def captions(html: str) -> list[str]:
    return [unescape(one) for one in re.findall("<figcaption>(.*?)</figcaption>", html, re.S)]


def rows_of(page: str) -> list[list[str]]:
    """The captions of each row of steps."""
    return [captions(row) for row in re.findall(r'<div class="row">(.*?)</div>', page, re.S)]


def stages_of(page: str) -> dict[str, str]:
    """Stage -> what the summary says of its score."""
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    lines = [re.findall("<td[^>]*>(.*?)</td>", line) for line in table.split("</tr>")[:-1]]
    return {cells[4]: cells[-1] for cells in lines}


def named(row: list[str]) -> list[str]:
    """The captions without what differs from row to row."""
    return [re.sub(r" \(IoU .*|(?<=PRMS: ).*", "", one) for one in row[1:]]


# -- what is shown -------------------------------------------------------------------------------


def test_a_run_of_tris_has_curves_scores_and_rows(page: Any, tris: Path) -> None:
    told, html = page(tris)
    assert [score["model"] for score in told["scores"]] == ["texts (respond)", "texts (segment)"]
    assert all(score["labels"].startswith("text") for score in told["scores"])
    assert stages_of(html) == {
        "respond": "yes",
        "select": "leaves no model",
        "edges": "leaves no model",
        "refine": "leaves no model",
        "segment": "yes",
    }
    curves = html.split("<h2>Curves</h2>")[1].split("<h2>")[0]
    assert curves.count("<img") == 5  # three losses and, of both steps, the calibrator's margin
    for heading in ("texts (segment): worst", "texts: step by step"):
        assert f"<h2>{heading}</h2>" in html
    assert "texts (respond): worst" not in html
    rows = rows_of(html)
    assert len(rows) == 6
    for row in rows:
        assert named(row) == [*(one for part in SHOWN.values() for one in part), "truth"]
    data = open_data("scenes", "train", Labels())
    assert {row[0] for row in rows} <= {data.entry(n).text for n in range(len(data))}


@pytest.mark.parametrize("done", range(len(ORDER)))
def test_steps_that_are_not_there_yet_are_left_out(tris: Path, done: int, tmp_path: Path) -> None:
    folder = part_way(tris, done, tmp_path / "run")
    rows = steps_of_run(folder, recipe_of(folder), 2)
    assert len(rows) == (2 if done else 0)
    for row in rows:
        expected = [one for name in ORDER[:done] for one in SHOWN[name]]
        assert named([panel.text for panel in row.panels()]) == [*expected, "truth"]


def test_a_run_that_is_going_on_has_a_page(page: Any, tris: Path, sandbox: Path) -> None:
    folder = part_way(tris, 2, sandbox / "going")
    (folder / "edges").mkdir()
    shutil.copy(tris / "edges" / "log.jsonl", folder / "edges")
    told, html = page(folder)
    assert [score["model"] for score in told["scores"]] == ["going (respond)"]
    assert stages_of(html)["edges"] == stages_of(html)["segment"] == "not finished yet"
    assert "going (respond): worst" in html, "the last model there is"
    assert html.split("<h2>Curves</h2>")[1].split("<h2>")[0].count("<img") == 3
    assert {tuple(named(row)) for row in rows_of(html)} == {
        ("step 1, this sentence", "PRMS: ", "truth")
    }


def test_a_run_of_sag_shows_entities(page: Any, sag: Path) -> None:
    told, html = page(sag)
    assert [score["model"] for score in told["scores"]] == ["gathered"]
    inner = re.findall(r"<details>.*?</details>", html, re.S)
    assert len(inner) == 12
    for one in inner:
        assert captions(one) == [
            "response", "relevance", "entity 1", "entity 2", "entity 3",
            "entities, a colour a group",
        ]  # fmt: skip
    assert "step by step" not in html
    sizes = [len(base64.b64decode(png)) for png in re.findall(r"base64,([^\"]*)", html)]
    assert max(sizes) < 640 * 640
    assert len(html) < 4_000_000


def test_runs_of_several_kinds_stand_beside_each_other(page: Any, tris: Path, sag: Path) -> None:
    told, html = page(tris, sag)
    names = [score["model"] for score in told["scores"]]
    assert names == ["texts (respond)", "texts (segment)", "gathered"]
    curves = html.split("<h2>Curves</h2>")[1].split("<h2>")[0]
    assert curves.count("<img") == 6  # one of the stage "train" more
    assert len(rows_of(html)) == 6


# -- rows are what the run has made --------------------------------------------------------------


@pytest.fixture
def rows(tris: Path) -> list[Steps]:
    return steps_of_run(tris, recipe_of(tris), 3)


def test_masks_are_those_of_people_of_the_data_set_and_of_the_model(
    tris: Path, rows: list[Steps]
) -> None:
    people = open_data("scenes", "train", Labels.parse("text+mask"))
    made = open_data(tris / "refine" / "data", "train", Labels.parse("text+mask"))
    by = {
        name: {(s.image_id, s.text): s.mask for s in (data[n] for n in range(len(data)))}
        for name, data in (("truth", people), ("pseudo mask", made))
    }
    model = models.load(tris / "model")
    for row in rows:
        key, panels = (row.sample.image_id, row.sample.text), {p.text: p for p in row.panels()}
        by["step 2"] = {key: model.predict([row.sample])[0].mask}
        truth = by["truth"][key]
        assert truth is not None
        for name, masks in by.items():
            mask = masks.get(key, np.zeros_like(truth))
            assert mask is not None
            np.testing.assert_array_equal(panels[name].mask, mask)
            if name != "truth":
                expected = (mask & truth).sum() / (mask | truth).sum()
                assert panels[name].iou == pytest.approx(expected)


def test_maps_are_what_select_has_kept(tris: Path, rows: list[Steps]) -> None:
    recipe, selected = recipe_of(tris), Selected.read(tris / "select")
    data = open_data("scenes", "train", Labels())
    entries = [data.entry(n) for n in range(len(data))]
    for row in rows:
        ref, hw = row.sample.ref_id, row.sample.image.shape
        texts = [one.text for one in entries if one.ref_id == ref]
        assert row.kept == texts[selected.sentence[selected.row_of[ref]]]
        geometry = recipe.preprocess.geometry((hw[0], hw[1]))
        np.testing.assert_array_equal(row.prms, selected.in_px(ref, geometry))
        assert row.own is not None
        if row.kept == row.sample.text:
            np.testing.assert_allclose(row.own, row.prms, atol=1e-4)
        for one in (row.own, row.edges, row.walked):
            assert one is not None
            assert one.shape == hw[:2]
            assert 0 <= one.min() <= one.max() <= 1


def test_rows_are_about_what_was_learned_from(tris: Path, tmp_path: Path) -> None:
    """With `data.limit` few refs have a map: the others are not looked for."""
    folder = part_way(tris, 2, tmp_path / "run")
    whole = Selected.read(folder / "select")
    few = [0, len(whole.ref_ids) // 2, len(whole.ref_ids) - 1]
    picked = {
        name: [getattr(whole, name)[n] for n in few] for name in ("ref_ids", "sentence", "scores")
    }
    replace(whole, maps=np.array(whole.maps)[few], **picked).write(folder / "select")
    found = {row.sample.ref_id for row in steps_of_run(folder, recipe_of(folder), 6)}
    assert found
    assert found <= set(picked["ref_ids"])


@pytest.mark.parametrize(("groups", "count"), [(60, 6), (7, 3), (2, 6), (0, 6)])
def test_rows_lie_evenly_among_the_pictures(groups: int, count: int) -> None:
    every = [[n] for n in range(groups)]
    found = [n for (n,) in spread(every, count)]
    assert len(found) == min(groups, count)
    if groups > count:
        assert set(np.diff(found)) == {groups // count}


# -- what is opened ------------------------------------------------------------------------------


def test_what_is_scored_has_all_masks_whatever_was_granted() -> None:
    granted = ["data.labels=text+box+mask", "data.mask_share=0.1", "select=null"]
    few = apply_overrides(get_recipe("vega_scenes"), ["data.name=scenes", *granted])
    texts = apply_overrides(get_recipe("sag_scenes"), ["data.name=scenes"])
    for recipe in (few, texts):
        for split in ("train", "val"):
            shown = open_to_show(recipe, split)
            assert str(shown.labels) == "text+box+mask"
            assert len(shown) == len(open_data("scenes", split, Labels()))
            assert shown[0].mask is not None
    assert not open_split(few, "val").labels.allows("mask")
    assert len(open_split(few, "train")) < len(open_to_show(few, "train"))


# -- data without masks --------------------------------------------------------------------------


@pytest.fixture
def captioned(tris: Path, sandbox: Path) -> Path:
    """Step 1 as if it had learned from pictures and captions, which is all there is."""
    photos = sandbox / "photos"
    (photos / "images").mkdir(parents=True)
    lines = ["image,text,split"]
    for number in range(4):
        pixels = np.full((48, 60 + number, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(photos / "images" / f"{number}.png")
        split = "val" if number == 3 else "train"
        lines += [f"{number}.png,the {name},{split}" for name in ("red ball", "cup")]
    (photos / "captions.csv").write_text("\n".join(lines) + "\n")
    folder = part_way(tris, 1, sandbox / "captioned")
    recipe = apply_overrides(recipe_of(folder), [f"data.name={photos}"])
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    return folder


def test_without_masks_there_is_no_score_and_no_truth(page: Any, captioned: Path) -> None:
    told, html = page(captioned)
    assert told["scores"] == []
    assert stages_of(html)["respond"] == "no masks to score by"
    assert "Scores" not in html
    assert rows_of(html) == [["the red ball", "step 1, this sentence"]] * 3


# -- what is broken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("respond/model/config.json", "{", "config.json"),
        ("respond/manifest.json", '{"inputs"', "broken"),
        ("select/maps.npy", "no numbers", "broken maps in"),
        ("select/refs.json", None, "broken maps in"),
        ("edges/net.safetensors", "torn", "cannot read weights"),
        ("edges/net.safetensors", None, "no weights at"),
        ("refine/data/instances.json", "{}", "instances.json"),
        ("refine/data", None, "refine/data"),
        ("segment/model/model.safetensors", "torn", "model.safetensors"),
    ],
)
def test_a_broken_stage_is_told_before_anything_is_scored(
    run: Run, tris: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch,
    file: str, text: str | None, told: str,
) -> None:  # fmt: skip
    folder = sandbox / "broken"
    shutil.copytree(tris, folder)
    path = folder / file
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
        if text is not None:
            path.write_text(text)
    monkeypatch.setattr("refseg.evaluate.evaluate_all", None)
    before = files_below(sandbox)
    refused(run("report", folder), told, "->")
    assert files_below(sandbox) == before
