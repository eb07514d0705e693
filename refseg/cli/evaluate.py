"""`refseg eval`: scores of a model on a data set, each under its protocol's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import evaluate_tasks as tasks
from refseg.cli import ui
from refseg.cli.options import (
    DataName,
    Device,
    Images,
    Json,
    SplitBy,
    at_least_one,
    check_writable,
    ready_data,
)
from refseg.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from refseg.data.dataset import ReferDataset
    from refseg.evaluate import Answers, Options, Report

BEAMS = 3


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundled model, a model folder, a hub id, or baseline:whole-image, "
            "baseline:centre-disc, baseline:largest-object.",
            metavar="MODEL",
        ),
    ],
    data: DataName = "scenes",
    split: Annotated[str, typer.Option(help="train, val, testA, testB, ...", metavar="S")] = "val",
    task: Annotated[
        str | None,
        typer.Option(
            help="masks; objects (which of the annotated objects is meant); expressions (write one "
            "about each object). [default: objects for methods that choose among annotated "
            "objects, which have no masks of their own; else masks]",
            metavar="T",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="How to score: original, lavt-480, cris-035, ...; may be repeated, all come "
            "from one pass. [default: original]",
            metavar="P",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="The first N expressions only (with --task expressions: objects).", metavar="N"
        ),
    ] = None,
    images: Images = None,
    split_by: SplitBy = None,
    text_field: Annotated[
        str, typer.Option(help="raw (as typed) or sent (cleaned).", metavar="F")
    ] = "raw",
    mask_rule: Annotated[
        str | None,
        typer.Option(
            help="How the parts of a target are joined: union, or lavt_compat (what two parts "
            "share is background). [default: the protocol's own]",
            metavar="R",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Expressions asked at once (with --task expressions: pictures).", metavar="N"
        ),
    ] = 32,
    perturb: Annotated[
        str | None,
        typer.Option(
            help="Spoil the expressions first: typo, slang, case, article or filler.",
            metavar="KIND",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="With --task expressions: another model, trained by itself, whose selection head "
            "tells whether a sentence leads back to its object (Rb-Acc).",
            metavar="MODEL",
        ),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            help="With --task expressions: a data set over the same annotations whose sentences "
            "join the references (RefCOCO+ for RefCOCO); may be repeated.",
            metavar="NAME|DIR",
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            help="With --task expressions: width of the search, 1 is greedy. [default: 3]",
            metavar="K",
        ),
    ] = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the JSON to this file too (with --task expressions: every sentence as "
            "well).",
            metavar="FILE",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score MODEL on a split of a data set.

    JSON: {"model", "data", "split", "protocol", "labels", "n", "metrics": {"mIoU", "oIoU",
    "Pr@0.5", ...}, ...} with fractions in 0..1, "labels" being what the model learned from; a
    list of these when several protocols are asked for. --task objects: "protocol" is "annotated
    objects", "metrics" {"accuracy", "accuracy with rivals", "chance"}, with "absent" and "rivals"
    (expressions whose target is no single object; that have another object of its category).
    --task expressions: {"task", "judge", "merged", "beams", "n" (objects), "metrics": {"CIDEr",
    "METEOR" or "meteor_es", "Rb-Acc", "unambiguous", "runs on", ...}, "notes", ...}.
    """
    with ui.results_only(json):
        at_least_one("--limit", limit)
        at_least_one("--batch-size", batch_size)
        at_least_one("--beams", beams)
        if out is not None:
            check_writable("--out", out)
        tasks.check_task(task)
        names = _checked(protocol or ["original"])
        change = _perturbation(perturb)
        loaded = _load(model, device)
        task = task or tasks.default_task(loaded)
        given = {
            "--protocol": protocol, "--mask-rule": mask_rule, "--perturb": perturb,
            "--judge": judge, "--merge": merge, "--beams": beams,
        }  # fmt: skip
        tasks.check_options(task, given, loaded)
        tasks.check_able(task, model, loaded)
        judging = None if judge is None else _load_judge(judge, model, loaded, device)
        for name in (data, *(merge or ())):
            ready_data(name)
        shown = tasks.reads(task, loaded, judging)
        opened = _open(data, split, images, split_by, text_field, shown)
        from refseg.evaluate import Options

        options = Options(
            limit, batch_size, None, change, perturb or "as written",
            mask_rule=mask_rule,  # type: ignore[arg-type]
        )  # fmt: skip
        if task == tasks.EXPRESSIONS:
            told = tasks.expressions(loaded, judging, opened, options, merge or [], beams or BEAMS)
        elif task == tasks.OBJECTS:
            told = tasks.objects(loaded, opened, options)
        else:
            told = _masks(loaded or _baseline(model, opened), opened, names, options)
    if json:
        ui.emit_json(told.printed)
    else:
        told.show()
    if out is not None:  # last: a full disk must not cost the numbers
        from refseg.ops.files import atomic_write_json

        atomic_write_json(out, ui.finite(told.kept))


