"""One self-contained HTML page about training runs: curves, scores, differences, cases, steps.

runs = [read_run(Path("runs/a")), read_run(Path("runs/b"))]
html = report_page(runs, {"a": Scored(reports, cases)})

A run of several stages has a curve for each, and scores for each that leaves a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from refseg import draw
from refseg.cases import Case
from refseg.errors import RunError
from refseg.evaluate import Report
from refseg.page import Page
from refseg.recipes.base import Recipe
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.provenance import read_recipe
from refseg.recipes.stages import read_manifest
from refseg.steps import Steps
from refseg.train.checkpoint import flatten
from refseg.train.log import read_log

#: The bound that proposals set, where a method has some; boxes, where these are all that was seen;
#: what a frozen image-text model says, where that were texts alone.
CURVES = ("mIoU", "oIoU", "oracle", "REC@0.5", "margin")
SHOWN = (
    "mIoU", "oracle", "oIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "PointIt", "PointM", "consistency",
)  # fmt: skip
#: What opens to a method's own pictures of an answer.
WHY = "what the method tells of it"


@dataclass(frozen=True)
class Part:
    """What a stage of a run has left. log: see `refseg.train.log`, empty of what trains nothing.

    model: the folder of its model, if it left one that can be scored. finished: as its manifest
    says.
    """

    stage: str
    log: Sequence[Mapping[str, Any]]
    model: Path | None
    finished: bool


@dataclass(frozen=True)
class Run:
    """What a run's folder holds, stage by stage. An encoder's run leaves nothing to score."""

    name: str
    folder: Path
    recipe: Recipe | EncoderRecipe
    parts: Sequence[Part]

    def called(self, part: Part) -> str:
        """How the page calls the model of a stage."""
        return self.name if len(self.parts) == 1 else f"{self.name} ({part.stage})"


@dataclass(frozen=True)
class Scored:
    """A stage's model under several protocols, none where there are no masks; and of a run's last
    model the telling cases.
    """

    reports: Sequence[Report]
    cases: Sequence[Case] = ()


def read_run(folder: Path) -> Run:
    """Read a run's folder; it may be unfinished. Raises RunError for anything else."""
    if not (folder / "recipe.json").is_file():
        what = "is no run of refseg" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {what}", remedy="name the folder given to `refseg train --out`")
    recipe = read_recipe(folder / "recipe.json")
    stages = recipe.stages if isinstance(recipe, Recipe) else ("train",)
    parts = [_read_part(folder, stage, scored=isinstance(recipe, Recipe)) for stage in stages]
    whole = folder / "model"  # the last stage's; it may be all that was kept
    if isinstance(recipe, Recipe) and parts[-1].model is None and _is_model(whole):
        parts[-1] = replace(parts[-1], model=whole)
    return Run(folder.resolve().name, folder, recipe, parts)


def _read_part(folder: Path, stage: str, *, scored: bool) -> Part:
    own = folder / stage
    model = own / "model" if scored and _is_model(own / "model") else None
    return Part(stage, read_log(own / "log.jsonl"), model, read_manifest(own) is not None)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def report_page(
    runs: Sequence[Run],
    scored: Mapping[str, Scored],
    steps: Mapping[str, Sequence[Steps]] | None = None,
) -> str:
    """The page as HTML. scored: what `Run.called` says -> scores; models without any are told as
    unfinished. steps: run name -> rows of `refseg.steps`, for runs of TRIS.
    """
    page = Page("Training report" if len(runs) > 1 else f"Training report: {runs[0].name}")
    columns = ("run", "recipe", "method", "labels", "stage", "steps done", "hours", "scored")
    page.table(columns, (_summary(run, part, scored) for run in runs for part in run.parts))
    _curves(page, runs)
    if len(runs) > 1:
        page.heading("What differs")
        _differences(page, runs)
    if any(result.reports for result in scored.values()):
        page.heading("Scores, %")
        _scores(page, scored)
    for name, result in scored.items():
        _gallery(page, name, result.cases)
    for name, rows in (steps or {}).items():
        _steps(page, name, rows)
    page.heading("Recipes")
    for run in runs:
        page.text(f"{run.name}: {run.recipe.promise}")
        page.code(run.recipe.model_dump_json(indent=2, exclude={"promise"}))
    return page.html()


def differences(recipes: Mapping[str, Recipe | EncoderRecipe]) -> list[tuple[str, list[Any]]]:
    """The dotted keys in which recipes differ, each with its value in every recipe."""
    flat = [flatten(r.model_dump(mode="json", exclude={"promise"})) for r in recipes.values()]
    keys = dict.fromkeys(key for one in flat for key in one)
    told = ((key, [one.get(key, "-") for one in flat]) for key in keys)
    return [(key, values) for key, values in told if any(v != values[0] for v in values)]


