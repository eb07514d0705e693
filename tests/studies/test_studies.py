"""Every study once at toy size, and the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from string import Template
from typing import Any

import pytest
import torch

from refseg import models
from refseg.ops.files import sha256_file
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.vega import vega_scenes
from studies import base, results, tables, trained, vega
from studies.variants import TABLES

pytestmark = pytest.mark.usefixtures("small_world")

ROOT = Path(__file__).parents[2]
TOY_RUN = [
    "weights.vision=null",
    "weights.text=null",
    "tokens.source=data",
    "data.name=scenes", "data.limit=8", "data.evaluate_limit=4", "preprocess.size=32",
    "method.vision.image_size=32", "method.vision.patch=2", "method.vision.width=8",
    "method.vision.depths=[1,1,1,1]", "method.vision.heads=[1,2,2,2]", "method.vision.window=2",
    "method.text.width=16", "method.text.heads=2", "method.text.layers=1",
    "method.text.mlp_width=32", "method.selection.heads=2", "method.decoder.heads=2",
    "method.decoder.widths=[8,8,8,8]", "train.batch_size=4", "train.workers=0",
    "train.evaluate_every=2", "train.save_every=2", "train.precision=fp32", "train.cpu=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, toy: Path, small_world: None) -> Path:
    """Every quick study of the toy, on a few expressions, the page and its charts."""
    folder = tmp_path_factory.mktemp("docs")
    places = ["--out", str(folder / "results"), "--figures", str(folder / "figures")]
    words = ["all", "--model", str(toy), "--limit", "9", "--data", str(folder), *places]
    assert vega.main(words) == 0
    told = ["--results", str(folder / "results"), "--figures", str(folder / "figures")]
    assert results.main([*told, "--page", str(folder / "results.md")]) == 0
    return folder


# -- variants, trained and compared -------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_variants_are_recipes_of_their_own(table: str) -> None:
    recipes = [apply_overrides(vega_scenes(), list(texts)) for texts in TABLES[table].values()]
    told = [recipe.model_dump_json(include={"method", "weights", "train"}) for recipe in recipes]
    assert len(set(told)) == len(told)
    assert recipes[0].method == vega_scenes().method  # the first row is the paper's model


def test_ablation_trains_scores_and_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "ablation",
        "--guidance",
        "language",
        "enhanced+visual",
        "--seeds",
        "0",
        "--steps",
        "2",
    ]
    words += ["--limit", "6", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    words += [word for text in TOY_RUN for word in ("--set", text)]
    assert vega.main(words) == 0
    path = tmp_path / "out" / "ablation-guidance.json"
    first = json.loads(path.read_text())
    assert [row["variant"] for row in first["numbers"]["rows"]] == ["enhanced+visual", "language"]
    assert first["numbers"]["runs"][0]["cls_auc"] is not None
    assert first["numbers"]["runs"][1]["cls_auc"] is None
    assert {row["verdict"] for row in first["numbers"]["differences"]} == {"inconclusive"}
    assert first["seeds"]["training"] == [0]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was scored again")

    monkeypatch.setattr(trained, "evaluate_all", refuse)
    assert vega.main(words) == 0
    assert json.loads(path.read_text())["numbers"] == first["numbers"]


# -- every study, and the page -----------------------------------------------------------------


def test_every_quick_study_says_where_its_numbers_come_from(measured: Path, toy: Path) -> None:
    for name in vega.QUICK:
        if name == "photos":
            continue  # there are none in that folder
        text = (measured / "results" / f"{name}.json").read_text()
        record = json.loads(text)
        assert record["command"] == f"python -m studies.vega {name} --limit 9 --model toy"
        assert record["model"]["sha256"] == sha256_file(toy / "model.safetensors")[:16]
        assert record["labels"] == "text+mask"
        assert record["seeds"]["scenes"] == 0
        assert record["machine"]["torch"] == torch.__version__
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
        assert str(measured) not in text
        for picture in record["pictures"]:
            assert (measured / "figures" / picture).stat().st_size > 1000
    assert not (measured / "results" / "photos.json").exists()


def test_the_main_study_has_every_split_protocol_and_baseline(measured: Path) -> None:
    numbers = json.loads((measured / "results" / "main.json").read_text())["numbers"]
    told = {(r["model"], r["data"], r["split"], r["protocol"]) for r in numbers["reports"]}
    assert len(told) == len(numbers["reports"]) == 9 * (2 + 3)
    assert sum(row["n"] for row in numbers["by size"]) == 27
    assert sum(row["n"] for row in numbers["by kind"]) == 27
    for row in numbers["by kind"]:
        assert row["right"] + row["wrong"] + row["nothing"] == pytest.approx(1, abs=1e-5)


def test_the_page_is_whole(measured: Path) -> None:
    page = (measured / "results.md").read_text()
    assert "$" not in page
    for picture in re.findall(r"\]\((figures/[^)]*)\)", page):
        assert (measured / picture).is_file(), picture
    assert "Not run yet. Command: `python -m studies.vega photos`" in page
    assert "Not run yet. Command: `python -m studies.vega ablation --table guidance" in page


@pytest.mark.parametrize("name", ["intro", *results.SECTIONS])
def test_every_text_has_its_heading_and_its_source(name: str) -> None:
    text = (results.TEXT / f"{name}.md").read_text()
    assert text.startswith("# " if name == "intro" else "## ")
    marks = {m["named"] for m in Template.pattern.finditer(text)}
    assert None not in marks, "a lone $ is left in the text"
    assert ("summary" if name == "intro" else "made") in marks


def test_results_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "results.md"
    assert page.read_text(encoding="utf-8") == results.page(base.RESULTS), (
        "run `python -m studies.results`"
    )
    for picture in re.findall(r"\]\((figures/[^)]*)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / picture).is_file(), picture


def test_results_are_about_the_model_that_is_shipped() -> None:
    shipped = {name: models.find_model(name) for name in models.list_bundled()}
    for path in sorted(base.RESULTS.glob("*.json")):
        told = json.loads(path.read_text())["model"]
        if told is None:
            continue  # a study of models of its own
        assert told["name"] in shipped, f"{path.name} is about {told['name']}"
        weights = sha256_file(shipped[told["name"]] / "model.safetensors")
        assert weights.startswith(told["sha256"]), f"{path.name}: run `make studies` again"


def test_a_machine_is_told_by_its_class_only() -> None:
    assert base.cpu_class("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz") == "Intel Xeon E5-2690 v4"
    assert base.cpu_class("AMD EPYC 7763 64-Core Processor") == "AMD EPYC 7763"
    assert set(base.machine()) == {"cpu", "cores", "threads", "gpu", "python", "torch"}


def test_tables_are_markdown() -> None:
    made = tables.table(("a", "b"), [("1", "2")])
    assert made.splitlines() == ["| a | b |", "| --- | ---: |", "| 1 | 2 |"]
    assert tables.percent(0.12345) == "12.3"
    assert tables.percent(None) == "-"
    assert tables.points(-0.0123) == "-1.2"


def _told(model: str, data: str, split: str, protocol: str, miou: float) -> dict[str, Any]:
    metrics = {"mIoU": miou, "oIoU": miou / 2}
    about = {"model": model, "data": data, "split": split, "protocol": protocol, "n": 1234}
    return {**about, "metrics": metrics, "intervals": {"mIoU": [miou - 0.1, miou + 0.1]}}


def test_the_summary_is_a_table_of_val_splits_beside_the_best_baseline() -> None:
    chooses = _told("chooser", "scenes", "val", "original", 0.4)
    chooses["metrics"]["oracle"] = 0.7
    reports = [
        _told("a-model", "scenes", "val", "original", 0.5),
        chooses,
        _told("a-model", "scenes", "val", "lavt-480", 0.9),
        _told("a-model", "scenes", "testA", "original", 0.8),
        _told("baseline:centre-disc", "scenes", "val", "original", 0.1),
        _told("baseline:largest-object", "scenes", "val", "original", 0.6),
        _told("baseline:whole-image", "scenes", "val", "original", 0.2),
    ]
    head, rule, *rows = results._summary({"main": {"numbers": {"reports": reports}},
                                          "photos": None}).splitlines()  # fmt: skip
    assert head.count("|") == rule.count("|") == 8
    start, end = "| scenes val (rendered)", "largest object, 60.0 |"
    assert rows == [
        f"{start} | a-model | 1,234 | **50.0** (40.0 to 60.0) | 25.0 | - | {end}",
        f"{start} | chooser | 1,234 | **40.0** (30.0 to 50.0) | 20.0 | 70.0 | {end}",
    ]
    assert "Nothing" in results._summary({"main": None, "photos": None})


def test_models_of_all_studies_stand_beside_the_baselines_of_one() -> None:
    first = [
        _told("one", "scenes", "val", "original", 0.5),
        _told("baseline:centre-disc", "scenes", "val", "original", 0.1),
    ]
    second = [_told("two", data, "val", "original", 0.7) for data in ("scenes", "scenes+")]
    lines = tables.summary([("rendered", {"reports": first}), ("rendered", {"reports": second})])
    rows = [[cell.strip() for cell in line.split("|")] for line in lines.splitlines()[2:]]
    assert [(row[1], row[2], row[7]) for row in rows] == [
        ("scenes val (rendered)", "one", "centre disc, 10.0"),
        ("scenes val (rendered)", "two", "centre disc, 10.0"),
        ("scenes+ val (rendered)", "two", "-"),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["main", "--model", "vega-scene"], "unknown model"),
        (["photos", "--model", "TOY", "--data", "nowhere"], "no photographs"),
        (["ablation", "--guidance", "vision"], "unknown variant"),
        (["ablation", "--table", "cues", "--guidance", "language"], "belongs to the table"),
        (["ablation", "--steps", "1", "--set", "train.lrr=1"], "unknown key"),
    ],
)
def test_bad_input_is_told_in_a_line(
    words: list[str], told: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--out", str(tmp_path), "--figures", str(tmp_path)]
    if words[0] == "ablation":
        places += ["--runs", str(tmp_path / "runs")]
    assert vega.main([str(toy) if word == "TOY" else word for word in words] + places) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_broken_result_is_named(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured / "results", tmp_path / "results")
    (tmp_path / "results" / "main.json").write_text("{")
    told = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path)]
    assert results.main([*told, "--page", str(tmp_path / "page.md")]) == 2
    assert not (tmp_path / "page.md").exists()


def test_the_readme_has_the_summary() -> None:
    readme = results.README.read_text(encoding="utf-8")
    assert results.with_summary(readme, results.RESULTS) == readme
    assert "| scenes val (rendered) |" in readme
