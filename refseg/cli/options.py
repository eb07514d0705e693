"""Options that several commands share, and steps that several commands take."""

from __future__ import annotations

import os
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


def ready_data(name: str) -> None:
    """Render a named world now, with a bar, if it is not there yet.

    Opening the data set would render it too, in silence; whatever is wrong with the name is left
    for it to tell.
    """
    from refseg.data.catalog import DATA_NAMES, SCENES_IMAGES
    from refseg.data.scenes.build import ensure_scenes
    from refseg.data.store import cache_folder

    style, other, stated = name.partition("@")
    if not other:
        stated = os.environ.get("REFSEG_SCENES_IMAGES", str(SCENES_IMAGES))
    if style not in DATA_NAMES or not stated.isdigit() or int(stated) < 1:
        return
    images = int(stated)
    with ui.progress(f"rendering {images:,} scenes (once)", images) as tick:
        told = ui.steps(tick)
        ensure_scenes(cache_folder(), seed=1 if other else 0, images=images, progress=told)


def at_least_one(name: str, value: int | None) -> None:
    """Raise ConfigError for a count below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"{name} {value} is too small", remedy="give 1 or more")
