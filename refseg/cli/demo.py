"""`refseg demo`: the main job on two photographs and on the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.evaluate import show as show_reports
from refseg.cli.options import Device, Json, at_least_one, rendering
from refseg.cli.pull import in_megabytes
from refseg.errors import RefsegError

if TYPE_CHECKING:
    from rich.table import Table

    from refseg.demo import Shown, WrittenRow
    from refseg.demo_photographs import PhotoShown


def demo(
    out: Annotated[
        Path, typer.Option(help="Where pictures and the page go.", metavar="DIR")
    ] = Path("demo"),
    model: Annotated[
        str, typer.Option(help="A bundled model, a model folder or a hub id.", metavar="NAME|DIR")
    ] = "vega-scenes",
    images: Annotated[int, typer.Option(help="Images to score.", metavar="N")] = 200,
    photographs: Annotated[
        bool,
        typer.Option(
            help="Also show two photographs, by the model for photographs. What it sees by is "
            "pulled first (once, at most 120 MB), as by `refseg models pull photos`; where that "
            "cannot be had they are left out.",
        ),
    ] = True,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Segment expressions in two photographs and in rendered scenes, write some, score, and leave
    pictures and a page.

    Renders the val split of `scenes` and pulls weights for photographs on first use. JSON: {"page",
    "pictures", "photographs", "described", "rows", "written", "scores"}.
    """
    at_least_one("--images", images)
    with ui.results_only(json):
        ui.note(f"loading {model}")
        from refseg.demo import (
            WRITER,
            demo_page,
            demo_world,
            score,
            scored_split,
            show_scenes,
            write_about,
        )
        from refseg.models import list_bundled
        from refseg.ops.files import atomic_write_bytes, atomic_write_text
        from refseg.predict import load

        loaded = load(model, device)
        with rendering() as tick:
            world = demo_world(tick)
        shown = list(show_scenes(loaded, world))
        written = []
        if WRITER in list_bundled():
            ui.note(f"loading {WRITER}")
            written = write_about(load(WRITER, device), world, shown)
        else:
            ui.note(f"no expressions are written: {WRITER} is not in this installation")
        taken = _photographs(device) if photographs else []
        if not json:
            if taken:
                ui.show(_answered(taken))
                ui.show(_said(taken))
            ui.show(_table(shown))
            if written:
                ui.show(_written(written))
        drawn: list[PhotoShown | Shown] = [*taken, *shown]
        pictures = [out / f"{one.name}.png" for one in drawn]
        for path, one in zip(pictures, drawn, strict=True):
            atomic_write_bytes(path, one.picture())
        dataset, limit = scored_split(world, images)
        with ui.progress(f"scoring {limit:,} expressions", limit) as tick:
            reports = score(loaded, dataset, limit, tick)
        page = out / "index.html"
        atomic_write_text(page, demo_page(loaded.name, shown, reports, written, taken))
    if json:
        files = {"page": str(page), "pictures": [str(path) for path in pictures]}
        photos = {
            "photographs": [row.to_json() for one in taken for row in one.rows],
            "described": [row.to_json() for one in taken for row in one.said],
        }
        rows = [row.to_json() for one in shown for row in one.rows]
        told = {**photos, "rows": rows, "written": [row.to_json() for row in written]}
        ui.emit_json({**files, **told, "scores": [one.to_json() for one in reports]})
        return
    show_reports(reports)
    for path in (*pictures, page):
        ui.say(str(path))


def _photographs(device: str) -> list[PhotoShown]:
    """What the model for photographs answers; nothing, and why, where it cannot be had."""
    from refseg.demo_photographs import show_photographs
    from refseg.models import PHOTOS, list_bundled
    from refseg.predict import load
    from refseg.pull import run

    if PHOTOS not in list_bundled():
        ui.note(f"no photographs are shown: {PHOTOS} is not in this installation")
        return []
    try:
        with ui.progress_by_title() as told:
            run.pull(PHOTOS, progress=in_megabytes(told), note=ui.note)
    except RefsegError as error:  # no line, no space, no right to write: the scenes need none
        ui.warn(f"no photographs are shown: {error.message} ({error.remedy})")
        return []
    ui.note(f"loading {PHOTOS}")
    return list(show_photographs(load(PHOTOS, device)))


def _answered(shown: list[PhotoShown]) -> Table:
    made = ui.table(["photograph", "expression", "answer", ">score", ">ms"])
    for one in shown:
        ui.rows(made, (row.cells() for row in one.rows))
        made.add_section()
    return made


def _said(shown: list[PhotoShown]) -> Table:
    made = ui.table(["photograph", "object", "written", "refers back", ">margin"])
    return ui.rows(made, (row.cells() for one in shown for row in one.said))


def _table(shown: list[Shown]) -> Table:
    made = ui.table(["picture", "expression", "referent", ">IoU %", ">ms"])
    for one in shown:
        ui.rows(
            made,
            (
                (one.name, row.expression, row.referent, ui.percent(row.iou), f"{row.ms:.0f}")
                for row in one.rows
            ),
        )
        made.add_section()
    return made


def _written(rows: list[WrittenRow]) -> Table:
    made = ui.table(
        ["picture", "object", ">fit", "written", "refers back", ">margin", "by the oracle"]
    )
    return ui.rows(
        made,
        (
            (
                row.picture,
                row.described,
                row.fit,
                row.expression,
                "yes" if row.refers_back else "no",
                f"{row.margin:.2f}",
                row.means,
            )
            for row in rows
        ),
    )
