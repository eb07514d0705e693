"""Options that several commands share, and steps that several commands take."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from refseg.cli import ui
from refseg.errors import ConfigError

Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on standard output, and nothing else there."),
]
Device = Annotated[
    str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...", metavar="D")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A bundled model, a model folder or a hub id. [default: photos, for photographs]",
        metavar="NAME|DIR",
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="scenes, scenes+ or scenesg (made on first use), or a data set's folder.",
        metavar="NAME|DIR",
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Which refs file, where the folder has several (unc, umd, ...).", metavar="B"
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder of the images, if not in a usual place.", metavar="DIR"),
]


#: Option -> the choices that it has a meaning for; options that are not named have it for all.
Belongs = Mapping[str, tuple[str, ...]]


def check_belongs(
    switch: str,
    chosen: str,
    given: Mapping[str, object],
    belongs: Belongs,
    refused: Collection[str] = (),
) -> None:
    """Raise ConfigError for an option of `belongs` that was given (is not None) and means nothing
    to what was `chosen` by `switch` ("--task"). refused: other choices that are not offered.
    """
    for option, meant in belongs.items():
        if given.get(option) is None or chosen in meant:
            continue
        others = [choice for choice in meant if choice not in refused]
        instead = f", or ask for {switch} {' or '.join(others)}" if others else ""
        raise ConfigError(
            f"{option} means nothing to {switch} {chosen}", remedy=f"leave it out{instead}"
        )


def ready_data(name: str) -> None:
    """Render a named world now, with a bar, if it is not there yet.

    Opening the data set would render it too, in silence. Raises what `find_folder` raises.
    """
    from refseg.data.catalog import find_folder

    with rendering() as told:
        find_folder(name, progress=told)


def rendering() -> AbstractContextManager[Callable[[int, int], None]]:
    """progress(done, total) that shows a bar from its first call on."""
    return ui.progress_when_told("rendering {} scenes (once)")


def check_writable(option: str, path: Path) -> None:
    """Raise ConfigError for a file that cannot be written, before any work; nothing stays behind.

    A full disk is found out later, when there are results to lose: write them last.
    """
    import tempfile

    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written: {error.strerror}",
            remedy="name a file in a folder that you may write to",
        ) from error


def at_least_one(name: str, value: int | None) -> None:
    """Raise ConfigError for a count below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"{name} {value} is too small", remedy="give 1 or more")
