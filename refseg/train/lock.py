"""One writer per run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refseg.errors import RunError
from refseg.ops.files import write_errors


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` for this process. Raises RunError if another process trains there.

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
        except OSError as error:
            raise RunError(
                f"another process is training in {run_dir}",
                remedy="wait for it, end it, or give another --out",
            ) from error
        yield
    finally:
        os.close(handle)
