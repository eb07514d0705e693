"""The studies of Shatter and Gather whole, at a size for tests: the table and the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg.data.catalog import open_data
from refseg.errors import ConfigError, ModelError, UnknownName
from refseg.recipes.building import build
from refseg.recipes.pretrain import run_encoder
from refseg.types import Labels
from studies import (
    charts,
    command,
    results,
    sag,
    sag_page,
    sag_pictures,
    sag_runs,
    sag_table,
    weak,
)
from studies.base import open_scenes
from studies.sag_runs import BASE, Asked
from tests.recipes.tris_small import small_pair
from tests.studies.sag_asked import small_asked

pytestmark = pytest.mark.usefixtures("small_world")

NAMES = [
    "toy", "sag_scenes", "student of sag_scenes", "maskclip of pair", "saliency of pair",
    "saliency of vit", "whole-image", "centre-disc", "largest-object",
]  # fmt: skip


@pytest.fixture(scope="module")
def asked(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with small_asked(tmp_path_factory.mktemp("sag")) as asked:
        yield asked


@pytest.fixture(scope="module")
def pair(small_world: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoders") / "pair"
    return str(run_encoder(small_pair(Path("scenes")), folder, progress="none"))


@pytest.fixture(scope="module")
def numbers(asked: Asked, pair: str, toy: Path) -> dict[str, Any]:
    return through_json(sag_table.run(asked, [str(toy)], pair).numbers)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("made again")


# -- table ---------------------------------------------------------------------------------------


def test_all_stand_in_one_table(numbers: dict[str, Any], asked: Asked) -> None:
    rows = {row["name"]: row for row in numbers["summary"]}
    assert list(rows) == NAMES
    assert (numbers["missing"], numbers["pair"], numbers["vit"]) == ([], "pair", "vit")
    for row in rows.values():
        assert row["n"] == len(open_scenes("scenes", "val"))
        assert row["seeds"] == 1
        assert row["interval"] is not None
        assert 0 <= row["oIoU, sag"] <= 1
    told = {name: (row["method"], row["given"]) for name, row in rows.items()}
    assert told["toy"] == ("vega", 1.0)
    assert told["sag_scenes"] == ("sag", "words")
    assert told["student of sag_scenes"] == ("vega", "words")
    assert told["maskclip of pair"] == ("maskclip", "nothing")
    assert told["largest-object"] == ("-", None)  # it sees masks
    assert rows["sag_scenes"]["labels"] == (
        "text; encoders: vit (attributes of whole pictures), bert (text)"
    )
    assert rows["student of sag_scenes"]["labels"].startswith("masks of sag_scenes (text; ")


def test_rows_are_what_the_evaluator_says(
    numbers: dict[str, Any], asked: Asked, pair: str, toy: Path
) -> None:
    from refseg import models
    from refseg.baselines import make_baseline
    from refseg.convert import read_model

    data = open_scenes("scenes", "val")
    twins = {
        "toy": models.load(toy),
        "sag_scenes": models.load(asked.folder / "base-seed0" / "model"),
        "maskclip of pair": read_model(pair),
        "centre-disc": make_baseline("baseline:centre-disc", data),
    }
    rows = {row["name"]: row["scores"] for row in numbers["rows"]}
    samples = data.samples(range(len(data)))
    hidden = [replace(sample, mask=None, box_xyxy=None) for sample in samples]
    for name, twin in twins.items():
        ious = []
        for sample, found in zip(samples, twin.predict(hidden), strict=True):
            assert sample.mask is not None
            either = (found.mask | sample.mask).sum()
            ious.append((found.mask & sample.mask).sum() / either)
        metrics = rows[name]["original"]["metrics"]
        assert metrics["mIoU"] == pytest.approx(np.mean(ious), abs=1e-6), name
        assert metrics["Pr@0.5"] == pytest.approx(np.mean(np.array(ious) > 0.5)), name


def test_the_student_learned_from_the_bases_masks_as_long(
    numbers: dict[str, Any], asked: Asked
) -> None:
    folder = asked.folder / "masks-seed0"
    made = open_data(str(folder), "train", Labels.parse("text+mask"))
    base = sag_runs.trained(asked, BASE, 0).load()
    sample = made[len(made) // 2]
    (answer,) = base.predict([replace(sample, mask=None, box_xyxy=None)])
    assert sample.mask is not None
    assert (answer.mask != sample.mask).mean() < 1e-3  # alone, a pixel may round otherwise
    source = sag_runs.variant_recipe(asked, BASE, 0)
    assert len(made) == len(open_data(source.data.name, "train", Labels()))
    told = json.loads((asked.folder / "vega-base-seed0" / "recipe.json").read_text())
    recipe = told.get("recipe", told)
    assert recipe["data"]["name"] == str(folder)
    assert (recipe["select"], recipe["data"]["evaluate"]) == (None, None)
    for key in ("steps", "batch_size", "seed"):
        assert recipe["train"][key] == getattr(source.train, key)
    assert recipe["data"]["per_image"] == source.data.per_image


def test_differences_are_those_of_rows(numbers: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in numbers["summary"]}
    pairs = {(row["of"], row["over"]) for row in numbers["differences"]}
    assert pairs == {
        ("student of sag_scenes", "sag_scenes"),
        *(("sag_scenes", f"{name}") for name in NAMES[3:6]),
    }
    for row in numbers["differences"]:
        gap = rows[row["of"]][row["measure"]] - rows[row["over"]][row["measure"]]
        assert row["difference"] == pytest.approx(gap)
    claims = {row["claim"]: row["over"] for row in numbers["differences"]}
    assert claims["+23.2"] == "maskclip of pair"


def test_nothing_is_trained_or_scored_twice(
    asked: Asked, pair: str, toy: Path, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weak, "evaluate_all", refuse)
    again = sag_table.run(asked, [str(toy)], pair).numbers
    assert through_json(again) == numbers


def test_usual_models_that_are_not_here_are_told(
    asked: Asked, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ["tris-scenes", "vega-scenes", "clip-scenes"]

    def without(find: Any) -> Any:
        def found(name: str) -> Path:
            if name in absent:
                raise ModelError(f"{name} is not in this installation")
            path: Path = find(name)
            return path

        return found

    for name in ("find_model", "find_encoder"):
        monkeypatch.setattr(sag_table, name, without(getattr(sag_table, name)))
    found = sag_table.run(asked, absent[:2], "clip-scenes").numbers
    missing = ["tris-scenes", "vega-scenes", "maskclip of clip-scenes", "saliency of clip-scenes"]
    assert found["missing"] == missing
    assert not {row["name"] for row in found["rows"]} & set(missing)
    text = results._text("sag_table", {**sag_page.methods(found), "made": ""})
    assert "Not in this installation, and so not in the table: `tris-scenes`, `vega" in text


def test_what_was_named_must_be_there(asked: Asked, numbers: dict[str, Any], pair: str) -> None:
    for name, error in (("./nowhere", ModelError), ("vega-scene", UnknownName)):
        with pytest.raises(error):
            sag_table.run(asked, [name], pair)
    with pytest.raises(ModelError):
        sag_table.run(asked, [], "./nowhere")


def test_two_of_one_name_are_refused(
    asked: Asked, numbers: dict[str, Any], pair: str, toy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "toy"
    other.symlink_to(toy)
    with pytest.raises(ConfigError, match="would be called toy"):
        sag_table.run(asked, [str(toy), str(other)], pair)


def test_a_run_stands_under_its_name(asked: Asked, numbers: dict[str, Any]) -> None:
    run = asked.folder / "vega-base-seed0"
    (row,), missing = sag_table.named_models(asked, [str(run)])
    assert (row["name"], row["method"], missing) == ("vega-base-seed0", "vega", [])
    student = next(r for r in numbers["rows"] if r["name"] == "student of sag_scenes")
    assert row["sha256"] == student["sha256"]


@pytest.mark.parametrize(
    ("card", "came"),
    [
        ({"labels granted": "text", "labels used": "text; encoders: x (box)"}, "words"),
        ({"labels used": "text"}, "words"),
        ({"labels granted": "text+box"}, "boxes"),
        ({"labels granted": "text+mask+category"}, 1.0),
        ({"labels granted": "text+box+mask(7 refs)"}, None),  # nobody says of how many
        ({"labels granted": "text+mask(7 refs)", "command": "x --set data.mask_refs=y"}, None),
        (
            {
                "labels granted": "text+box+mask(7 refs)",
                "recipe": "partial_res_scenes",
                "command": "refseg train partial_res_scenes --out x",
            },
            0.01,
        ),
        (
            {
                "labels granted": "text+box+mask(7 refs)",
                "recipe": "partial_res_scenes",
                "command": "refseg train partial_res_scenes --set data.mask_share=0.05",
            },
            0.05,
        ),
    ],
)
def test_what_an_expression_came_with(card: dict[str, Any], came: str | float | None) -> None:
    assert sag_table.given(card) == came


def test_the_bundled_models_lie_where_they_learned() -> None:
    from refseg.models import find_model, read_model_file

    names = ("vega-scenes", "mutual-scenes", "partial-res-scenes", "seqtr-rec-scenes")
    cards = [read_model_file(find_model(name)).card for name in names]
    assert [sag_table.given(card) for card in cards] == [1.0, 1.0, 0.01, "boxes"]
    assert set(names) < set(sag_table.USUAL)


@torch.no_grad()
def test_the_vits_saliency_against_a_loop(asked: Asked, numbers: dict[str, Any]) -> None:
    answers = sag_table.vit_saliency(asked)
    assert answers.card["labels used"] == "attributes of whole pictures"
    model = build(sag_runs.variant_recipe(asked, BASE, 0), ())
    data = open_scenes("scenes", "val")
    samples = [data[row] for row in (0, 1, len(data) - 1)]
    batch = model.batch(samples, share_images=True)
    maps = sag_table.unlike_the_mean(model.method.eval(), batch)
    for row, image in enumerate(batch.image_of.tolist()):
        patches = model.method.vision(batch.images[image : image + 1])[0]
        mean = sum(patches[n] for n in range(len(patches))) / len(patches)
        away = [float(((patch - mean) ** 2).sum() ** 0.5) for patch in patches]
        np.testing.assert_allclose(maps[row].flatten(), away, rtol=1e-4)
    assert not torch.equal(maps[0], maps[2])
    for one in answers.predict(samples):
        assert one.response is not None
        assert (one.response.min(), one.response.max()) == (0, 1)


def test_the_chart_stands_beside_the_lines_where_there_are_any(
    numbers: dict[str, Any], tmp_path: Path
) -> None:
    shares = results.read(results.RESULTS / "partial_shares.json")
    assert shares is not None
    with_lines = charts.label_cost(numbers, shares["numbers"])
    alone = charts.label_cost(numbers, None)
    assert with_lines.startswith(b"\x89PNG")
    assert with_lines != alone
    (tmp_path / "sag_table.json").write_text(json.dumps({"numbers": numbers}))
    assert results.charts(tmp_path, tmp_path) == [tmp_path / "label-cost.png"]
    assert (tmp_path / "label-cost.png").read_bytes() == alone


# -- pictures ------------------------------------------------------------------------------------


def test_pictures(asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "FIGURES", tmp_path / "figures")
    words = ["pictures", "--folder", str(asked.folder), "--vit", asked.vit, "--text", asked.text]
    assert sag.main([*words, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "sag_pictures.json").read_text())
    assert (tmp_path / "figures" / "sag-entities.png").read_bytes().startswith(b"\x89PNG")
    assert set(record["pictures"]) <= set(results.PICTURES)
    assert record["command"] == "python -m studies.sag pictures --vit vit --text bert"
    assert str(asked.folder.parent) not in json.dumps(record)
    numbers = record["numbers"]
    assert len(numbers["rows"]) == numbers["n"] == 2  # the small world has no more pictures
    values = {**sag_page.pictures(numbers), "made": "", "pictures": ""}
    assert "2 expressions of val" in results._text("sag_pictures", values)


def test_a_row_shows_how_the_answer_came(asked: Asked) -> None:
    """Against the network's own A_fuse and A_slot, entity by entity."""
    data, model = open_scenes("scenes", "val"), sag_runs.trained(asked, BASE, 0).load()
    rows = sag_pictures.gathered(model, data, sag_pictures.chosen(data))
    for one in rows:
        batch = model.batch([one.sample])
        with torch.no_grad():
            outputs = model.method.eval()(batch)
        assert outputs.attention is not None
        fuse, slots = outputs.fuse[0, 0].numpy(), outputs.attention[0, 0].numpy()
        holder = slots.argmax(axis=0).reshape(outputs.hw)
        hw = one.sample.image.shape[:2]
        each = hw[0] // outputs.hw[0]
        groups = one.groups()
        for y in range(outputs.hw[0]):
            for x in range(outputs.hw[1]):
                cell = groups[y * each : (y + 1) * each, x * each : (x + 1) * each]
                assert set(cell.ravel().tolist()) == {holder[y, x] // 2}  # K_s is 2
        maps = one.maps()
        assert list(maps) == [name for name in sag_pictures.MAPS if name in maps]
        order = np.argsort(-fuse)
        told = {f"entity_{n}": slots[k] for n, k in enumerate(order[:3], 1)}
        told["response"] = sum(weight * slot for weight, slot in zip(fuse, slots, strict=True))
        told["relevance"] = fuse[holder].ravel()
        for name, values in told.items():
            np.testing.assert_allclose(
                maps[name], _in_px(values.reshape(outputs.hw), hw), atol=2e-3, err_msg=name
            )
        assert len(one.cells()) == 9
        np.testing.assert_array_equal(one.prediction.mask, maps["response"] >= 0.5)
        truth = one.sample.mask
        assert truth is not None
        both, either = one.prediction.mask & truth, one.prediction.mask | truth
        assert one.told()["IoU"] == pytest.approx(both.sum() / either.sum())
        assert one.told()["Gaussians seen"] == sorted(set((holder // 2).ravel().tolist()))


def _in_px(values: np.ndarray, hw: tuple[int, ...]) -> np.ndarray:
    big = torch.from_numpy(values)[None, None].float()
    big = torch.nn.functional.interpolate(big, hw, mode="bilinear", align_corners=False)[0, 0]
    return ((big - big.min()) / (big.max() - big.min())).numpy()


def test_rows_are_spread_evenly_and_are_the_first_of_their_pictures() -> None:
    data = open_scenes("scenes", "train")
    groups = data.groups_by_image()
    rows = sag_pictures.chosen(data)
    step = len(groups) // sag_pictures.ROWS
    assert rows == [groups[step * n][0] for n in range(sag_pictures.ROWS)]
