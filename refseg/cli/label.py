"""`refseg label`: a data set whose masks or expressions a model made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import (
    Belongs,
    Device,
    Images,
    Json,
    SplitBy,
    at_least_one,
    check_belongs,
    ready_data,
)
from refseg.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from refseg.label import LabelResult


EXPRESSIONS, MASKS, AREA = "expressions", "masks", "area"
BELONGS: Belongs = {
    "--refs": (EXPRESSIONS,),
    "--beams": (EXPRESSIONS,),
    "--per-object": (EXPRESSIONS,),
    "--filter": (EXPRESSIONS,),
    "--min-area": (EXPRESSIONS,),
    "--seed": (EXPRESSIONS, MASKS),
    "--verify": (EXPRESSIONS,),
    "--no-images": (EXPRESSIONS,),
    "--agree": (MASKS,),
    "--per-ref": (MASKS,),
    "--polygons": (MASKS,),
}
OF_FILTER: Belongs = {"--min-area": (AREA,), "--seed": ("random:N",)}


def label(
    model: Annotated[
        str,
        typer.Option(
            "--with", help="A bundled model, a model folder or a hub id.", metavar="MODEL"
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            help="masks: a mask for every expression of the split. expressions: sentences for "
            "every annotated object that nobody described.",
            metavar="expressions|masks",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="scenes, scenes+, scenesg or a data set's folder; for expressions also a COCO "
            "instances file (or a folder with one), or the rendered world's pool.json.",
            metavar="NAME|DIR|FILE",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder to write the new data set into. Name that of an interrupted start "
            "again to finish it.",
            metavar="DIR",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="masks: whose expressions [default: train]. expressions: whose pictures; pool: "
            "those that no expression is about [default: train+pool].",
            metavar="S",
        ),
    ] = None,
    split_by: SplitBy = None,
    refs: Annotated[
        str | None,
        typer.Option(
            help="expressions: the data set that tells which pictures and objects are described "
            "(RefCOCO, where --data is COCO's file). Pictures of its val and test are left out.",
            metavar="NAME|DIR",
        ),
    ] = None,
    images: Images = None,
    exclude_images: Annotated[
        Path | None,
        typer.Option(help="A file of image ids to leave out, one a line.", metavar="FILE"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="The first N pictures only, with all that is asked about them (refseg eval "
            "counts expressions).",
            metavar="N",
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(help="expressions: how many are searched for. [default: 3]", metavar="N"),
    ] = None,
    per_object: Annotated[
        int | None,
        typer.Option(
            help="expressions: how many are kept for each object. [default: 3]", metavar="N"
        ),
    ] = None,
    min_area: Annotated[
        int | None,
        typer.Option(
            help="expressions: the filter area leaves out objects of fewer pixels. [default: 1024]",
            metavar="PX",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Importance of a sentence in a student's loss. [default: 0.1 for expressions, "
            "the source's for masks]",
            metavar="W",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="expressions: which objects are described; random:N draws N of them. "
            "[default: area]",
            metavar="area|random:N|none",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="expressions: refer each back, and write down whether it hits."
        ),
    ] = False,
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images", help="expressions: look for no picture, even if the model could see it."
        ),
    ] = False,
    agree: Annotated[
        float | None,
        typer.Option(
            help="masks: keep only those that score below T against the known box of their ref: 0 "
            "fits, 2 lies beside it, 0.1 lets both sides be a tenth too short. Boxes are read, the "
            "data's masks never. [default: keep all]",
            metavar="T",
        ),
    ] = None,
    per_ref: Annotated[
        bool,
        typer.Option("--per-ref", help="masks: ask one sentence of each ref, drawn by --seed."),
    ] = False,
    polygons: Annotated[
        bool,
        typer.Option(
            "--polygons", help="masks: write them as the polygons that the model predicts."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes, each with a model of its own. [default: one a processor or GPU]",
            metavar="N",
        ),
    ] = None,
    shard_images: Annotated[
        int, typer.Option(help="Pictures in a shard, the unit that is kept.", metavar="N")
    ] = 64,
    seed: Annotated[
        int | None,
        typer.Option(
            help="With --filter random:N, or --per-ref: another number draws other objects, or "
            "sentences. [default: 0]",
            metavar="N",
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Let a model label data: masks for expressions, or expressions for objects.

    Writes a data set in the layout of REFER into --out, with its provenance in labels.json.
    Pictures are linked, not copied. The same command goes on where it was interrupted; the bytes
    depend neither on that nor on the number of workers.

    JSON: {"out", "model", "labels used", "data", "images", "asked", "refs", "expressions",
    "left_out", "shards", "shards_found", ...}.
    """
    at_least_one("--limit", limit)
    at_least_one("--workers", workers)
    with ui.results_only(json):
        from refseg.data.catalog import read_image_ids
        from refseg.label import LabelOptions
        from refseg.label import label as run

        chosen: dict[str, Any] = {
            "refs": refs, "beams": beams, "per_object": per_object, "filter": keep,
            "min_area": min_area, "seed": seed, "agree": agree,
        }  # fmt: skip
        given = {f"--{name.replace('_', '-')}": value for name, value in chosen.items()}
        flags = {
            "--verify": verify or None, "--no-images": no_images or None,
            "--per-ref": per_ref or None, "--polygons": polygons or None,
        }  # fmt: skip
        check_options(task, keep or AREA, {**given, **flags})
        excluded = frozenset[int]() if exclude_images is None else read_image_ids(exclude_images)
        options = LabelOptions(
            model=model,
            task=task,  # type: ignore[arg-type]
            data=data,
            out=out,
            split=split,
            split_by=split_by,
            images=images,
            exclude_images=excluded,
            limit=limit,
            verify=verify,
            pixels=False if no_images else None,
            per_ref=per_ref,
            polygons=polygons,
            weight=weight,
            shard_images=shard_images,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        for name in (data, *([] if refs is None else [refs])):
            if not Path(name).expanduser().is_file():
                ready_data(name)
        looking = ui.progress_when_told("looking at the sizes of {} objects")
        with looking as looked, _progress(f"{task} by {model}") as told:
            result = run(options, workers=workers, device=device, progress=told, looked=looked)
    if json:
        ui.emit_json(result.to_json())
    else:
        _show(result)


def check_options(task: str, kind: str, given: dict[str, Any]) -> None:
    """Raise UnknownName for a task that there is not, ConfigError for an option that was given
    (is not None) and means nothing to the task, or to the filter `kind`.
    """
    from refseg.label.options import FILTERS, TASKS

    if task not in TASKS:
        raise UnknownName("task", task, TASKS)
    check_belongs("--task", task, given, BELONGS)
    if task == MASKS and given.get("--seed") is not None and not given.get("--per-ref"):
        raise ConfigError(
            f"--seed means nothing to --task {MASKS} without --per-ref",
            remedy=f"leave it out, or ask for --per-ref, or --task {EXPRESSIONS}",
        )
    for name in FILTERS if task == EXPRESSIONS else ():  # LabelOptions tells of others
        if name.partition(":")[0] == kind.partition(":")[0]:
            check_belongs("--filter", name, given, OF_FILTER)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over the pictures that are left to do; the time left is that of this start."""
    with ExitStack() as stack:
        told: Callable[[int, int], None] | None = None
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal told, before
            if told is None:
                before = done
                if done:
                    ui.note(f"{done:,} of {total:,} pictures were labelled before")
                told = ui.steps(stack.enter_context(ui.progress(title, total - done)))
            told(done - before, total - before)

        yield progress


def _show(result: LabelResult) -> None:
    counts: dict[str, Any] = dict(result.counts)
    expressions, refs = counts.pop("expressions"), counts.pop("refs")
    made = ui.table([">pictures", ">asked", ">refs", ">expressions", *(f">{c}" for c in counts)])
    numbers = (result.images, result.asked, refs, expressions, *counts.values())
    ui.show(ui.rows(made, [[f"{number:,}" for number in numbers]]))
    for name, share in result.summary.items():
        ui.say(f"{name}: {100 * share:.1f} %, the rest is not in the data")
    left = ", ".join(f"{why} {count:,}" for why, count in result.left_out.items() if count)
    ui.say(f"left out: {left or 'nothing'}")
    ui.say(f"{result.about['model']} learned from: {result.about['labels used']}")
    ui.say(str(result.out))