def _summary(run: Run, part: Part, scored: Mapping[str, Scored]) -> tuple[object, ...]:
    last = part.log[-1] if part.log else {}
    recipe = run.recipe
    if isinstance(recipe, Recipe):
        method, labels = recipe.method_name, recipe.data.labels
    else:
        method, labels = f"encoder ({recipe.kind})", recipe.labels
    seconds = max((line.get("seconds", 0.0) for line in part.log), default=0.0)
    return (
        run.name,
        recipe.name,
        method,
        labels,
        part.stage,
        last.get("step", "-"),
        f"{seconds / 3600:.2f}" if part.log else "-",
        _is_scored(run, part, scored),
    )


def _is_scored(run: Run, part: Part, scored: Mapping[str, Scored]) -> str:
    if not isinstance(run.recipe, Recipe):
        return "an encoder has no masks"
    result = scored.get(run.called(part))
    if result is not None:
        return "yes" if result.reports else "no masks to score by"
    return "leaves no model" if part.finished else "not finished yet"


def _curves(page: Page, runs: Sequence[Run]) -> None:
    page.heading("Curves")
    stages = list(dict.fromkeys(part.stage for run in runs for part in run.parts))
    drawn = []
    for stage in stages:
        logs = {run.name: p.log for run in runs for p in run.parts if p.stage == stage}
        before = f"{stage}: " if len(stages) > 1 else ""
        losses = {name: _series(log, "train", "loss", "total") for name, log in logs.items()}
        drawn += [_curve(losses, "loss", f"{before}total loss", log_y=True)]
        for metric in _metrics(runs):
            scores = {name: _series(log, "eval", "metrics", metric) for name, log in logs.items()}
            drawn += [_curve(scores, metric, f"{before}{metric} while training")]
    if any(drawn):
        page.gallery((picture, "") for picture in drawn if picture is not None)
    else:
        page.text("Nothing has been logged yet.")


def _metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics worth a curve: `CURVES` of a method's, all of an encoder's."""
    logs = [part.log for run in runs if not isinstance(run.recipe, Recipe) for part in run.parts]
    own = (name for log in logs for line in log for name in line.get("metrics", {}))
    return list(dict.fromkeys([*CURVES, *own]))


def _series(
    log: Sequence[Mapping[str, Any]], kind: str, group: str, name: str
) -> tuple[list[float], list[float]]:
    lines = [line for line in log if line.get("kind") == kind and name in line.get(group, {})]
    return [line["step"] for line in lines], [line[group][name] for line in lines]


def _curve(series: Mapping[str, Any], y: str, title: str, *, log_y: bool = False) -> bytes | None:
    filled = {name: points for name, points in series.items() if points[0]}
    return draw.curves(filled, title=title, x="step", y=y, log_y=log_y) if filled else None


def _differences(page: Page, runs: Sequence[Run]) -> None:
    rows = differences({run.name: run.recipe for run in runs})
    if rows:
        page.table(("key", *(run.name for run in runs)), ((key, *values) for key, values in rows))
    else:
        page.text("The recipes are the same.")


def _scores(page: Page, scored: Mapping[str, Scored]) -> None:
    reports = [(name, report) for name, result in scored.items() for report in result.reports]
    metrics = [name for name in SHOWN if any(name in report.metrics for _, report in reports)]
    page.table(
        ("run", "data", "protocol", "n", *metrics),
        (
            (name, f"{r.data} {r.split}", r.protocol, r.n, *(_percent(r, m) for m in metrics))
            for name, r in reports
        ),
    )


def _percent(report: Report, metric: str) -> str:
    value = report.metrics.get(metric)
    return "-" if value is None else f"{100 * value:.1f}"


def _gallery(page: Page, name: str, cases: Sequence[Case]) -> None:
    for kind in dict.fromkeys(case.kind for case in cases):
        page.heading(f"{name}: {kind}")
        own = [case for case in cases if case.kind == kind]
        pictures = ((case.png, f"{case.text} (IoU {100 * case.iou:.1f})") for case in own)
        page.gallery(pictures, (case.inner for case in own), WHY)


def _steps(page: Page, name: str, rows: Sequence[Steps]) -> None:
    if not rows:
        return
    page.heading(f"{name}: step by step")
    page.text(
        "Training expressions, evenly among the first pictures; an answer's IoU is with the truth, "
        "which nothing learned from."
    )
    for row in rows:
        page.row(panel.cell() for panel in row.panels())
