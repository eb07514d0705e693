"""`refseg data`: make, describe and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Images, Json, SplitBy, at_least_one, ready_data
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.data.check import CheckReport

app = typer.Typer(
    help="Make, describe and check data sets.", no_args_is_help=True, rich_markup_mode="markdown"
)

Name = Annotated[
    str,
    typer.Argument(help="scenes, scenes+, scenesg, or a data set's folder.", metavar="NAME|DIR"),
]


def make(
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for it. [default: the cache folder]", metavar="DIR"),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many scenes. [default: 4000]", metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    json: Json = False,
) -> None:
    """Render the embedded world: scenes, scenes+ and scenesg over the same images.

    Splits train, val, testA, testB and a pool of images without expressions.
    JSON: {"folder", "images", "refs", "sentences", ...}.
    """
    import json as parser

    from refseg.data.catalog import SCENES_IMAGES
    from refseg.data.scenes.build import build_scenes, ensure_scenes
    from refseg.data.store import cache_folder

    at_least_one("--images", images)
    count = images or SCENES_IMAGES
    if out is not None and out.exists() and not _is_world(out):
        raise ConfigError(f"{out} exists and is no rendered world", remedy="give another --out")
    with ui.progress(f"rendering {count:,} scenes", count) as tick:
        told = ui.steps(tick)
        if out is None:
            folder = ensure_scenes(cache_folder(), seed=seed, images=count, progress=told)
        else:
            folder = build_scenes(out, seed=seed, images=count, progress=told)
    world = parser.loads((folder / "world.json").read_text(encoding="utf-8"))
    if json:
        ui.emit_json({"folder": str(folder), **world})
        return
    made = ui.table(["data set", ">refs", ">expressions"])
    lines = [(s, f"{world['refs'][s]:,}", f"{n:,}") for s, n in world["sentences"].items()]
    ui.show(ui.rows(made, lines))
    ui.say(str(folder))


def _is_world(folder: Path) -> bool:
    return (folder / "world.json").is_file() or (folder.is_dir() and not any(folder.iterdir()))


def info(name: Name, split_by: SplitBy = None, json: Json = False) -> None:
    """Count a data set's refs, expressions and images by split, beside the published counts.

    JSON: {"dataset", "split_by", "splits", "images", "objects", "labels", ...}.
    """
    with ui.results_only(json):
        from refseg.data.catalog import data_info

        ready_data(name)
        told = data_info(name, split_by=split_by)
    if json:
        ui.emit_json(told)
    else:
        _show_info(told)


def _show_info(told: dict[str, Any]) -> None:
    columns = ["split", ">refs", ">expressions", ">images", ">words (mean)", ">published"]
    made = ui.table(columns, f"{told['dataset']} ({told['split_by']})")
    lines = []
    for split, counts in told["splits"].items():
        known = counts["published"]
        published = "-" if not known else _count(known["sentences"])
        sizes = (_count(counts[kind]) for kind in ("refs", "sentences", "images"))
        lines.append((split, *sizes, f"{counts['words_mean']:.2f}", published))
    ui.show(ui.rows(made, lines))
    ui.say(
        f"{_count(told['images'])} images, {_count(told['objects'])} objects of "
        f"{_count(told['categories'])} categories; labels: {', '.join(told['labels'])}"
    )
    if told["same_category_mean"] is not None:
        ui.say(f"objects of the target's category in its image: {told['same_category_mean']:.2f}")
    if told["no_target_refs"] or told["multi_target_refs"]:
        ui.say(
            f"refs without a target: {told['no_target_refs']}, several: {told['multi_target_refs']}"
        )
    for what, count in told["skipped"].items():
        ui.warn(f"left out, {what}: {count:,}")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def check(
    name: Name,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another data set whose images must not be shared between training and "
            "evaluation; may be repeated.",
            metavar="NAME|DIR",
        ),
    ] = None,
    max_words: Annotated[
        int,
        typer.Option(
            help="Warn about expressions of more than T tokens, [CLS] and [SEP] included. The "
            "bundled model reads 24, the recipe vega_refcoco 21.",
            metavar="T",
        ),
    ] = 24,
    limit: Annotated[
        int | None,
        typer.Option(help="Open at most N images and N masks, evenly spread.", metavar="N"),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read whole images, not only their headers.")
    ] = False,
    images: Images = None,
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images", help="Words and boxes are all that is needed: look for no image."
        ),
    ] = False,
    split_by: SplitBy = None,
    json: Json = False,
) -> None:
    """Look for everything that can be wrong with a data set, in one report.

    Counts against the published ones, a lack of anything to train on, missing and broken images,
    broken or empty masks, sizes that disagree, pictures turned by EXIF, duplicate ids, expressions
    cut by the token limit, images shared by training and evaluation. Exit code 1 when something
    would stop training or falsify its numbers.
    JSON: {"folder", "dataset", "split_by", "exit_code", "ok", "warn", "fail", "rows"}.
    """
    at_least_one("--limit", limit)
    at_least_one("--max-words", max_words)
    with ui.results_only(json):
        from refseg.data.check import check_data

        for known in (name, *(against or [])):
            ready_data(known)
        with ui.progress_by_title() as told:
            found = check_data(
                name,
                images=images,
                against=against or [],
                max_words=max_words,
                limit=limit,
                split_by=split_by,
                decode=decode,
                pixels=not no_images,
                progress=told,
            )
    if json:
        ui.emit_json(found.to_json())
    else:
        _show_check(found)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _show_check(found: CheckReport) -> None:
    from rich.text import Text

    made = ui.table(["check", "", ">count", "found"], f"{found.dataset} ({found.split_by})")
    lines = [
        (
            row.name,
            Text(row.status, style=ui.STATUS_COLOURS[row.status]),
            f"{row.count:,}",
            row.detail,
        )
        for row in found.rows
    ]
    ui.show(ui.rows(made, lines))


for _name, _verb in (("make", make), ("info", info), ("check", check)):
    ui.add(app, _name, _verb)
