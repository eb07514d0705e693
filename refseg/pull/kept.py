"""What lies in the cache after a pull, and whether it is whole.

<cache>/photos/frozen_inference_graph.pb, ...    the files
<cache>/photos/LICENCES.md                       for people
<cache>/photos/provenance.json                   written last: without it the pull is unfinished
<cache>/photos/.pull/                            only while a pull is unfinished
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from refseg.data.store import cache_folder
from refseg.errors import ModelError
from refseg.ops.files import sha256_file
from refseg.pull.fetch import size_of
from refseg.pull.parts import File, Part, parts_of

MANIFEST = "provenance.json"
LICENCES = "LICENCES.md"


class MadeFrom(BaseModel):
    """The fetched file that a kept one was converted from. version: see `Conversion`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int
    sha256: str
    version: int


class Kept(BaseModel):
    """A file in the folder. source: where it came from. fetched: when (ISO 8601, UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int
    sha256: str
    part: str
    licence: str
    origin: str
    source: str
    fetched: str
    made_from: MadeFrom | None = None


class Manifest(BaseModel):
    """The content of provenance.json. refseg: the version that pulled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    refseg: str
    files: tuple[Kept, ...]


def folder_of(name: str, cache: Path | None = None) -> Path:
    """Where `name` is pulled to, whether or not it has been. cache: instead of $REFSEG_CACHE."""
    return (cache or cache_folder()) / name


def is_pulled(name: str, *, hashes: bool = False, cache: Path | None = None) -> bool:
    """Whether all files of `name` are there; see `pulled_folder`. Raises UnknownName."""
    try:
        pulled_folder(name, hashes=hashes, cache=cache)
    except ModelError:
        return False
    return True


def pulled_folder(name: str, *, hashes: bool = False, cache: Path | None = None) -> Path:
    """The folder with the files of `name`, if they are all there, as this refseg wants them.

    Sizes are always compared with the manifest, contents only with `hashes`.
    Raises ModelError that names what is absent or broken, and how to get it; UnknownName.
    """
    parts, folder = parts_of(name), folder_of(name, cache)
    remedy = f"refseg models pull {name}"
    if not folder.is_dir():
        raise ModelError(f"{name} has not been pulled: there is no {folder}", remedy=remedy)
    manifest = read_manifest(folder, remedy)
    for part in parts:
        for wanted in part.kept:
            entry = entry_of(manifest.files, part, wanted)
            if entry is None:
                raise ModelError(
                    f"{folder} was pulled for another version of refseg: {wanted} is another",
                    remedy=remedy,
                )
            _check(folder / wanted, entry, hashes, remedy)
    return folder


def read_manifest(folder: Path, remedy: str = "") -> Manifest:
    """Read provenance.json. Raises ModelError when it is absent or broken."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is only half pulled: there is no {MANIFEST}", remedy=remedy
        ) from None
    except (OSError, ValidationError) as error:
        raise ModelError(f"broken {path}: {type(error).__name__}", remedy=remedy) from error


def entry_of(entries: Sequence[Kept], part: Part, name: str) -> Kept | None:
    """The entry for the file `name` of `part`, if it is about what the table now asks for."""
    for entry in entries:
        if (entry.part, entry.name) == (part.name, name) and _fits(entry, part):
            return entry
    return None


def as_file(entry: Kept) -> File:
    """The entry's file, by which the one on disk can be checked."""
    return File(entry.name, entry.bytes, entry.sha256)


def new_entry(part: Part, file: File, source: str) -> Kept:
    """The entry of a file of `part` that is there since now."""
    return Kept(
        name=file.name,
        bytes=file.bytes,
        sha256=file.sha256,
        part=part.name,
        licence=part.licence,
        origin=part.origin,
        source=source,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        made_from=made_from(part),
    )


def made_from(part: Part) -> MadeFrom | None:
    """What the one kept file of a converted part is made from."""
    if part.conversion is None:
        return None
    (raw,) = part.files
    version = part.conversion.version
    return MadeFrom(name=raw.name, bytes=raw.bytes, sha256=raw.sha256, version=version)


def licences_text(name: str, parts: Sequence[Part], entries: Mapping[str, Kept]) -> str:
    """LICENCES.md. entries: by file name."""
    lines = [
        f"# {name}: weights of others",
        "",
        "Fetched for you by refseg; none of them is part of refseg. Hashes and sources are in "
        f"{MANIFEST}.",
    ]
    for part in parts:
        changed = "the files are unchanged"
        if part.conversion is not None:
            changed = part.conversion.told
        lines += ["", f"## {part.name}", ""]
        lines += [f"- {one}, from: {entries[one].source}" for one in part.kept]
        lines += [f"- licence: {part.licence}", f"- origin: {part.origin}", f"- changes: {changed}"]
    return "\n".join(lines) + "\n"


def _fits(entry: Kept, part: Part) -> bool:
    if part.conversion is not None:
        return entry.made_from == made_from(part)
    return entry.made_from is None and as_file(entry) in part.files


def _check(path: Path, entry: Kept, hashes: bool, remedy: str) -> None:
    if not path.is_file():
        raise ModelError(f"{path} is gone", remedy=remedy)
    if (size := size_of(path)) != entry.bytes:
        raise ModelError(
            f"{path} is broken: {size:,} bytes instead of {entry.bytes:,}", remedy=remedy
        )
    if hashes and (found := sha256_file(path)) != entry.sha256:
        raise ModelError(
            f"{path} is broken: sha256 expected {entry.sha256}, found {found}", remedy=remedy
        )
