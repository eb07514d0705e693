"""`refseg report`: one HTML page about training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, at_least_one, ready_data

if TYPE_CHECKING:
    from refseg.report import Part, Run, Scored
    from refseg.steps import Steps

PROTOCOLS = ("original", "lavt-480", "cris-035")
ROWS = 6  # expressions that are shown step by step


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
        int,
        typer.Option(
            help="Expressions of each run's evaluation split to score each model on.", metavar="N"
        ),
    ] = 300,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one self-contained HTML page about RUNs.

    Loss and score curves of each stage, scores by protocol of each stage's model, what differs
    between the recipes, and the worst, middle and best cases of the last model. Below a case opens
    what the method tells of its answer, as `refseg predict --explain` draws it: the response and
    inner maps of `vega`, `tris` and `maskclip`, segments of `groupvit`, entities, their relevance
    and the top three of `sag`, the points of `partial_res`, the proposals of `mutual`. A run of
    `tris` also shows training expressions step by step: the map of step 1, after PRMS, edges, after
    the random walk, the pseudo mask, step 2, the truth; steps that are not finished are left out.
    An encoder's run has curves alone. Scores, and the truth in pictures, read masks that were not
    granted for learning. JSON: {"page", "runs", "scores"}, scores as `refseg eval` gives them,
    "model" being "RUN (STAGE)" where a run has several stages.
    """
    at_least_one("--limit", limit)
    with ui.results_only(json):
        from refseg.metrics.protocols import get_protocol
        from refseg.ops.files import atomic_write_text
        from refseg.report import read_run, report_page

        names = [get_protocol(name).name for name in protocol or PROTOCOLS]
        read = _distinct([read_run(folder) for folder in runs])
        # Before the scores, which take long: what is broken is told at once.
        steps = {run.name: _steps(run, device) for run in read}
        scored = {
            run.called(part): _score(run, part, names, limit, device)
            for run in read
            for part in run.parts
            if part.model is not None
        }
        atomic_write_text(out, report_page(read, scored, steps))
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


def _steps(run: Run, device: str) -> list[Steps]:
    """Training expressions step by step; of runs of TRIS alone."""
    from refseg.predict import pick_device
    from refseg.recipes.base import Recipe
    from refseg.steps import steps_of_run

    if not isinstance(run.recipe, Recipe) or run.recipe.tris is None:
        return []
    ready_data(run.recipe.data.name)
    return steps_of_run(run.folder, run.recipe, ROWS, pick_device(device))


def _score(run: Run, part: Part, protocols: list[str], limit: int, device: str) -> Scored:
    from refseg.cases import telling_cases
    from refseg.evaluate import Options, count_expressions, evaluate_all
    from refseg.predict import load
    from refseg.recipes.base import Recipe
    from refseg.recipes.opening import open_to_show
    from refseg.report import Scored

    assert part.model is not None
    assert isinstance(run.recipe, Recipe)
    ready_data(run.recipe.data.name)
    model = load(part.model, device)
    model.name = run.called(part)
    dataset = open_to_show(run.recipe, run.recipe.data.evaluate or "val", view="sentence")
    if not dataset.labels.allows("mask"):
        return Scored(())
    options = Options(limit=limit)
    with ui.progress(f"scoring {model.name}", count_expressions(dataset, options)) as tick:
        options = Options(limit=limit, progress=tick)
        reports = evaluate_all(model, dataset, protocols, options=options)
    last = all(one.model is None for one in run.parts[run.parts.index(part) + 1 :])
    return Scored(reports, telling_cases(model, dataset, reports[0]) if last else ())
