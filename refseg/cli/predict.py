"""`refseg predict`: masks for expressions about one image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refseg.cli import ui
from refseg.cli.options import Device, Json, ModelName, at_least_one
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.predict import Predictor
    from refseg.rank import Ranked
    from refseg.types import Prediction

DEFAULT_OUT = Path("out")


def predict(
    image: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.", metavar="IMAGE")
    ],
    expressions: Annotated[
        list[str], typer.Argument(help="What to look for, each in quotes.", metavar="EXPRESSION")
    ],
    model: ModelName = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where PNG files go. [default: out; with --json: none]", metavar="DIR"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a pixel belongs to the mask.", metavar="P"),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Say that nothing is there where the score is lower. [default: the model's own, "
            "as measured; 0 for most]",
            metavar="P",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="Also rank the K likeliest answers, by models that choose among proposals.",
            metavar="K",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also draw, for each expression, what it was chosen among, with classes and "
            "scores, or the method's inner maps and the mask.",
        ),
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Segment what each EXPRESSION means in IMAGE.

    Writes a black and white PNG per expression and one picture with all masks, and prints a
    table. JSON: a list of {"expression", "mask" (COCO run-length code), "box" [x, y, w, h] or
    null, "score", "empty" (whether the answer is that nothing is there), "ms"}; "ms" is the
    expression's share of the time after loading. With --top also "answers", likeliest first: a
    list of {"mask", "box", "score", "category", "category_score"}; of a model that writes outlines
    also "polygons", lists of x, y, x, y, ... px that COCO's tools fill to the same mask.
    """
    with ui.results_only(json):
        _check(threshold, min_score, top)
        folder = out or (None if json else DEFAULT_OUT)
        asked = Asked(threshold, min_score, top, explain and folder is not None)
        answers, pixels = _ask(image, expressions, model, device, asked)
        written = [] if folder is None else _write(folder, image, pixels, answers)
    if json:
        ui.emit_json([answer.to_json() for answer in answers])
        return
    ui.show(_table(answers))
    for path in written:
        ui.say(str(path))


@dataclass(frozen=True)
class Asked:
    """The options; explain: whether pictures of it are wanted."""

    threshold: float | None
    min_score: float | None
    top: int | None
    explain: bool


@dataclass(frozen=True)
class Answer:
    """One expression with its prediction and the milliseconds it took.

    ranked: the likeliest answers, if they were asked for and the model has several. why: a
    picture [H', W', 3].
    """

    expression: str
    prediction: Prediction
    ms: float
    ranked: tuple[Ranked, ...] | None = None
    why: Any = None

    @property
    def box_xywh(self) -> list[float] | None:
        """The tight box of the mask, px; None for an empty mask."""
        from refseg.ops.masks import mask_to_xywh

        return mask_to_xywh(self.prediction.mask)

    def to_json(self) -> dict[str, Any]:
        """See the command's help."""
        from refseg.ops.masks import rle_encode

        told: dict[str, Any] = {
            "expression": self.expression,
            "mask": rle_encode(self.prediction.mask),
            "box": self.box_xywh,
            "score": round(self.prediction.score, 6),
            "empty": self.prediction.empty,
            "ms": round(self.ms, 2),
        }
        if self.prediction.polygons:
            told["polygons"] = [one.ravel().tolist() for one in self.prediction.polygons]
        if self.ranked is not None:
            told["answers"] = [_ranked_json(one) for one in self.ranked]
        return told


def _ranked_json(one: Ranked) -> dict[str, Any]:
    from refseg.ops.masks import mask_to_xywh, rle_encode

    mask = one.mask
    return {
        "mask": rle_encode(mask),
        "box": mask_to_xywh(mask),
        "score": round(one.score, 6),
        "category": one.proposal.category,
        "category_score": round(one.proposal.category_score, 6),
    }


def _check(threshold: float | None, min_score: float | None, top: int | None) -> None:
    for name, value in (("threshold", threshold), ("--min-score", min_score)):
        if value is not None and not 0 <= value < 1:
            raise ConfigError(f"{name} {value} is out of range", remedy="give 0 to below 1")
    at_least_one("--top", top)


