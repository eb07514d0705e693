"""The converted store: a data set's tables as Arrow files, memory-mapped.

    <cache>/store/<key>/manifest.json, images.arrow, annotations.arrow, boxes.arrow, ...
    <cache>/store/known/<...>.json      size, mtime and sha256 of the source files last seen

The key is a hash of the reader's name, the converter version and the sources' sha256, so a changed
source can never meet an old store, and two copies of one data set share a store. A source is
hashed again only when its size or modification time differs from what is on record. A store is
written into a temporary folder and renamed, so that it is whole or absent even when two processes
convert at once; one that was damaged afterwards is noticed by its file sizes and made again.
Nothing is ever written beside the user's data. Coordinates stay float64, as the source wrote them.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from refseg.data.records import TABLES, Records, RecordsMeta
from refseg.errors import DataError, RunError
from refseg.ops.files import atomic_write_text, sha256_file

# Raise it when any reader, the builder or the tables change what they give.
CONVERTER_VERSION = 2
CLOCK_GRAIN_S = 2.0  # the coarsest modification time of a common file system
LEFTOVER_AGE_S = 24 * 3600.0  # nobody converts for that long


def cache_folder() -> Path:
    """Where everything made by refseg is kept: $REFSEG_CACHE, or ~/.cache/refseg."""
    named = os.environ.get("REFSEG_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "refseg"


def ensure_store(
    reader: str,
    sources: Sequence[Path],
    convert: Callable[[], Records],
    *,
    cache: Path | None = None,
) -> Path:
    """The folder of the store made from `sources` by `reader`, converted first where need be.

    reader: everything the result depends on besides the files (name, options). convert: makes
    the records; called only when needed, with the garbage collector paused.
    Raises DataError when a source is absent or the cache folder cannot be written.
    """
    root = (cache or cache_folder()) / "store"
    folder = root / store_key(reader, sources, root / "known")
    if not is_whole(folder):
        with paused_collector():
            write_store(convert(), folder)
    return folder


def store_key(reader: str, sources: Sequence[Path], known: Path) -> str:
    """A name for what `reader` makes of `sources`; the order of the sources does not matter."""
    lines = sorted(f"{path.name} {_known_sha256(path, known)}" for path in sources)
    text = "\n".join([f"{reader} v{CONVERTER_VERSION}", *lines])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_store(records: Records, folder: Path) -> None:
    """Write `records` to `folder` at once or not at all; a whole store already there is kept."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"{folder.parent}: the cache cannot be written: {error.strerror}",
            remedy="set REFSEG_CACHE to a folder on a disk with space that you may write to",
        ) from error
    try:
        _write_files(records, temporary)
        _move_into_place(temporary, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: writing the converted data set failed: {error.strerror}",
            remedy="free some space, or set REFSEG_CACHE to a folder on another disk",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a store whose files all have the sizes its manifest states."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return manifest["version"] == CONVERTER_VERSION and all(
            (folder / name).stat().st_size == size for name, size in manifest["sizes"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_store(folder: Path) -> Records:
    """Open a store. Tables are mapped into memory one by one, when first touched.

    Raises DataError when the manifest, or later a table, is missing or not Arrow.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        stated = manifest["meta"]
        for name in ("split_aliases", "examples"):
            stated[name] = {key: tuple(values) for key, values in stated[name].items()}
        stated["image_dirs"] = tuple(stated["image_dirs"])
        meta = RecordsMeta(**stated)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / "manifest.json", error) from error
    return Records(meta, lambda name: _map_table(folder / f"{name}.arrow"))


@contextmanager
def paused_collector() -> Iterator[None]:
    """Keep Python's garbage collector from running inside the block.

    Loading millions of small objects makes it scan them again and again for nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _write_files(records: Records, folder: Path) -> None:
    sizes = {}
    for name in TABLES:
        table = records.table(name)
        path = folder / f"{name}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            # One chunk, so that every column can be seen as one NumPy array without a copy.
            writer.write_table(table, max_chunksize=max(1, table.num_rows))
        sizes[path.name] = path.stat().st_size
    manifest = {"version": CONVERTER_VERSION, "meta": asdict(records.meta), "sizes": sizes}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))


def _sweep(parent: Path) -> None:
    """Remove what writers that were killed left behind, long ago."""
    for path in parent.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_AGE_S:
                shutil.rmtree(path, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path) -> None:
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError:
            if is_whole(folder):  # another process was faster, with the same content
                return
            if not folder.exists():
                raise
        broken = Path(tempfile.mkdtemp(prefix=".broken-", dir=folder.parent))
        try:
            folder.rename(broken / "store")
        except FileNotFoundError:
            pass  # another process has moved it
        finally:
            shutil.rmtree(broken, ignore_errors=True)
    raise OSError(0, "another process keeps replacing it")


def _map_table(path: Path) -> pa.Table:
    try:
        # The mapping outlives this function: the table's buffers hold it.
        options = pa.ipc.IpcReadOptions(use_threads=False)  # a forked worker would lose them
        table = pa.ipc.open_file(pa.memory_map(str(path), "r"), options=options).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error
    return table


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: not a readable part of a converted data set ({error})",
        remedy=f"delete {path.parent}; it is made again on the next use",
    )


def _known_sha256(path: Path, known: Path) -> str:
    """The file's sha256, from the record of its last reading where size and mtime still agree."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}",
            remedy="it belongs to the annotations in this folder; fetch it, or name another folder",
        ) from error
    where = str(path.resolve())
    note = known / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    try:
        record = json.loads(note.read_text())
        if (record["size"], record["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
            return str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never read before, or a damaged note: hash the file
    digest = sha256_file(path)
    if time.time() - stat.st_mtime < CLOCK_GRAIN_S:
        return digest  # a second change within the clock's grain would leave no trace
    record = {"path": where, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
    with suppress(RunError, OSError):  # a read-only cache costs hashing again, nothing else
        atomic_write_text(note, json.dumps(record))
    return digest
