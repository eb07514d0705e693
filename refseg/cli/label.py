"""`refseg label`: a data set whose masks or expressions a model made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Images, Json, SplitBy, at_least_one, ready_data

if TYPE_CHECKING:
    from refseg.label import LabelResult


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
            "instances file, or the rendered world's pool.json.",
            metavar="NAME|DIR|FILE",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder of the new data set; kept files are gone on with.")
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
    images: Images = None,
    exclude_images: Annotated[
        Path | None,
        typer.Option(help="A file of image ids to leave out, one a line.", metavar="FILE"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="The first N pictures only.", metavar="N")
    ] = None,
    beams: Annotated[
        int, typer.Option(help="expressions: how many are searched for.", metavar="N")
    ] = 3,
    per_object: Annotated[
        int, typer.Option(help="expressions: how many are kept for each object.", metavar="N")
    ] = 3,
    min_area: Annotated[
        int,
        typer.Option(
            help="expressions: the filter area leaves out objects of fewer pixels.", metavar="PX"
        ),
    ] = 1024,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Importance of a sentence in a student's loss. [default: 0.1 for expressions, "
            "the source's for masks]",
            metavar="W",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            "--filter",
            help="expressions: which objects are described.",
            metavar="area|random:N|none",
        ),
    ] = "area",
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
    seed: Annotated[int, typer.Option(help="Draws the objects of the filter random:N.")] = 0,
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
            beams=beams,
            per_object=per_object,
            filter=keep,
            min_area=min_area,
            verify=verify,
            pixels=False if no_images else None,
            weight=weight,
            seed=seed,
            shard_images=shard_images,
        )
        if not Path(data).expanduser().is_file():
            ready_data(data)
        with _progress(f"{task} by {model}") as told:
            result = run(options, workers=workers, device=device, progress=told)
    if json:
        ui.emit_json(result.to_json())
    else:
        _show(result)


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
    left = ", ".join(f"{why} {count:,}" for why, count in result.left_out.items() if count)
    ui.say(f"left out: {left or 'nothing'}")
    ui.say(f"{result.about['model']} learned from: {result.about['labels used']}")
    ui.say(str(result.out))
