"""`refseg report`: one HTML page about training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, at_least_one, ready_data

if TYPE_CHECKING:
    from refseg.report import Run, Scored

PROTOCOLS = ("original", "lavt-480", "cris-035")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="The page.", metavar="FILE")] = Path("report.html"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help=f"How to score; may be repeated. [default: {', '.join(PROTOCOLS)}]", metavar="P"
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Expressions to score of each run's evaluation split.", metavar="N")
    ] = 300,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one self-contained HTML page about RUNs.

    Loss and score curves, scores by protocol, what differs between the recipes, and the worst,
    middle and best cases. An encoder's run has curves alone. JSON: {"page", "runs", "scores"},
    scores as `refseg eval` gives them.
    """
    at_least_one("--limit", limit)
    with ui.results_only(json):
        from refseg.metrics.protocols import get_protocol
        from refseg.ops.files import atomic_write_text
        from refseg.report import read_run, report_page

        names = [get_protocol(name).name for name in protocol or PROTOCOLS]
        read = _distinct([read_run(folder) for folder in runs])
        scored = {
            run.name: _score(run, names, limit, device) for run in read if run.model is not None
        }
        atomic_write_text(out, report_page(read, scored))
    reports = [one for result in scored.values() for one in result.reports]
    if json:
        told = {"page": str(out), "runs": [str(run.folder) for run in read]}
        ui.emit_json({**told, "scores": [one.to_json() for one in reports]})
        return
    made = ui.table(["run", "protocol", ">n", ">mIoU %", ">oIoU %", ">oracle %"])
    measures = ("mIoU", "oIoU", "oracle")
    lines = [
        (name, r.protocol, r.n, *(ui.percent(r.metrics.get(measure)) for measure in measures))
        for name, result in scored.items()
        for r in result.reports
    ]
    if lines:
        ui.show(ui.rows(made, lines))
    ui.say(str(out))


def _distinct(runs: list[Run]) -> list[Run]:
    """Runs whose folders share a name are called by their whole path."""
    from dataclasses import replace

    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else replace(run, name=str(run.folder)) for run in runs
    ]


def _score(run: Run, protocols: list[str], limit: int, device: str) -> Scored:
    from refseg.evaluate import Options, count_expressions, evaluate_all
    from refseg.predict import load
    from refseg.recipes.base import Recipe
    from refseg.recipes.opening import open_split
    from refseg.report import Scored, telling_cases

    assert run.model is not None
    assert isinstance(run.recipe, Recipe)
    ready_data(run.recipe.data.name)
    model = load(run.model, device)
    model.name = run.name
    dataset = open_split(run.recipe, run.recipe.data.evaluate or "val", view="sentence")
    options = Options(limit=limit)
    with ui.progress(f"scoring {run.name}", count_expressions(dataset, options)) as tick:
        options = Options(limit=limit, progress=tick)
        reports = evaluate_all(model, dataset, protocols, options=options)
    return Scored(reports, telling_cases(model, dataset, reports[0]))
