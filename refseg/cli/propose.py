"""`refseg propose`: everything in an image that a model takes for an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, ModelName, at_least_one, check_writable
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.propose import Proposal

DEFAULT_OUT = Path("out")


def propose(
    image: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.", metavar="IMAGE")
    ],
    model: ModelName = None,
    min_score: Annotated[
        float,
        typer.Option(help="Leave out proposals that are less likely to be objects.", metavar="P"),
    ] = 0.5,
    top: Annotated[
        int | None, typer.Option(help="The N surest only. [default: all]", metavar="N")
    ] = None,
    distinct: Annotated[
        float | None,
        typer.Option(
            help="Of proposals whose masks have this IoU or more, keep the surest. "
            "[default: near-duplicates stay]",
            metavar="IOU",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the picture goes. [default: out; with --json: none]", metavar="DIR"
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Find everything in IMAGE that the model takes for an object, whatever it is called.

    For example: `refseg propose photo.jpg --distinct 0.8 --top 20`.

    These are the masks that expressions choose from. Prints a table, surest first, and draws the
    outlines with their numbers. Two proposals may be about the same object: near-duplicates are
    not removed unless --distinct asks for it.

    JSON: a list of {"number", "mask" (COCO run-length code), "box" [x, y, w, h] or null, "score"
    (1 - p(no object)), "category", "category_score"}; the number is the proposal's row in the
    model, the category the likeliest of those that it was taught.
    """
    _check(min_score, top, distinct)
    with ui.results_only(json):
        folder = out or (None if json else DEFAULT_OUT)
        picture = None if folder is None else folder / f"{image.stem}.proposals.png"
        if picture is not None:
            check_writable("--out", picture)
        rows, pixels, found = _ask(image, model, device, (min_score, top, distinct))
        if picture is not None:
            _write(picture, pixels, rows)
    if len(rows) < found:
        ui.note(f"{len(rows)} of {found} proposals; --min-score 0 without others gives all")
    if json:
        ui.emit_json([row.to_json() for row in rows])
        return
    ui.show(_table(rows))
    if picture is not None:
        ui.say(str(picture))


@dataclass(frozen=True)
class Row:
    """A proposal with its mask as a run-length code; box: None where it has no pixel."""

    proposal: Proposal
    mask: dict[str, Any]
    box_xywh: list[float] | None
    pixels: int

    def to_json(self) -> dict[str, Any]:
        """See the command's help."""
        return {
            "number": self.proposal.number,
            "mask": self.mask,
            "box": self.box_xywh,
            "score": round(self.proposal.score, 6),
            "category": self.proposal.category,
            "category_score": round(self.proposal.category_score, 6),
        }


def _check(min_score: float, top: int | None, distinct: float | None) -> None:
    if not 0 <= min_score <= 1:
        raise ConfigError(f"--min-score {min_score} is out of range", remedy="give 0 to 1")
    at_least_one("--top", top)
    if distinct is not None and not 0 < distinct <= 1:
        raise ConfigError(f"--distinct {distinct} is out of range", remedy="give above 0, up to 1")


def _ask(
    image: Path, model: str | None, device: str, chosen: tuple[float, int | None, float | None]
) -> tuple[list[Row], Any, int]:
    """The rows asked for, the image [H, W, 3], and how many proposals there were."""
    # The cheap checks come first: nobody should wait for a model to learn of a typing slip.
    from refseg.ops.images import load_image

    pixels = load_image(image)
    pixels.setflags(write=False)  # then the predictor makes no copy
    from refseg import propose
    from refseg.predict import load

    every = load(model, device).propose(pixels)
    least, top, iou = chosen
    kept = [one for one in every if one.score >= least]
    if iou is not None:
        kept = propose.distinct(kept, iou)
    return [_row(one) for one in kept[:top]], pixels, len(every)


def _row(proposal: Proposal) -> Row:
    from refseg.ops.masks import mask_to_xywh
    from refseg.ops.rle import rle_encode

    mask = proposal.mask
    return Row(proposal, rle_encode(mask), mask_to_xywh(mask), int(mask.sum()))


def _write(path: Path, pixels: Any, rows: list[Row]) -> None:
    from refseg import draw
    from refseg.ops.files import atomic_write_bytes

    last_first = rows[::-1]  # the surest lie on top
    picture = draw.numbered(pixels, _masks(last_first), [row.proposal.number for row in last_first])
    atomic_write_bytes(path, draw.png(picture))


def _masks(rows: list[Row]) -> Iterator[Any]:
    from refseg.ops.rle import rle_decode

    return (rle_decode(row.mask) for row in rows)


def _table(rows: list[Row]) -> Any:
    columns = [">number", ">score", "category", ">p", ">area %", ">box x y w h"]
    lines = []
    for row in rows:
        box, (height, width) = row.box_xywh, row.mask["size"]
        lines.append(
            (
                row.proposal.number,
                f"{row.proposal.score:.2f}",
                row.proposal.category,
                f"{row.proposal.category_score:.2f}",
                ui.percent(row.pixels / (height * width)),
                "no pixel" if box is None else " ".join(f"{edge:.0f}" for edge in box),
            )
        )
    return ui.rows(ui.table(columns), lines)
