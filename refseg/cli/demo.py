"""`refseg demo`: the main job on the embedded world, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.evaluate import show as show_reports
from refseg.cli.options import Device, Json, at_least_one, rendering

if TYPE_CHECKING:
    from rich.table import Table

    from refseg.demo import Shown, WrittenRow


def demo(
    out: Annotated[
        Path, typer.Option(help="Where pictures and the page go.", metavar="DIR")
    ] = Path("demo"),
    model: Annotated[
        str, typer.Option(help="A bundled model, a model folder or a hub id.", metavar="NAME|DIR")
    ] = "vega-scenes",
    images: Annotated[int, typer.Option(help="Images to score.", metavar="N")] = 200,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Segment expressions in rendered scenes, write some, score, and leave pictures and a page.

    Renders the val split of `scenes` on first use. JSON: {"page", "pictures", "rows", "written",
    "scores"}.
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
        if not json:
            ui.show(_table(shown))
            if written:
                ui.show(_written(written))
        pictures = [out / f"{one.name}.png" for one in shown]
        for path, one in zip(pictures, shown, strict=True):
            atomic_write_bytes(path, one.picture())
        dataset, limit = scored_split(world, images)
        with ui.progress(f"scoring {limit:,} expressions", limit) as tick:
            reports = score(loaded, dataset, limit, tick)
        page = out / "index.html"
        atomic_write_text(page, demo_page(loaded.name, shown, reports, written))
    if json:
        files = {"page": str(page), "pictures": [str(path) for path in pictures]}
        rows = [row.to_json() for one in shown for row in one.rows]
        told = {"rows": rows, "written": [row.to_json() for row in written]}
        ui.emit_json({**files, **told, "scores": [one.to_json() for one in reports]})
        return
    show_reports(reports)
    for path in (*pictures, page):
        ui.say(str(path))


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