def _checked(protocols: list[str]) -> list[str]:
    from refseg.metrics.protocols import get_protocol

    return [get_protocol(name).name for name in dict.fromkeys(protocols)]


def _perturbation(kind: str | None) -> Any:
    if kind is None:
        return None
    from refseg.data.scenes.perturb import PERTURBATIONS, perturb

    if kind not in PERTURBATIONS:
        raise UnknownName("perturbation", kind, PERTURBATIONS)
    return lambda text, rng: perturb(text, kind, rng)


def _open(
    data: str,
    split: str,
    images: Path | None,
    split_by: str | None,
    text_field: str,
    shown: tasks.Reads,
) -> ReferDataset:
    from refseg.data.catalog import open_data
    from refseg.types import Labels

    return open_data(
        data,
        split,
        Labels(shown.labels),
        images=images,
        split_by=split_by,
        text_field=text_field,  # type: ignore[arg-type]
        objects=shown.objects,
        pixels=shown.pixels,
    )


def _load(model: str, device: str) -> Answers | None:
    """The model; None for a baseline, which can only be made for an open data set."""
    from refseg.baselines import NAMES, PREFIX

    if model.startswith(PREFIX):
        if model not in NAMES:
            raise UnknownName("baseline", model, NAMES)
        return None
    from refseg.predict import load

    loaded = load(model, device)
    loaded.name = model  # as typed: the folders of runs are all called "model"
    return loaded


def _load_judge(judge: str, name: str, model: Any, device: str) -> Any:
    """The judge of `model`, which was called `name`. Raises ConfigError if it is no other."""
    from refseg.baselines import PREFIX
    from refseg.evaluate_text import check_independent

    if judge.startswith(PREFIX):
        raise ConfigError(f"--judge {judge} is no model", remedy="name a trained model")
    tasks.check_judge(judge, name)
    loaded = _load(judge, device)
    check_independent(model, loaded)  # before the data are opened, which may take minutes
    return loaded


def _baseline(model: str, dataset: ReferDataset) -> Answers:
    from refseg.baselines import make_baseline

    return make_baseline(model, dataset)


def _masks(
    model: Answers, dataset: ReferDataset, protocols: list[str], options: Options
) -> tasks.Told:
    from dataclasses import replace

    from refseg.evaluate import count_expressions, evaluate_all

    total = count_expressions(dataset, options)
    with ui.progress(f"{model.name} on {dataset.name} {dataset.split}", total) as tick:
        options = replace(options, progress=tick)
        reports = evaluate_all(model, dataset, protocols, options=options)
    each = [report.to_json() for report in reports]
    printed = each[0] if len(each) == 1 else each
    return tasks.Told(printed, printed, lambda: show(reports))


def show(reports: list[Report]) -> None:
    """One table: metrics down, protocols (and models) across, percent; then the intervals."""
    first = reports[0]
    title = f"{first.data} {first.split}, {first.n:,} expressions"
    made = ui.table(["metric, %", *(f">{_short(r.model)}\n{r.protocol}" for r in reports)], title)
    names = list(dict.fromkeys(name for report in reports for name in report.metrics))
    ui.rows(
        made,
        ([name, *(ui.percent(report.metrics.get(name)) for report in reports)] for name in names),
    )
    ui.show(made)
    for report in (report for report in reports if report.model == first.model):
        told = ", ".join(
            f"{name} {ui.percent(low)} to {ui.percent(high)}"
            for name, (low, high) in report.intervals.items()
        )
        ui.say(f"95 % intervals, {report.protocol}: {told}")
    ui.say(f"{first.model} learned from: {first.labels}; expressions: {first.text}")


def _short(model: str) -> str:
    """A model's name for the head of a column: without the folders above the last two."""
    return "/".join(Path(model.removeprefix("baseline:")).parts[-2:])
