"""The studies of TRIS whole, at a size for tests: what they measure, draw and tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refseg import steps
from refseg.methods.tris.refine import RefineSettings, refine
from refseg.recipes.base import Recipe
from refseg.recipes.tris_select import Selected
from studies import (
    command,
    results,
    tris,
    tris_labels,
    tris_page,
    tris_pictures,
    tris_runs,
    tris_steps,
    weak,
)
from studies.tris_runs import PAPER, REFSEG, Asked
from tests.studies.tris_asked import small_asked

pytestmark = pytest.mark.usefixtures("small_world")

PICTURES = 3


@pytest.fixture(scope="module")
def asked(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with small_asked(tmp_path_factory.mktemp("tris")) as asked:
        yield asked


@pytest.fixture(scope="module")
def numbers(asked: Asked) -> dict[str, Any]:
    return through_json(tris_steps.run(asked, pictures=PICTURES).numbers)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def finished(asked: Asked) -> tuple[Path, Recipe]:
    """The run of the preset refseg, which `numbers` has left."""
    return tris_runs.whole_folder(asked, REFSEG, 0), tris_runs.whole_recipe(asked, REFSEG, 0)


# -- steps ---------------------------------------------------------------------------------------


def test_every_step_stands_beside_what_needs_no_training(numbers: dict[str, Any]) -> None:
    found = {(row["preset"], row["step"], row["on"]) for row in numbers["rows"]}
    free = ("whole-image", "centre-disc", "saliency", "maskclip")
    models, labels = ("step 1", "step 2", "student"), (
        "first", "first sure", "prms", "prms sure", "refined"
    )  # fmt: skip
    assert found == {
        *((None, name, on) for name in free for on in ("val", "train")),
        *((preset, name, "val") for preset in (REFSEG, PAPER) for name in models),
        *((preset, name, "train") for preset in (REFSEG, PAPER) for name in labels),
    }
    for row in numbers["summary"]:
        points = row["step"] not in ("whole-image", "centre-disc", "refined")
        assert (row["PointIt"] is not None) == points
        assert 0 <= row["mIoU"] <= 1
    assert numbers["world"] == "scenes"


def test_claims_are_differences_of_rows(numbers: dict[str, Any]) -> None:
    by = {(row["preset"], row["step"], row["on"]): row for row in numbers["summary"]}
    claims = {row["claim"] for row in numbers["differences"]}
    assert claims == {"", "D1", "D2", "D4"}
    for row in numbers["differences"]:
        (of, over), measure = (
            (_key(row[side], row["on"]) for side in ("of", "over")),
            row["measure"],
        )
        expected = by[of][measure] - by[over][measure]
        assert row["difference"] == pytest.approx(expected)
        assert row["verdict"] == "inconclusive"  # one seed


def _key(side: str, on: str) -> tuple[str | None, str, str]:
    preset, colon, step = side.partition(": ")
    return (preset, step, on) if colon else (None, side, on)


def test_the_page_takes_the_steps(numbers: dict[str, Any]) -> None:
    told = tris_page.steps(numbers)
    assert "after refinement | training pictures | `paper`" in told["table"]
    assert "MaskCLIP-style map of the encoder | scenes val | - | -" in told["table"]
    assert (
        "| D2 | step 2 (`refseg`) | step 1 (`refseg`) | scenes val | PointIt | 1 |"
        in (told["differences"])
    )


def test_labels_are_measured_as_a_loop_does(asked: Asked, numbers: dict[str, Any]) -> None:
    """Every sentence counts, by its ref's mask; what is refined away is wrong."""
    folder, recipe = finished(asked)
    data = tris_labels.training_pictures(recipe, PICTURES)
    assert len(data.groups_by_image()) == PICTURES
    selected = Selected.read(folder / "select")
    made = tris_labels.MaskAnswers.read(folder / "refine" / "data", "train")
    ious: dict[str, list[float]] = {"prms": [], "prms sure": [], "refined": []}
    for sample in (data[row] for row in range(len(data))):
        geometry = recipe.preprocess.geometry(tris_labels.hw_of(sample))
        response = selected.in_px(sample.ref_id, geometry)
        row = made.row_of.get(sample.ref_id)
        masks = {
            "prms": response > 1e-9,
            "prms sure": response > 0.3,
            "refined": np.zeros(response.shape, bool) if row is None else made.made[row].mask,
        }
        assert sample.mask is not None
        for name, mask in masks.items():
            assert mask is not None
            ious[name].append((mask & sample.mask).sum() / (mask | sample.mask).sum())
    told = {
        row["step"]: row["scores"]["original"]
        for row in numbers["rows"]
        if row["preset"] == REFSEG and row["on"] == "train"
    }
    for name, values in ious.items():
        assert told[name]["n"] == len(data)
        assert told[name]["metrics"]["mIoU"] == pytest.approx(np.mean(values))


