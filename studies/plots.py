"""Matplotlib, without its global state: figures that look alike, and pictures in a grid."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refseg import draw
from refseg.types import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
CELL = 1.75  # inches a picture is wide
SIDE = 512  # px of a picture's longer side, about, before it is scaled into its cell
WORDS = 23  # characters of a caption's line
ORANGE, SKY, GREEN, PURPLE, YELLOW, BLUE, RED, GREY = (
    tuple(channel / 255 for channel in colour) for colour in draw.PALETTE
)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. image: [H, W, 3] uint8. text: below it.

    mask: [H, W] bool, in its own colours on a pale ground. truth: [H, W] bool, as a line.
    iou: told with the text.
    """

    image: Pixels
    text: str
    mask: Mask | None = None
    truth: Mask | None = None
    iou: float | None = None

    def pixels(self) -> Pixels:
        """The picture, enlarged; the mask in its own colours, all else pale, the truth a line."""
        factor = max(1, round(SIDE / max(self.image.shape[:2])))
        big = _enlarged(self.image, factor)
        if self.mask is not None:
            big = spotlight(big, _enlarged(self.mask, factor))
        return big if self.truth is None else outlined(big, _enlarged(self.truth, factor))

    def caption(self) -> str:
        """The words, wrapped, and the IoU."""
        lines = textwrap.wrap(draw_plain(self.text), WORDS, max_lines=3, placeholder=" …")
        if self.iou is not None:
            lines.append(f"IoU {100 * self.iou:.0f} %")
        return "\n".join(lines)


def spotlight(image: Pixels, mask: Mask) -> Pixels:
    """The image in pale grey outside the mask, and a red edge around what stays.

    (A tint would be lost among coloured things; without the edge, white things would be.)
    """
    import cv2

    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    pale = (0.45 * grey + 0.55 * 255).astype(np.uint8)
    out = np.where(mask[..., None], image, pale)
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, lines, -1, draw.PALETTE[6], 3, cv2.LINE_8)
    return out


def outlined(image: Pixels, mask: Mask) -> Pixels:
    """The mask's outline as a dark line in a white one, so that it is seen on every colour."""
    import cv2

    out = image.copy()
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((draw.PAPER, 6), (draw.INK, 2)):
        cv2.drawContours(out, lines, -1, colour, width, cv2.LINE_8)
    return out


def _enlarged(pixels: Any, factor: int) -> Any:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def draw_plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, **labels: Any) -> None:
    """Labels, a faint grid, no box."""
    axes.set(**labels)
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def bare(axes: Axes) -> None:
    """No ticks and no frame, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def to_png(figure: Figure, colours: int | None = None) -> bytes:
    """The figure as a PNG. colours: at most so many, which saves two thirds of the bytes."""
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    picture = Image.open(stream).convert("RGB")
    small = io.BytesIO()
    (picture if colours is None else picture.quantize(colours)).save(small, "PNG", optimize=True)
    return small.getvalue()


def picture_grid(
    rows: Sequence[Sequence[Cell]], labels: Sequence[str] = (), title: str = ""
) -> bytes:
    """Rows of pictures with their captions; `labels` stand left of the rows."""
    columns = max(len(row) for row in rows)
    lines = max(cell.caption().count("\n") + 1 for row in rows for cell in row)
    height = len(rows) * (CELL + 0.17 * lines + 0.08) + (0.3 if title else 0)
    figure = new_figure(columns * CELL + (0.35 if labels else 0), height)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
        axes.set_anchor("S")  # captions of a row at one height
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            grid[number, place].imshow(cell.pixels(), interpolation="antialiased")
            grid[number, place].set_xlabel(cell.caption(), fontsize=8)
        if labels:
            grid[number, 0].set_ylabel(labels[number], fontsize=9, fontweight="bold")
    if title:
        figure.suptitle(title, fontsize=10)
    return to_png(figure, colours=256)


# -- what is drawn ---------------------------------------------------------------------------------


def true_mask(sample: Sample) -> Mask:
    """[H, W]."""
    assert sample.mask is not None
    return sample.mask
