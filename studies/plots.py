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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
CELL = 1.75  # inches a picture is wide
WORDS = 23  # characters of a caption's line
ORANGE, SKY, GREEN, PURPLE, YELLOW, BLUE, RED, GREY = (
    tuple(channel / 255 for channel in colour) for colour in draw.PALETTE
)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid. image: [H, W, 3] uint8. text: below it.

    mask: [H, W] bool, tinted. truth: [H, W] bool, as a white line. iou: told with the text.
    """

    image: Pixels
    text: str
    mask: Mask | None = None
    truth: Mask | None = None
    iou: float | None = None

    def pixels(self) -> Pixels:
        """The picture with its masks, enlarged."""
        if self.mask is None:
            return self.image
        return draw.compare(
            self.image, self.mask, np.zeros_like(self.mask) if self.truth is None else self.truth
        )

    def caption(self) -> str:
        """The words, wrapped, and the IoU."""
        lines = textwrap.wrap(draw_plain(self.text), WORDS, max_lines=3, placeholder=" …")
        if self.iou is not None:
            lines.append(f"IoU {100 * self.iou:.0f} %")
        return "\n".join(lines)


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
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def bare(axes: Axes) -> None:
    """No ticks and no frame, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def to_png(figure: Figure, colours: int = 256) -> bytes:
    """The figure as a PNG of at most `colours` colours (a third of the bytes)."""
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    picture = Image.open(stream).convert("RGB").quantize(colours)
    small = io.BytesIO()
    picture.save(small, format="PNG", optimize=True)
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
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            grid[number, place].imshow(cell.pixels(), interpolation="antialiased")
            grid[number, place].set_xlabel(cell.caption(), fontsize=8)
        if labels:
            grid[number, 0].set_ylabel(labels[number], fontsize=9, fontweight="bold")
    if title:
        figure.suptitle(title, fontsize=10)
    return to_png(figure)
