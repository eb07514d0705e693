"""Files that are either whole or absent: written beside the target, then renamed onto it.

A crash leaves at most an entry named `.NAME.PID.RANDOM.tmp`, which nothing reads and
`clean_leftovers` removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refseg.errors import RunError

TEMP_SUFFIX = ".tmp"

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "free some space or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write to another disk"),
    errno.EFBIG: ("the file is larger than allowed", "raise the limit on file size (ulimit -f)"),
    errno.EROFS: ("the disk is read-only", "write to a folder on a writable disk"),
    errno.EACCES: ("permission denied", "choose a folder you may write to, or change its owner"),
    errno.EPERM: ("permission denied", "choose a folder you may write to, or change its owner"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another path"),
    errno.EEXIST: ("a file has the name a folder needs", "choose another path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
    errno.EIO: ("the disk reports an input/output error", "check the disk; copy the folder away"),
}


def explain_write_error(error: BaseException, target: Path) -> RunError | None:
    """What a failed write to `target` means, or None when `error` is about something else.

    Understands OSError and the text "(os error N)" of errors from Rust libraries (safetensors).
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found[1])
    if number not in _REMEDIES:
        return None
    reason, remedy = _REMEDIES[number]
    return RunError(f"cannot write {target}: {reason}", remedy=remedy)


@contextmanager
def write_errors(target: str | Path) -> Iterator[None]:
    """Turn disk-full, read-only and permission errors in the body into RunError about `target`."""
    try:
        yield
    except Exception as error:
        explained = explain_write_error(error, Path(target))
        if explained is None:
            raise
        raise explained from error


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`; replace `target` by it on success.

    The body may make a file or a folder there. An existing file is replaced in one step, an
    existing folder in two (a crash between them leaves no folder, never a mixed one). On an
    error the temporary path is removed and `target` is as before. Parent folders are made.
    Raises RunError when the disk is full, read-only or not ours.
    """
    target = Path(target)
    temp = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temp
            for path in (*temp.iterdir(), temp) if temp.is_dir() else (temp,):
                _sync(path)
            _replace(temp, target)
        except BaseException:
            _remove(temp)
            raise


def atomic_write_bytes(target: str | Path, data: bytes) -> None:
    """Write `data`: `target` is the old file or the new one, never a part. See `atomic_path`."""
    with atomic_path(target) as temp:
        temp.write_bytes(data)


def atomic_write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text, newlines as given. See `atomic_path`."""
    atomic_write_bytes(target, text.encode("utf-8"))


def atomic_write_json(target: str | Path, value: Any) -> None:
    """Write indented JSON in the order of the keys. NaN is refused (ValueError): it is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(target, text + "\n")


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clean_leftovers(folder: str | Path) -> list[Path]:
    """Remove what crashed writers left in `folder` (not below); return what was removed.

    Only for a folder in which nobody else is writing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    leftovers = sorted(p for p in folder.glob(f".*{TEMP_SUFFIX}") if _is_temp(p.name))
    with write_errors(folder):
        for path in leftovers:
            _remove(path)
    return leftovers


def remove_folder(folder: str | Path) -> None:
    """Remove a folder so that a crash leaves it whole or gone: renamed first, then deleted."""
    folder = Path(folder)
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    with write_errors(folder):
        folder.rename(doomed)
        _remove(doomed)


def _is_temp(name: str) -> bool:
    return re.fullmatch(r"\..+\.\d+\.[0-9a-f]{8}\.tmp", name) is not None


def _replace(temp: Path, target: Path) -> None:
    if temp.is_dir() and target.is_dir():
        remove_folder(target)
    temp.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Ask the disk to keep a file, or a folder's list of names, through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync folders; the rename is still all or nothing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