def _ask(
    image: Path, expressions: list[str], model: str | None, device: str, asked: Asked
) -> tuple[list[Answer], Any]:
    # The cheap checks come first: nobody should wait for a model to learn of a typing slip.
    from refseg.data.tokens import clean
    from refseg.ops.images import load_image

    texts = [clean(text) for text in expressions]
    pixels = load_image(image)
    pixels.setflags(write=False)  # then the predictor makes no copy
    from refseg.predict import Predictor, load
    from refseg.rank import check_ranks

    loaded = load(model, device)
    if asked.top is not None:
        check_ranks(loaded, asked.top)
    if asked.min_score is not None:
        loaded.min_score = asked.min_score
    for text in texts:
        if not loaded.tokenizer.knows(text):
            ui.warn(
                f'no word of "{ui.short(text)}" is known to {model or loaded.name}: '
                "its answer means nothing"
            )
    predictor = Predictor(loaded)
    start = time.perf_counter()
    predictions = predictor.set_image(pixels).segment(texts)
    share = 1000 * (time.perf_counter() - start) / len(texts)
    if asked.threshold is not None:
        predictions = [_cut(prediction, asked.threshold) for prediction in predictions]
    answers = [Answer(t, p, share) for t, p in zip(texts, predictions, strict=True)]
    return [_with_others(answer, predictor, pixels, asked) for answer in answers], pixels


def _with_others(answer: Answer, predictor: Predictor, pixels: Any, asked: Asked) -> Answer:
    """The answer with what else it might have been, and why, where that is asked for."""
    from dataclasses import replace

    from refseg.explain import explanation
    from refseg.rank import KEEP, ranks

    if asked.top is None and not asked.explain:
        return answer
    keep = max(asked.top or 0, KEEP if asked.explain else 0)
    several = ranks(predictor.model)
    ranked = predictor.rank(answer.expression, keep=keep) if several else None
    why = explanation(pixels, answer.prediction, ranked) if asked.explain else None
    shown = None if asked.top is None or ranked is None else ranked[: asked.top]
    return replace(answer, ranked=shown, why=why)


def _cut(prediction: Prediction, threshold: float) -> Prediction:
    from dataclasses import replace

    from refseg.ops.masks import response_to_mask

    if prediction.response is None:
        raise ConfigError(
            "this model's method has no probabilities to cut", remedy="leave out --threshold"
        )
    if prediction.empty:
        return prediction
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
    for number, answer in enumerate(answers, 1):
        if answer.why is not None:
            files[folder / f"{image.stem}.{number}.explain.png"] = draw.png(answer.why)
    files[folder / f"{image.stem}.overlay.png"] = draw.png(draw.overlay(pixels, masks, texts))
    for path, data in files.items():
        atomic_write_bytes(path, data)
    return list(files)


def _table(answers: list[Answer]) -> Any:
    several = any(answer.ranked is not None for answer in answers)
    more = ["what"] if several else []
    made = ui.table(["expression", *more, ">area %", ">box x y w h", ">score", ">ms"])
    lines: list[list[str]] = []
    for answer in answers:
        told, score = answer.prediction, f"{answer.prediction.score:.2f}"
        none = "nothing there" if told.empty else "nothing found"
        ranked = () if told.empty else answer.ranked or ()
        what = [ranked[0].proposal.category if ranked else ""] if several else []
        first = [ui.short(answer.expression), *what]
        lines.append([*first, *_place(told.mask, none), score, f"{answer.ms:.0f}"])
        for number, one in enumerate((answer.ranked or ())[1:], 2):
            head = [f"  or {number}.", one.proposal.category]
            lines.append([*head, *_place(one.mask, "nothing found"), f"{one.score:.2f}", ""])
    return ui.rows(made, lines)


def _place(mask: Any, none: str) -> list[str]:
    """Area and box; `none` stands for the box of an empty mask."""
    from refseg.ops.masks import mask_to_xywh

    box = mask_to_xywh(mask)
    told = none if box is None else " ".join(f"{edge:.0f}" for edge in box)
    return [ui.percent(float(mask.mean())), told]
