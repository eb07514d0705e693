"""`refseg models pull`, and `refseg models` as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from refseg.cli.main import app
from refseg.cli.pull import in_megabytes
from tests.pull.conftest import KEPT, RAW
from tests.pull.shelf import Shelf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words])


def test_a_pull_in_json(shelf: Shelf, cache: Path) -> None:
    for state in ("fetched", "there"):
        done = run("pull", "photos", "--json")
        assert done.exit_code == 0, done.stderr
        told = json.loads(done.stdout)
        assert set(told) == {"name", "folder", "files", "download_bytes"}
        assert (told["name"], told["folder"]) == ("photos", str(cache / "photos"))
        assert [one["name"] for one in told["files"]] == KEPT
        for one in told["files"]:
            assert {"name", "bytes", "sha256", "licence", "source", "state"} <= set(one)
            assert one["state"] == state
            assert (cache / "photos" / one["name"]).stat().st_size == one["bytes"]


def test_a_pull_for_people(shelf: Shelf, cache: Path) -> None:
    done = run("pull", "photos")
    assert done.exit_code == 0, done.stderr
    for words in (*KEPT, "Apache-2.0", "fetched", str(cache / "photos")):
        assert words in done.stdout
    assert "model hub" in done.stderr
    assert "(MB)" in done.stderr


def test_a_dry_run(shelf: Shelf, cache: Path) -> None:
    done = run("pull", "photos", "--dry-run")
    assert done.exit_code == 0, done.stderr
    for words in (*KEPT, "would fetch", "Apache-2.0", "to download: at most", str(cache)):
        assert words in done.stdout
    assert f"package index: {shelf.index}/" in done.stderr
    told = json.loads(run("pull", "photos", "--dry-run", "--json").stdout)
    assert {one["state"] for one in told["files"]} == {"would fetch"}
    assert told["files"][2]["made_from"]["bytes"] == len(RAW)
    assert not cache.exists()
    assert shelf.asked == []


def test_a_dry_run_tells_what_would_fail(
    shelf: Shelf, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://[x/simple")
    done = run("pull", "photos", "--dry-run")
    assert done.exit_code == 0
    assert "is no address" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_offline_is_a_short_message(
    shelf: Shelf, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    done = run("pull", "photos", "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "cannot be had" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


@pytest.mark.parametrize("words", [["pull", "photo"], ["pull"], ["photos"]])
def test_wrong_words_are_refused(words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_json_stands_after_the_verb(shelf: Shelf) -> None:
    done = run("--json", "pull", "photos", "--dry-run")
    assert done.exit_code == 2
    assert "--json" in done.stderr
    assert done.stdout == ""


def test_the_bare_call_still_lists() -> None:
    assert isinstance(json.loads(run("--json").stdout), list)
    done = run()
    assert done.exit_code == 0
    assert "measured on" in done.stdout
    assert "Usage" not in done.stdout


def test_progress_in_megabytes() -> None:
    told: list[tuple[str, int, int]] = []
    tell = in_megabytes(lambda *now: told.append(now))
    for done in (0, 1, 1_000_000, 1_000_001, 2_500_000):
        tell("x", done, 2_500_000)
    assert [done for _, done, _ in told] == [0, 1, 1, 2, 3]
    assert {(name, total) for name, _, total in told} == {("x (MB)", 3)}
