"""`refseg demo`: its photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refseg import models
from refseg.demo_photographs import FOLDER, PHOTOGRAPHS, show_photographs
from refseg.errors import ModelError, RefsegError, RunError
from refseg.predict import load
from refseg.pull import run as pulling
from tests.cli.conftest import Run
from tests.cli.photos import open_eyes, shelve_photos
from tests.methods.mutual.test_photographs import SEEN
from tests.methods.toy import toy_model

DEMO = ("demo", "--out", "d", "--images", "1")
#: What is told to be seen in the photographs, by their size.
THINGS: dict[tuple[int, int], Any] = {
    (400, 600): ([[0, 0, 300, 400], [320, 80, 600, 400]], [(0, 0.9), (16, 0.8)]),
    (512, 512): ([[0, 64, 500, 500]], [(0, 0.7)]),
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    models.save(shelf / "vega-scenes", toy_model("vega"))
    shelve_photos(shelf)
    monkeypatch.setattr(models, "BUNDLED", shelf)
    for hw, seen in THINGS.items():
        monkeypatch.setitem(SEEN, hw, seen)


@pytest.fixture
def pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pull that works; what it was asked for."""
    asked: list[str] = []

    def pull(
        name: str, progress: Callable[[str, int, int], None], note: Callable[[str], None]
    ) -> None:
        asked.append(name)
        progress("weights", 5_000_000, 10_000_000)

    monkeypatch.setattr(pulling, "pull", pull)
    open_eyes(tmp_path, monkeypatch)
    return asked


def test_photographs_are_asked_and_described(run: Run, pulled: list[str]) -> None:
    result = run(*DEMO, "--json")
    assert result.exit_code == 0, result.output
    assert pulled == ["photos"]
    told, page = json.loads(result.stdout), Path("d/index.html").read_text()
    asked = [(one.name, text) for one in PHOTOGRAPHS for text in one.asked]
    assert [(row["picture"], row["expression"]) for row in told["photographs"]] == asked
    for row in told["photographs"]:
        assert set(row) == {"picture", "expression", "empty", "kind", "score", "ms"}
        assert row["empty"] == (row["kind"] == "")
        assert row["kind"] in ("", "person", "dog")
        assert row["expression"] in page
    described = [(row["picture"], row["kind"]) for row in told["described"]]
    assert described == [("coffee", "person"), ("coffee", "dog"), ("astronaut", "person")]
    for row in told["described"]:
        assert set(row) == {"picture", "kind", "expression", "refers_back", "margin"}
    assert told["pictures"][:2] == ["d/photograph_coffee.png", "d/photograph_astronaut.png"]
    for picture in told["pictures"]:
        assert Path(picture).is_file()
    for one in PHOTOGRAPHS:
        assert f"photograph by {one.by}, {one.licence}" in page
    shown = run(*DEMO).stdout
    for words in ("photograph", "answer", PHOTOGRAPHS[0].asked[0], "refers back"):
        assert words in shown


def test_the_first_question_looks_and_the_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = open_eyes(tmp_path, monkeypatch)
    shown = list(show_photographs(load("photos", "cpu")))
    assert len(eyes.asked) == len(PHOTOGRAPHS) == len(shown)
    for one in shown:
        assert one.image.shape[:2] in THINGS
        for row in one.rows:
            assert row.mask.shape == one.image.shape[:2]
            assert bool(row.mask.any()) == bool(row.kind)


def test_what_is_not_there_has_no_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_eyes(tmp_path, monkeypatch)
    model = load("photos", "cpu")
    model.min_score = 0.99999
    for one in show_photographs(model):
        assert {row.kind for row in one.rows} == {""}
        assert not any(row.mask.any() for row in one.rows)


@pytest.mark.parametrize("error", [ModelError, RunError])
def test_offline_it_goes_on_without_and_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[RefsegError]
) -> None:
    def pull(*_: object, **__: object) -> None:
        raise error("the index cannot be reached", remedy="go online")

    monkeypatch.setattr(pulling, "pull", pull)
    result = run(*DEMO, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["photographs"] == told["described"] == []
    assert told["rows"]
    assert "no photographs are shown: the index cannot be reached (go online)" in " ".join(
        result.stderr.split()
    )
    assert "Photographs" not in Path("d/index.html").read_text()


def test_they_can_be_left_out(run: Run, pulled: list[str]) -> None:
    result = run(*DEMO, "--no-photographs", "--json")
    assert json.loads(result.stdout)["photographs"] == []
    assert pulled == []


def test_every_photograph_has_its_source_told() -> None:
    listed = (FOLDER / "LICENCES.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir() if path.suffix == ".jpg"}
    assert files == {f"{one.name}.jpg" for one in PHOTOGRAPHS}
    for one in PHOTOGRAPHS:
        (line,) = [line for line in listed.splitlines() if f"| {one.name}.jpg |" in line]
        assert one.by in line
        assert one.licence in line
