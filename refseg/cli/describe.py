"""`refseg describe`: expressions for a region of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, ModelName, check_writable
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.describe import Described
    from refseg.propose import Proposal
    from refseg.region import Region

Box = tuple[float, float, float, float]


def describe(
    image: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.", metavar="IMAGE")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="The region as a PNG of the image's size; pixels that are not 0 are in.",
            metavar="FILE",
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            help="The region as a box in pixels: left, top, width, height.", metavar="X,Y,W,H"
        ),
    ] = None,
    model: ModelName = None,
    beams: Annotated[
        int,
        typer.Option(
            help="Width of the beam search; 1 is greedy: the likeliest word each time.",
            metavar="N",
        ),
    ] = 5,
    keep: Annotated[
        int | None,
        typer.Option(
            help="How many expressions to print, at most; no more than --beams. "
            "[default: 3, or --beams]",
            metavar="N",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Let the model read each again: does it mean the same object?"
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Also draw the region and what was described.", metavar="DIR"),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write expressions that mean one region of IMAGE, given as --mask or as --box.

    For example: `refseg describe photo.jpg --box 40,30,120,90 --verify`.

    Prints a table, best first: the expression, its log-probability and, with --verify, whether it
    refers back to the region and by what margin (the probability of the region's proposal minus
    that of the runner-up, -1 to 1). The model describes one of its own proposals, the one that
    comes nearest to the region, a box being compared with boxes; where that fits badly (IoU below
    0.5), standard error says so.

    JSON: {"expressions": [{"text", "score", "refers_back", "margin"}], "region": {"mask" (COCO
    run-length code), "box" [x, y, w, h]}, "iou", "matched"}; refers_back and margin are null
    without --verify, iou is that of the region and its proposal in pixels of IMAGE, of their
    boxes for --box, whose mask is told filled; matched is false below 0.5.
    """
    with ui.results_only(json):
        picture = None if out is None else out / f"{image.stem}.described.png"
        if picture is not None:
            check_writable("--out", picture)
        search = (beams, keep, verify)
        answer = _ask(image, _one_of(mask, box), model, search, device)
        if picture is not None:
            _write(picture, answer)
    if not answer.matched:
        ui.warn(
            f"the model's proposal that comes nearest to the region has an IoU of {answer.iou:.2f} "
            "with it: the expressions may mean something else"
            + ("" if picture else "; --out DIR draws both")
        )
    if json:
        ui.emit_json(answer.to_json())
        return
    ui.show(_table(answer, verify))
    if not answer.described.expressions:
        ui.say("the model found no words for it")
    if picture is not None:
        ui.say(str(picture))


@dataclass(frozen=True)
class Answer:
    """pixels: [H, W, 3] uint8, the image. proposal: the one that stood for the region."""

    pixels: Any
    region: Region
    described: Described
    proposal: Proposal

    @property
    def iou(self) -> float:
        """Of the region and its proposal in px, 0..1."""
        return self.described.iou or 0.0

    @property
    def matched(self) -> bool:
        """Whether the proposal may stand for the region."""
        from refseg.describe import MATCHED

        return self.iou >= MATCHED

    def to_json(self) -> dict[str, Any]:
        """See the command's help."""
        from refseg.ops.rle import rle_encode

        x0, y0, x1, y1 = (float(edge) for edge in self.region.box_xyxy)
        return {
            "expressions": [
                {
                    "text": one.text,
                    "score": round(one.score, 6),
                    "refers_back": one.refers_back,
                    "margin": None if one.margin is None else round(one.margin, 6),
                }
                for one in self.described.expressions
            ],
            "region": {"mask": rle_encode(self.region.mask), "box": [x0, y0, x1 - x0, y1 - y0]},
            "iou": round(self.iou, 6),
            "matched": self.matched,
        }


def parse_box(text: str) -> Box:
    """ "x,y,w,h" -> x0, y0, x1, y1. Raises ConfigError for anything but four finite numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ConfigError(
            f'--box "{text}" is not four numbers',
            remedy="give left, top, width and height in pixels: --box 40,30,120,90",
        )
    x, y, width, height = numbers
    return x, y, x + width, y + height


def _one_of(mask: Path | None, box: str | None) -> Path | Box:
    if mask is not None and box is not None:
        raise ConfigError("--mask and --box are both given", remedy="give the one that is meant")
    if mask is not None:
        return mask
    if box is not None:
        return parse_box(box)
    raise ConfigError(
        "no region is given", remedy="add --box x,y,w,h or --mask FILE: what is to be described?"
    )


def _ask(
    image: Path,
    where: Path | Box,
    model: str | None,
    search: tuple[int, int | None, bool],
    device: str,
) -> Answer:
    # The cheap checks come first: nobody should wait for a model to learn of a typing slip.
    from refseg.ops.images import load_image
    from refseg.region import read_mask, read_region

    pixels = load_image(image)
    pixels.setflags(write=False)  # then the predictor makes no copy
    hw = pixels.shape[:2]
    region = read_region(read_mask(where, hw) if isinstance(where, Path) else where, hw)
    from refseg.describe import check_search, check_writes
    from refseg.predict import Predictor, load

    beams, keep, verify = search
    check_search(beams, keep)
    loaded = load(model, device)
    check_writes(loaded, verify=verify)
    predictor = Predictor(loaded).set_image(pixels)
    asked = region.box_xyxy if region.is_box else region.mask
    described = predictor.describe_region(asked, beams=beams, keep=keep, verify=verify)
    proposal = next(one for one in predictor.propose() if one.number == described.proposal)
    return Answer(pixels, region, described, proposal)


def _write(path: Path, answer: Answer) -> None:
    from refseg import draw
    from refseg.ops.files import atomic_write_bytes

    texts = [one.text for one in answer.described.expressions]
    picture = draw.described(answer.pixels, answer.proposal.mask, answer.region.mask, texts)
    atomic_write_bytes(path, draw.png(picture))


def _table(answer: Answer, verify: bool) -> Any:
    columns = ["expression", ">log p", *(["refers back", ">margin"] if verify else [])]
    lines = []
    for one in answer.described.expressions:
        line = [ui.short(one.text), f"{one.score:.2f}"]
        if verify:
            line += ["yes" if one.refers_back else "no", f"{one.margin or 0.0:+.2f}"]
        lines.append(line)
    return ui.rows(ui.table(columns), lines)
