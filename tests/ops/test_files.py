from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import RunError
from refseg.ops import files


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A real limit of the operating system on every file written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    files.atomic_write_json(target, {"b": 1, "a": [1.5, "ü"]})
    files.atomic_write_json(target, {"b": 2})
    assert json.loads(target.read_text(encoding="utf-8")) == {"b": 2}
    assert names(target.parent) == ["a.json"]


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=3000))
def test_bytes_and_hash_round_trip(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    target = tmp_path_factory.mktemp("bytes") / "x"
    files.atomic_write_bytes(target, data)
    assert target.read_bytes() == data
    assert files.sha256_file(target) == hashlib.sha256(data).hexdigest()


def test_an_error_in_the_body_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with files.atomic_path(target) as temp:
            temp.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.atomic_write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("one", "two"):
        with files.atomic_path(target) as temp:
            temp.mkdir()
            (temp / content).write_text(content)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_write_errors_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError) as caught:
        files.atomic_write_text(target, "new")
    assert words in caught.value.message
    assert str(target) in caught.value.message
    assert caught.value.remedy
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_real_limit_is_explained(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(RunError, match="larger than allowed"):
        files.atomic_write_bytes(tmp_path / "big", b"x" * 5000)
    assert names(tmp_path) == []


def test_errors_of_rust_libraries_are_explained(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    target = tmp_path / "w.safetensors"
    with (
        largest_file(1000),
        pytest.raises(RunError, match="larger than allowed"),
        files.atomic_path(target) as temp,
    ):
        save_file({"a": torch.zeros(5000)}, temp)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="permission denied"):
        files.atomic_write_text(tmp_path / "a", "x")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match=r"run/a\.txt"):
        files.atomic_write_text(tmp_path / "run" / "a.txt", "x")


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a") as temp:
        temp.write_bytes((tmp_path / "absent").read_bytes())


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from refseg.ops.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temp:\n"
        "    temp.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -9
    assert target.read_text() == "old"
    (tmp_path / ".hidden.tmp").write_text("somebody else's")
    assert len(files.clean_leftovers(tmp_path)) == 1
    assert names(tmp_path) == [".hidden.tmp", "a.txt"]


def test_leftovers_of_no_folder(tmp_path: Path) -> None:
    assert files.clean_leftovers(tmp_path / "absent") == []


def test_remove_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files.remove_folder(tmp_path / "a")
    assert names(tmp_path) == []
