"""Downloads: resumed, checked, whole or absent."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import ModelError, RunError
from refseg.pull import fetch
from refseg.pull.fetch import Link, download, open_link, shown
from refseg.pull.parts import File
from tests.pull.conftest import file, names
from tests.pull.shelf import Shelf, serving, sha256

DATA = random.Random(7).randbytes(5000)
WANTED = file("data.bin", DATA)


def silent(name: str, done: int, total: int) -> None: ...


@pytest.fixture
def link(shelf: Shelf) -> Link:
    shelf.files["/data"] = DATA
    return Link(f"{shelf.address}/data", timeout_s=10.0)


def ranges(shelf: Shelf) -> list[str | None]:
    return [headers.get("Range") for path, headers in shelf.asked if path == "/data"]


def test_a_file_comes_whole(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = download(link, WANTED, tmp_path, lambda *now: told.append(now))
    assert path.read_bytes() == DATA
    assert names(tmp_path) == ["data.bin"]
    assert ranges(shelf) == [None]
    assert told[-1] == ("data.bin", 5000, 5000)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_a_cut_connection_is_taken_up_again(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    shelf.cuts = [1000, 2500]
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA
    assert ranges(shelf) == [None, "bytes=1000-", "bytes=3500-"]
    assert shelf.sent == 5000  # not a byte twice


def test_another_start_goes_on(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA[:1234])
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA
    assert ranges(shelf) == ["bytes=1234-"]


def test_a_server_without_ranges_starts_again(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    shelf.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1234)  # not even the same bytes
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA
    assert ranges(shelf) == ["bytes=1234-"]


def test_an_answer_from_elsewhere_is_not_appended(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    shelf.early = True
    (tmp_path / "data.bin.part").write_bytes(DATA[:1234])
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA
    assert ranges(shelf) == ["bytes=1234-", None]


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA)
    nowhere = Link("http://127.0.0.1:1/data")
    assert download(nowhere, WANTED, tmp_path, silent).read_bytes() == DATA


def test_a_part_that_is_too_long_is_dropped(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA + b"!")
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA
    assert ranges(shelf) == [None]


def test_nothing_more_is_a_reason_to_give_up(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    """A connection that breaks at once, again and again, ends; what came stays."""
    shelf.cuts = [1000, 0, 0, 0]
    with pytest.raises(ModelError, match=r"/data broke off after 1,000 of 5,000 bytes") as caught:
        download(link, WANTED, tmp_path, silent)
    assert "kept" in caught.value.remedy
    assert len(ranges(shelf)) == 2
    assert (tmp_path / "data.bin.part").read_bytes() == DATA[:1000]


def test_drops_do_not_go_on_for_ever(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    shelf.cuts = [1] * 1000
    with pytest.raises(ModelError, match=f"broke off after {fetch.TRIES} of 5,000"):
        download(link, WANTED, tmp_path, silent)


def test_a_wrong_hash_is_told_and_the_part_deleted(
    shelf: Shelf, link: Link, tmp_path: Path
) -> None:
    other = DATA[:-1] + bytes([DATA[-1] ^ 1])
    shelf.files["/data"] = other
    with pytest.raises(ModelError) as caught:
        download(link, WANTED, tmp_path, silent)
    assert f"expected {sha256(DATA)}" in str(caught.value)
    assert f"found {sha256(other)}" in str(caught.value)
    assert names(tmp_path) == []


def test_a_part_of_another_file_is_told_and_deleted(
    shelf: Shelf, link: Link, tmp_path: Path
) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1234)
    with pytest.raises(ModelError, match=r"expected .*, found .*"):
        download(link, WANTED, tmp_path, silent)
    assert names(tmp_path) == []
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA


@pytest.mark.parametrize("lie", [False, True])
@pytest.mark.parametrize("more", [-10, 10])
def test_another_size_is_told(
    shelf: Shelf, link: Link, tmp_path: Path, lie: bool, more: int
) -> None:
    """At once where the server tells it; else when the bytes run out, or run over."""
    shelf.lie = lie
    shelf.files["/data"] = (DATA + b"!" * 10)[: len(DATA) + more]
    with pytest.raises(ModelError, match=r"5,000 bytes expected, found|broke off after 4,990"):
        download(link, WANTED, tmp_path, silent)
    assert sum(len(path.read_bytes()) for path in tmp_path.iterdir()) <= 5000
    if not lie:
        assert names(tmp_path) == []


def test_a_range_past_the_end_starts_again(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    """The file has shrunk: HTTP 416, then a plain request, which tells the size."""
    shelf.files["/data"] = DATA[:3000]
    (tmp_path / "data.bin.part").write_bytes(DATA[:4000])
    with pytest.raises(ModelError, match="5,000 bytes expected, found 3,000"):
        download(link, WANTED, tmp_path, silent)
    assert ranges(shelf) == ["bytes=4000-", None]


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:1/data cannot be reached: .*refused"):
        download(Link("http://127.0.0.1:1/data"), WANTED, tmp_path, silent)
    assert names(tmp_path) == []


def test_an_error_of_the_server_is_told(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"/absent answers 404"):
        download(Link(f"{shelf.address}/absent"), WANTED, tmp_path, silent)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "data:,x", "/etc/passwd", "http://[x/"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ModelError):
        open_link(Link(address), {})


def test_a_file_address_is_read(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a file.bin").write_bytes(DATA)
    (tmp_path / "data.bin.part").write_bytes(b"x")
    link = Link((tmp_path / "from" / "a file.bin").as_uri())
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA


def test_a_login_goes_to_its_host_alone(shelf: Shelf, tmp_path: Path) -> None:
    with serving() as other:
        other.files["/data"] = DATA
        shelf.moved["/moved"] = f"{other.address}/data"
        download(Link(f"{shelf.address}/moved", login="me:secret"), WANTED, tmp_path, silent)
        assert shelf.asked[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"
        assert "Authorization" not in other.asked[0][1]


def test_secrets_of_an_address_are_not_told() -> None:
    assert shown("https://me:se@cret@host.example/a/b?sig=1#f") == "https://host.example/a/b"
    assert shown("https://host.example:8/a@b") == "https://host.example:8/a@b"


def test_absent_certificates_are_named(
    shelf: Shelf, link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "no.pem"))
    with pytest.raises(ModelError, match=r"no certificates at .*no\.pem"):
        open_link(link, {})


def test_a_disk_that_takes_no_more_is_told(shelf: Shelf, link: Link, tmp_path: Path) -> None:
    """A real limit of the operating system; what fitted stays, and the next start goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*data\.bin\.part"):
            download(link, WANTED, tmp_path, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "data.bin.part").read_bytes() == DATA[:2000]
    assert download(link, WANTED, tmp_path, silent).read_bytes() == DATA


@pytest.fixture(scope="module")
def server() -> Iterator[Shelf]:
    with serving() as shelf:
        yield shelf


@settings(max_examples=40)
@given(
    data=st.binary(min_size=1, max_size=3000),
    cuts=st.lists(st.integers(1, 3000), max_size=6),
    there=st.integers(0, 3200),
    can_resume=st.booleans(),
)
def test_any_line_gives_the_file_or_an_error(
    server: Shelf,
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    cuts: list[int],
    there: int,
    can_resume: bool,
) -> None:
    """Whatever was there and wherever it breaks; starts repeated until one succeeds."""
    folder = tmp_path_factory.mktemp("line")
    server.files["/data"], server.cuts, server.ranges = data, list(cuts), can_resume
    wanted = File("x", len(data), sha256(data))
    (folder / "x.part").write_bytes((data + b"more")[:there])
    for _ in range(len(cuts) + 2):
        try:
            download(Link(f"{server.address}/data"), wanted, folder, silent)
        except ModelError:  # broke off, or what was there was another file's beginning
            assert not (folder / "x").exists()
        else:
            break
    assert (folder / "x").read_bytes() == data
    assert names(folder) == ["x"]
