"""One self-contained HTML page about training runs: curves, scores, differences, cases.

runs = [read_run(Path("runs/a")), read_run(Path("runs/b"))]
html = report_page(runs, {"a": Scored(reports, cases)})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refseg import draw
from refseg.data.dataset import ReferDataset
from refseg.errors import RunError
from refseg.evaluate import Answers, Report
from refseg.page import Page
from refseg.recipes.base import Recipe
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.provenance import read_recipe
from refseg.train.checkpoint import flatten
from refseg.train.log import read_log

LOG = Path("train") / "log.jsonl"
CASES = 4  # pictures of each kind
CURVES = ("mIoU", "oIoU", "oracle")  # the bound that proposals set, where a method has some
SHOWN = ("mIoU", "oracle", "oIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "PointIt", "consistency")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds. log: see `refseg.train.log`.

    model: the folder of its model, if finished; an encoder's run has none, nothing to score.
    """

    name: str
    folder: Path
    recipe: Recipe | EncoderRecipe
    log: Sequence[Mapping[str, Any]]
    model: Path | None


@dataclass(frozen=True)
class Case:
    """One scored expression as a picture (PNG): the mask tinted, the truth outlined."""

    kind: str
    text: str
    iou: float
    png: bytes


@dataclass(frozen=True)
class Scored:
    """A run's model under several protocols, and its telling cases."""

    reports: Sequence[Report]
    cases: Sequence[Case]


def read_run(folder: Path) -> Run:
    """Read a run's folder; it may be unfinished. Raises RunError for anything else."""
    if not (folder / "recipe.json").is_file():
        what = "is no run of refseg" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {what}", remedy="name the folder given to `refseg train --out`")
    recipe, model = read_recipe(folder / "recipe.json"), folder / "model"
    answers = isinstance(recipe, Recipe) and (model / "config.json").is_file()
    log = read_log(folder / LOG)
    return Run(folder.resolve().name, folder, recipe, log, model if answers else None)


def telling_cases(model: Answers, dataset: ReferDataset, report: Report) -> list[Case]:
    """The worst, the middle and the best expressions of a report, asked again for their picture."""
    order = np.argsort(np.asarray(report.samples["iou"]), kind="stable")
    count = min(CASES, len(order))
    middle = max((len(order) - count) // 2, 0)
    picked = {
        "worst": order[:count],
        "middle": order[middle : middle + count],
        "best": order[::-1][:count],
    }
    keys = {report.samples["key"][i] for ranks in picked.values() for i in ranks}
    row_of = {key: row for row in range(len(dataset)) if (key := dataset.entry(row).key) in keys}
    return [
        _case(kind, model, dataset, row_of[report.samples["key"][i]], report.samples["iou"][i])
        for kind, ranks in picked.items()
        for i in ranks
    ]


def _case(kind: str, model: Answers, dataset: ReferDataset, row: int, iou: float) -> Case:
    sample = dataset[row]
    prediction = model.predict([sample])[0]
    truth = np.zeros_like(prediction.mask) if sample.mask is None else sample.mask
    return Case(
        kind, sample.text, iou, draw.png(draw.compare(sample.image, prediction.mask, truth))
    )


def report_page(runs: Sequence[Run], scored: Mapping[str, Scored]) -> str:
    """The page as HTML. scored: run name -> its scores; runs without any are told as unfinished."""
    page = Page("Training report" if len(runs) > 1 else f"Training report: {runs[0].name}")
    page.table(
        ("run", "recipe", "method", "labels", "steps done", "hours", "scored"),
        (_summary(run, run.name in scored) for run in runs),
    )
    _curves(page, runs)
    if len(runs) > 1:
        page.heading("What differs")
        _differences(page, runs)
    if scored:
        page.heading("Scores, %")
        _scores(page, scored)
    for name, result in scored.items():
        _gallery(page, name, result.cases)
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


def _summary(run: Run, scored: bool) -> tuple[object, ...]:
    last = run.log[-1] if run.log else {}
    recipe = run.recipe
    if isinstance(recipe, Recipe):
        method, labels = recipe.method_name, recipe.data.labels
        told = "yes" if scored else "no model yet"
    else:
        method, labels, told = f"encoder ({recipe.kind})", recipe.labels, "an encoder has no masks"
    seconds = max((line.get("seconds", 0.0) for line in run.log), default=0.0)
    return (
        run.name,
        recipe.name,
        method,
        labels,
        last.get("step", 0),
        f"{seconds / 3600:.2f}",
        told,
    )


def _curves(page: Page, runs: Sequence[Run]) -> None:
    page.heading("Curves")
    losses = {run.name: _series(run, "train", "loss", "total") for run in runs}
    pictures = [_curve(losses, "loss", "total loss", log_y=True)]
    for metric in _metrics(runs):
        scores = {run.name: _series(run, "eval", "metrics", metric) for run in runs}
        pictures.append(_curve(scores, metric, f"{metric} while training"))
    drawn = [picture for picture in pictures if picture is not None]
    if drawn:
        page.gallery((picture, "") for picture in drawn)
    else:
        page.text("Nothing has been logged yet.")


def _metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics worth a curve: `CURVES` of a method's, all of an encoder's."""
    encoders = [run for run in runs if not isinstance(run.recipe, Recipe)]
    own = (name for run in encoders for line in run.log for name in line.get("metrics", {}))
    return list(dict.fromkeys([*CURVES, *own]))


def _series(run: Run, kind: str, group: str, name: str) -> tuple[list[float], list[float]]:
    lines = [line for line in run.log if line.get("kind") == kind and name in line.get(group, {})]
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
        page.gallery(
            (case.png, f"{case.text} (IoU {100 * case.iou:.1f})")
            for case in cases
            if case.kind == kind
        )
