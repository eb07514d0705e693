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

    from refseg.demo import Shown


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
    """Segment expressions in rendered scenes, score them, and write pictures and a page.

    Renders the val split of `scenes` on first use. JSON: {"page", "pictures", "rows", "scores"}.
    """
    at_least_one("--images", images)
    with ui.results_only(json):
        ui.note(f"loading {model}")
        from refseg.demo import demo_page, demo_world, score, scored_split, show_scenes
        from refseg.ops.files import atomic_write_bytes, atomic_write_text
        from refseg.predict import load

        loaded = load(model, device)
        with rendering() as told:
            world = demo_world(told)
        shown = list(show_scenes(loaded, world))
        if not json:
            ui.show(_table(shown))
        pictures = [out / f"{one.name}.png" for one in shown]
        for path, one in zip(pictures, shown, strict=True):
            atomic_write_bytes(path, one.picture())
        dataset, limit = scored_split(world, images)
        with ui.progress(f"scoring {limit:,} expressions", limit) as tick:
            reports = score(loaded, dataset, limit, tick)
        page = out / "index.html"
        atomic_write_text(page, demo_page(loaded.name, shown, reports))
    if json:
        files = {"page": str(page), "pictures": [str(path) for path in pictures]}
        rows = [row.to_json() for one in shown for row in one.rows]
        ui.emit_json({**files, "rows": rows, "scores": [one.to_json() for one in reports]})
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
