"""The folder of a pull while it is being filled: what is there already, one writer, enough space.

.pull/NAME.part, .pull/ARCHIVE    downloads
.pull/NAME.json                   a receipt: how the finished file NAME came to be
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from refseg.errors import ModelError, RunError
from refseg.ops.files import atomic_write_json, clean_leftovers, write_errors
from refseg.pull.fetch import is_same, size_of
from refseg.pull.kept import LICENCES, Kept, as_file, entry_of, new_entry, read_manifest
from refseg.pull.parts import Archive, Part
from refseg.train.lock import run_lock

WORK = ".pull"
SPARE_BYTES = 1_000_000  # for the two small files and the file system's own needs


def found_files(folder: Path, parts: Sequence[Part]) -> dict[str, Kept]:
    """The files that are there and right by size and sha256, name -> entry."""
    entries = [*_manifest(folder), *_receipts(folder / WORK)]
    found = {}
    for part in parts:
        for name in part.kept:
            entry = entry_of(entries, part, name) or _recognised(part, name)
            if entry is not None and is_same(folder / name, as_file(entry)):
                found[name] = entry
    return found


def is_finished(folder: Path, parts: Sequence[Part], found: Mapping[str, Kept]) -> bool:
    """Whether nothing is left to do or to tidy. found: what `found_files` says."""
    listed = _manifest(folder)
    whole = all(found.get(name) in listed for part in parts for name in part.kept)
    return whole and (folder / LICENCES).is_file() and not (folder / WORK).exists()


def write_receipt(work: Path, entry: Kept) -> None:
    """Note how a file came to be, until the manifest tells it. Raises RunError (disk)."""
    atomic_write_json(work / f"{entry.name}.json", entry.model_dump(mode="json"))


@contextmanager
def one_pull(folder: Path) -> Iterator[Path]:
    """Hold `folder`, made if need be, for this process; yields its subfolder for unfinished work.

    Where nothing came of it, nothing stays. Raises RunError if another process holds it.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    held = "another process is pulling into", "wait until it is done; what it brings is for both"
    with run_lock(folder, *held):
        work = folder / WORK
        try:
            with write_errors(work):
                work.mkdir(exist_ok=True)
            for each in (folder, work):
                clean_leftovers(each)
            yield work
        finally:
            _tidy(folder)


def check_space(folder: Path, parts: Sequence[Part], found: Collection[str]) -> None:
    """Raise RunError when the disk of `folder` has too little space for what is yet to come."""
    needed = needed_bytes(parts, found) - sum(map(size_of, (folder / WORK).iterdir()))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free",
            remedy="free some space, or set REFSEG_CACHE to a folder on another disk",
        )


def needed_bytes(parts: Sequence[Part], found: Collection[str]) -> int:
    """The most that a pull from nothing but `found` has on the disk at once, besides those."""
    stays, passing = 0, 0
    for part in parts:
        if all(name in found for name in part.kept):
            continue
        raw = sum(file.bytes for file in part.files)
        stays += raw  # a converted file is about as large
        archives = (one.file.bytes for one in part.sources if isinstance(one, Archive))
        passing = max(passing, max(archives, default=0) + (raw if part.conversion else 0))
    return stays + passing + SPARE_BYTES if stays else 0


def _tidy(folder: Path) -> None:
    """Remove the folder for unfinished work and then `folder` itself, where nothing is in them."""
    with suppress(OSError):
        (folder / WORK).rmdir()
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {".lock"}:
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()


def _recognised(part: Part, name: str) -> Kept | None:
    """The entry of an unconverted file that nobody took note of: its sha256 says what it is."""
    for file in part.files if part.conversion is None else ():
        if file.name == name:
            return new_entry(part, file, f"there before, the same as {part.sources[0].told(name)}")
    return None


def _manifest(folder: Path) -> tuple[Kept, ...]:
    try:
        return read_manifest(folder).files
    except ModelError:
        return ()


def _receipts(work: Path) -> Iterator[Kept]:
    for path in sorted(work.glob("*.json")):
        with suppress(OSError, ValidationError):
            yield Kept.model_validate_json(path.read_bytes())