def test_a_ref_without_a_mask_is_wrong(asked: Asked, numbers: dict[str, Any]) -> None:
    folder, recipe = finished(asked)
    made = tris_labels.MaskAnswers.read(folder / "refine" / "data", "train")
    data = tris_labels.training_pictures(recipe, PICTURES)
    assert not replace(made, row_of={}).mask(data[0]).any()
    found = weak.scored(replace(made, row_of={}), data, ("original",))
    assert found["original"]["metrics"]["mIoU"] == 0


def test_before_prms_stands_the_first_sentence(asked: Asked, numbers: dict[str, Any]) -> None:
    folder, recipe = finished(asked)
    data = tris_labels.training_pictures(recipe, PICTURES)
    first, *_ = tris_labels.answers(folder, recipe, data)
    assert isinstance(first, tris_labels.MapAnswers)
    sample = data[data.groups_by_image()[0][0]]
    own = steps.own_map(weak.stage(folder, "respond").load(), sample)
    np.testing.assert_allclose(first.predict([sample])[0].response, own, atol=1e-4)


def test_scores_are_kept(
    asked: Asked, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(weak, "evaluate_all", refuse)
    monkeypatch.setattr(tris_steps, "untrained", lambda *_: numbers["rows"][:8])
    again = tris_steps.run(asked, pictures=PICTURES).numbers
    assert through_json(again) == numbers


def test_texts_are_filled(numbers: dict[str, Any]) -> None:
    values = {**tris_page.steps(numbers), "made": "", "pictures": ""}
    assert "$" not in results._text("tris_steps", values)


# -- pictures ------------------------------------------------------------------------------------


def test_pictures(
    asked: Asked, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tris_pictures, "AMONG", 4)
    monkeypatch.setattr(tris_pictures, "ROWS", 2)
    monkeypatch.setattr(command, "FIGURES", tmp_path / "figures")
    places = ["--folder", str(asked.folder), "--out", str(tmp_path)]
    assert tris.main(["pictures", "--pair", asked.pair, *places]) == 0
    record = json.loads((tmp_path / "tris_pictures.json").read_text())
    assert (tmp_path / "figures" / "tris-steps.png").read_bytes().startswith(b"\x89PNG")
    assert set(record["pictures"]) <= set(results.PICTURES)
    assert len(record["numbers"]["rows"]) == record["numbers"]["n"] == 2
    assert tris_page.pictures(record["numbers"]) == {"n": "2", "among": "4"}
    assert "scenes train" in record["data"]


def test_a_row_shows_what_the_run_has_left(asked: Asked, numbers: dict[str, Any]) -> None:
    folder, recipe = finished(asked)
    data = tris_labels.training_pictures(recipe, PICTURES)
    parts = steps.Parts.read(folder, recipe)
    for group in data.groups_by_image():
        row = steps.steps_of(parts, data, group)
        assert len(tris_pictures.cells(row)) == 8
        assert tris_pictures.told(row)["text"] == data.entry(group[0]).text
        cut = row.walked > tris_runs.part_of(recipe).refine.background
        np.testing.assert_array_equal(cut, row.pseudo)
        for one in (row.own, row.prms, row.edges, row.walked):
            assert one.shape == row.pseudo.shape
            assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize("split", [True, False])
def test_the_walked_map_is_what_the_mask_is_cut_from(split: bool) -> None:
    rng = np.random.default_rng(0)
    response, edge = rng.random((30, 42), np.float32), rng.random((8, 11), np.float32) * 0.9
    displacement = rng.normal(size=(2, 8, 11)).astype(np.float32) * 3
    settings = RefineSettings(steps=4, follow=3, split=split)
    walked = steps.walked_map(response, edge, displacement, settings)
    (found,) = refine(response[None], edge, displacement, settings, (30, 42))
    np.testing.assert_array_equal(walked > settings.background, found.mask)
    assert found.mask.any()
    assert not steps.walked_map(0 * response, edge, displacement, settings).any()
