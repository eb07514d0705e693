"""What `refseg eval --task objects` and `--task expressions` ask, and how they show the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from refseg.cli import ui
from refseg.cli.options import Belongs, check_belongs
from refseg.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from refseg.data.dataset import ReferDataset
    from refseg.evaluate import Options
    from refseg.evaluate_objects import ObjectsReport
    from refseg.evaluate_text import TextReport

MASKS, OBJECTS, EXPRESSIONS = TASKS = ("masks", "objects", "expressions")

BELONGS: Belongs = {
    "--protocol": (MASKS,),
    "--mask-rule": (MASKS,),
    "--perturb": (MASKS, OBJECTS),
    "--judge": (EXPRESSIONS,),
    "--merge": (EXPRESSIONS,),
    "--beams": (EXPRESSIONS,),
}

# Metrics that are no fractions: name -> digits after the point.
PLAIN = {"CIDEr": 3, "METEOR": 3, "meteor_es": 3, "words": 1}


class Reads(NamedTuple):
    """What models have to be shown: label kinds, whether all objects, whether pixels."""

    labels: frozenset[str]
    objects: bool
    pixels: bool


class Told(NamedTuple):
    """The answer of a task: what --json prints, what --out keeps, and how people see it."""

    printed: Any
    kept: Any
    show: Callable[[], None]


def check_task(task: str | None) -> None:
    """Raise UnknownName for a task that there is not."""
    if task is not None and task not in TASKS:
        raise UnknownName("task", task, TASKS)


def default_task(model: Any) -> str:
    """Methods that choose among annotated objects are asked to do that, all others for masks."""
    return OBJECTS if _reads_objects(model) else MASKS


def check_options(task: str, given: dict[str, Any], model: Any) -> None:
    """Raise ConfigError for an option that was given and means nothing to the task."""
    refused = (MASKS,) if _reads_objects(model) else ()
    check_belongs("--task", task, given, BELONGS, refused)


def check_able(task: str, name: str, model: Any) -> None:
    """Raise ConfigError for a model (None: a baseline) that cannot do the task.

    A method that is given the annotated objects segments nothing: its masks would be the
    annotation's own boxes, and their IoU no score of segmentation.
    """
    if task == MASKS and _reads_objects(model):
        raise ConfigError(
            f"{name} chooses among annotated objects and makes no masks",
            remedy="score it with --task objects",
        )
    if task == OBJECTS and not _reads_objects(model):
        raise ConfigError(
            f"{name} does not choose among annotated objects", remedy="score it with --task masks"
        )
    if task == EXPRESSIONS:
        from refseg.describe import check_writes, writers

        if model is None:
            able = ", ".join(writers())
            raise ConfigError(
                f"{name} cannot write expressions",
                remedy=f"these can: {able}" if able else "use a model of the method mutual",
            )
        check_writes(model)


def check_judge(judge: str, name: str) -> None:
    """Raise ConfigError for a judge that is the model itself, before either is loaded.

    `refseg.evaluate_text.check_independent` finds those that share no more than the head.
    """
    from refseg.models import find_model

    if find_model(judge).resolve() == find_model(name).resolve():
        raise ConfigError(
            f"--judge {judge} is the model itself, which is no independent judge",
            remedy="name another model, or leave it out: accuracy by its own head is told anyway",
        )


def _reads_objects(model: Any) -> bool:
    return bool(getattr(getattr(model, "method", None), "reads_objects", False))


def reads(task: str, *models: Any) -> Reads:
    """What the data must show for the task and these models (None: a baseline).

    Scores of masks compare masks and boxes; the other tasks show what the methods themselves
    need, and annotated objects always with boxes and categories. The models can do the task
    (`check_able`).
    """
    methods = [getattr(model, "method", None) for model in models if model is not None]
    labels = frozenset({"text", "box"})
    objects = task != MASKS
    if task == MASKS:
        labels |= {"mask"}
    else:
        labels = labels.union(*(method.needs.granted for method in methods if method is not None))
    if task == OBJECTS or any(map(_reads_objects, models)):
        labels |= {"category"}
    pixels = not methods or any(getattr(method, "reads_pixels", True) for method in methods)
    return Reads(labels, objects, pixels)


# -- Objects --------------------------------------------------------------------------------------


def objects(model: Any, dataset: ReferDataset, options: Options) -> Told:
    """Asks `--task objects`, with a bar. Errors: as `refseg.evaluate_objects`."""
    from refseg.evaluate import count_expressions
    from refseg.evaluate_objects import evaluate_objects

    total = count_expressions(dataset, options)
    with ui.progress(f"{model.name} on {dataset.name} {dataset.split}", total) as tick:
        report = evaluate_objects(model, dataset, options=replace(options, progress=tick))
    return Told(report.to_json(), report.to_json(), lambda: show_objects(report))


def show_objects(report: ObjectsReport) -> None:
    """The table of `--task objects`."""
    _show_metrics(report, f"{report.n:,} expressions, choice among annotated objects", "metric, %")
    share = ui.percent(report.rivals / report.n)
    ui.say(
        f"{share} % of the expressions have a rival: another object of the target's category; "
        f"{report.absent:,} mean none or several of the objects and count as wrong"
    )
    ui.say(f"{report.model} learned from: {report.labels}; expressions: {report.text}")


# -- Expressions ----------------------------------------------------------------------------------


def expressions(
    model: Any, judge: Any, dataset: ReferDataset, options: Options, merge: list[str], beams: int
) -> Told:
    """Asks `--task expressions`, with a bar. Of options: limit and batch_size.

    judge: a loaded model or None. Errors: as `refseg.evaluate_text`.
    """
    from refseg.evaluate_text import evaluate_expressions
    from refseg.referred import referred

    total = sum(map(len, referred(dataset, options.limit)[0]))
    with ui.progress(f"{model.name} writes on {dataset.name} {dataset.split}", total) as tick:
        report = evaluate_expressions(
            model,
            dataset,
            judge=judge,
            merge=merge,
            beams=beams,
            limit=options.limit,
            pictures_at_once=options.batch_size,
            progress=tick,
        )
    kept = report.to_json(samples=True)
    return Told(report.to_json(), kept, lambda: show_expressions(report))


def show_expressions(report: TextReport) -> None:
    """The table of `--task expressions`, and what was left out."""
    how = f"{report.beams} beams" if report.beams > 1 else "greedy"
    _show_metrics(report, f"{report.n:,} objects, a sentence each, {how}", "metric")
    judge = "" if report.judge is None else f"judged by {report.judge}; "
    merged = f"merged with {', '.join(report.merged)}; " if report.merged else ""
    ui.say(f"{judge}{merged}CIDEr 0 to 10, METEOR 0 to 1, shares in percent")
    for note in report.notes:
        ui.say(note)
    ui.say(f"{report.model} learned from: {report.labels}")


def _show_metrics(report: ObjectsReport | TextReport, what: str, first: str) -> None:
    """Metrics down, with their intervals."""
    title = f"{report.model} on {report.data} {report.split}: {what}"
    made = ui.table([first, ">value", ">95 % interval"], title)
    lines = []
    for name, value in report.metrics.items():
        low, high = report.intervals.get(name, (None, None))
        told = f"{_value(name, low)} to {_value(name, high)}" if low is not None else ""
        lines.append([name, _value(name, value), told])
    ui.show(ui.rows(made, lines))


def _value(name: str, value: float | None) -> str:
    digits = PLAIN.get(name.removesuffix(" merged"))
    return ui.percent(value) if digits is None or value is None else f"{value:.{digits}f}"
