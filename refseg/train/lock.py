"""One writer per folder: of a run, of a labelling job, of pulled weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refseg.errors import RunError
from refseg.ops.files import write_errors


@contextmanager
def run_lock(
    run_dir: Path,
    told: str = "another process is training in",
    remedy: str = "wait for it, end it, or give another --out",
) -> Iterator[None]:
    """Hold `run_dir` for this process. told, remedy: what the second one hears.

    Raises RunError if another process holds it, or the disk has no locks.

    A record lock of the operating system: it ends with the process, however that ends, and is
    not inherited by loader workers, which may outlive a killed parent by seconds.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the rest works
        yield
        return
    path = run_dir / ".lock"
    with write_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # systems differ in which they say
            raise RunError(f"{told} {run_dir}", remedy=remedy) from error
        except OSError as error:
            raise RunError(
                f"{path} cannot be locked: {error.strerror}",
                remedy="choose a folder on a disk that has file locks",
            ) from error
        yield
    finally:
        os.close(handle)
