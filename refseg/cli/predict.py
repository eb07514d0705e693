"""`refseg predict`: masks for expressions about one image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.types import Prediction

DEFAULT_OUT = Path("out")


def predict(
    image: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.", metavar="IMAGE")
    ],
    expressions: Annotated[
        list[str], typer.Argument(help="What to look for, each in quotes.", metavar="EXPRESSION")
    ],
    model: Annotated[
        str, typer.Option(help="A bundled model, a model folder or a hub id.", metavar="NAME|DIR")
    ] = "vega-scenes",
    out: Annotated[
        Path | None,
        typer.Option(help="Where PNG files go. [default: out; with --json: none]", metavar="DIR"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a pixel belongs to the mask.", metavar="P"),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Segment what each EXPRESSION means in IMAGE.

    Writes a black and white PNG per expression and one picture with all masks, and prints a
    table. JSON: a list of {"expression", "mask" (COCO run-length code), "box" [x, y, w, h] or
    null, "score", "ms"}; "ms" is the expression's share of the time after loading.
    """
    with ui.results_only(json):
        answers, pixels = _ask(image, expressions, model, device, threshold)
        folder = out or (None if json else DEFAULT_OUT)
        written = [] if folder is None else _write(folder, image, pixels, answers)
    if json:
        ui.emit_json([answer.to_json() for answer in answers])
        return
    ui.show(_table(answers))
    for path in written:
        ui.say(str(path))


@dataclass(frozen=True)
class Answer:
    """One expression with its prediction and the milliseconds it took."""

    expression: str
    prediction: Prediction
    ms: float

    @property
    def box_xywh(self) -> list[float] | None:
        """The tight box of the mask, px; None for an empty mask."""
        from refseg.ops.masks import mask_to_box

        box = mask_to_box(self.prediction.mask)
        if box is None:
            return None
        x0, y0, x1, y1 = (float(edge) for edge in box)
        return [x0, y0, x1 - x0, y1 - y0]

    def to_json(self) -> dict[str, Any]:
        """See the command's help."""
        from refseg.ops.masks import rle_encode

        return {
            "expression": self.expression,
            "mask": rle_encode(self.prediction.mask),
            "box": self.box_xywh,
            "score": round(self.prediction.score, 6),
            "ms": round(self.ms, 2),
        }


def _ask(
    image: Path, expressions: list[str], model: str, device: str, threshold: float | None
) -> tuple[list[Answer], Any]:
    if threshold is not None and not 0 <= threshold < 1:
        raise ConfigError(f"threshold {threshold} is out of range", remedy="give 0 to below 1")
    # The cheap checks come first: nobody should wait for a model to learn of a typing slip.
    from refseg.data.tokens import clean
    from refseg.ops.images import load_image

    texts = [clean(text) for text in expressions]
    pixels = load_image(image)
    from refseg.predict import Predictor, load

    loaded = load(model, device)
    for text in texts:
        if not loaded.tokenizer.knows(text):
            ui.warn(f'no word of "{ui.short(text)}" is known to {model}: its mask means nothing')
    predictor = Predictor(loaded)
    start = time.perf_counter()
    predictions = predictor.set_image(pixels).segment(texts)
    share = 1000 * (time.perf_counter() - start) / len(texts)
    if threshold is not None:
        predictions = [_cut(prediction, threshold) for prediction in predictions]
    return [Answer(t, p, share) for t, p in zip(texts, predictions, strict=True)], pixels


def _cut(prediction: Prediction, threshold: float) -> Prediction:
    from dataclasses import replace

    from refseg.ops.masks import response_to_mask

    if prediction.response is None:
        raise ConfigError(
            "this model's method has no probabilities to cut", remedy="leave out --threshold"
        )
    mask = response_to_mask(prediction.response, prediction.geometry, threshold=threshold)
    return replace(prediction, mask=mask)


def _write(folder: Path, image: Path, pixels: Any, answers: list[Answer]) -> list[Path]:
    from refseg import draw
    from refseg.ops.files import atomic_write_bytes

    files = {
        folder / f"{image.stem}.{number}.png": draw.mask_png(answer.prediction.mask)
        for number, answer in enumerate(answers, 1)
    }
    masks, texts = [a.prediction.mask for a in answers], [a.expression for a in answers]
    files[folder / f"{image.stem}.overlay.png"] = draw.png(draw.overlay(pixels, masks, texts))
    for path, data in files.items():
        atomic_write_bytes(path, data)
    return list(files)


def _table(answers: list[Answer]) -> Any:
    made = ui.table(["expression", ">area %", ">box x y w h", ">score", ">ms"])
    lines = []
    for answer in answers:
        box = answer.box_xywh
        lines.append(
            (
                ui.short(answer.expression),
                ui.percent(float(answer.prediction.mask.mean())),
                "nothing found" if box is None else " ".join(f"{edge:.0f}" for edge in box),
                f"{answer.prediction.score:.2f}",
                f"{answer.ms:.0f}",
            )
        )
    return ui.rows(made, lines)
