"""Pictures for people: masks over an image with their expressions, and curves.

Everything returns pixels or PNG bytes; nothing is written here. Frames: px, see `refseg.types`.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Okabe and Ito's palette, told apart by people with any kind of colour vision.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (150, 150, 150),
)
MIN_SIDE = 420  # shorter images are enlarged, so that the words below them can be read
MAX_SIDE = 3000  # longer ones are shrunk: for the same reason, and several copies are made
PAPER, INK = (255, 255, 255), (32, 32, 32)
FONT_SIZE, LINE_HEIGHT, MARGIN = 15, 20, 8

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = NDArray[np.uint8]
Masks = Sequence[NDArray[np.bool_]]
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def colour_of(index: int) -> tuple[int, int, int]:
    """The palette's colour of the expression number `index`."""
    return PALETTE[index % len(PALETTE)]


def overlay(image: Pixels, masks: Masks, texts: Sequence[str]) -> Pixels:
    """The image with each mask tinted and outlined, and its expression in a strip below.

    image: [H, W, 3] uint8 RGB. masks: [H, W] bool each. texts: one per mask.
    Returns [H', W', 3] uint8 RGB; small images are enlarged by a whole factor to `MIN_SIDE`, large
    ones shrunk to `MAX_SIDE`.
    """
    factor = _factor(image.shape[:2])
    big = _scaled(image, factor)
    for index, mask in enumerate(masks):
        big = tint(big, _scaled(mask, factor), colour_of(index), width=2)
    return np.concatenate([big, _captions(texts, big.shape[1])])


def compare(image: Pixels, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Pixels:
    """The predicted mask tinted, the true one as a white line over it; sized as `overlay`."""
    import cv2

    factor = _factor(image.shape[:2])
    big = tint(_scaled(image, factor), _scaled(predicted, factor), colour_of(0), width=1)
    shape = _scaled(truth, factor).astype(np.uint8)
    lines, _ = cv2.findContours(shape, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((INK, 4), (PAPER, 2)):
        cv2.drawContours(big, lines, -1, colour, width, cv2.LINE_8)
    return big


def described(
    image: Pixels, proposal: NDArray[np.bool_], region: NDArray[np.bool_], texts: Sequence[str]
) -> Pixels:
    """`compare` of what was described and what was asked for, the expressions in a strip below."""
    big = compare(image, proposal, region)
    return np.concatenate([big, _captions(texts, big.shape[1], one_colour=True)])


def numbered(image: Pixels, masks: Iterable[NDArray[np.bool_]], numbers: Sequence[int]) -> Pixels:
    """The outline of each mask in its number's colour, with the number; sized as `overlay`.

    Later masks lie over earlier ones, numbers over all; a mask without a pixel is left out.
    """
    factor = _factor(image.shape[:2])
    big = _scaled(image, factor)
    places: list[tuple[tuple[int, int], str, tuple[int, int, int]]] = []
    for mask, number in zip(masks, numbers, strict=True):
        if mask.any():
            shape = _scaled(mask, factor)
            big = tint(big, shape, colour_of(number), alpha=0.0, width=2)
            point = _inner_point(shape, [place for place, _, _ in places])
            places.append((point, str(number), colour_of(number)))
    return _write_at(big, places)


def captioned(pixels: Pixels, lines: Sequence[str], *, first: int = 0) -> Pixels:
    """Lines in a strip below a picture, each beside a colour of the palette, from `first` on."""
    return np.concatenate([pixels, _captions(lines, pixels.shape[1], first=first)])


def pointed(image: Pixels, points: NDArray[np.floating]) -> Pixels:
    """The polygon of `points` [P, 2] px and what is around it, its corners numbered in order.

    A cut-out of the image in its proportions, drawn at `overlay`'s size.
    """
    import cv2

    height, width = image.shape[:2]
    factor = _factor((height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    (x0, y0), share = _around(points, (height, width))
    x1, y1 = x0 + max(round(share * width), 1), y0 + max(round(share * height), 1)
    big = cv2.resize(np.ascontiguousarray(image[y0:y1, x0:x1]), size, interpolation=cv2.INTER_CUBIC)
    scale = np.array(size) / (x1 - x0, y1 - y0)
    corners = np.rint((points - (x0, y0)) * scale).astype(np.int32)
    for colour, thick in ((INK, 4), (colour_of(0), 2)):
        cv2.polylines(big, [corners], True, colour, thick, cv2.LINE_AA)
    # Outside of the line, so that neither the line nor what it goes around is covered.
    away = corners - corners.mean(axis=0)
    away = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6) * LINE_HEIGHT * 0.7
    places = [
        ((round(x), round(y)), str(n), colour_of(1)) for n, (x, y) in enumerate(corners + away, 1)
    ]
    return _write_at(big, places)


def _around(points: NDArray[np.floating], hw: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """The upper left corner, px, of a cut-out around points, and its sides as a share of hw."""
    sides = np.array([hw[1], hw[0]], np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    share = float(np.clip(((high - low) * 1.6 / sides).max(), 0.1, 1.0))
    corner = ((low + high) / 2 - share * sides / 2).clip(0, (1 - share) * sides)
    return (int(corner[0]), int(corner[1])), share


def heated(image: Pixels, response: NDArray[np.float32]) -> Pixels:
    """`heat`, sized as `overlay`."""
    factor = _factor(image.shape[:2])
    return heat(_scaled(image, factor), _scaled(response, factor))


def regions(image: Pixels, numbers: NDArray[np.integer]) -> Pixels:
    """`coloured`, sized as `overlay`."""
    return _scaled(coloured(image, numbers), _factor(image.shape[:2]))


def coloured(image: Pixels, numbers: NDArray[np.integer]) -> Pixels:
    """The image under a colour for each number of a map [H, W], 0 or more.

    The palette's colours where they suffice, else as many hues, every second one darker.
    """
    import cv2

    count = int(numbers.max()) + 1
    if count <= len(PALETTE):
        table = np.array(PALETTE, np.uint8)
    else:
        hues = np.zeros((1, count, 3), np.uint8)
        hues[0] = [(180 * n // count, 210, 255 if n % 2 == 0 else 150) for n in range(count)]
        table = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0]
    mixed = cv2.addWeighted(image, 0.4, np.ascontiguousarray(table[numbers]), 0.6, 0)
    return np.asarray(mixed, np.uint8)


def tint(
    image: Pixels,
    mask: NDArray[np.bool_],
    colour: tuple[int, int, int],
    *,
    alpha: float = 0.45,
    width: int = 1,
) -> Pixels:
    """A copy of `image` with `mask` in translucent `colour` and a contour `width` px wide."""
    import cv2

    out = image.copy()
    mixed = (1 - alpha) * image[mask].astype(np.float32) + alpha * np.asarray(colour, np.float32)
    out[mask] = np.rint(mixed).astype(np.uint8)
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    # A dark rim below the line: an orange outline must be seen on an orange ball too.
    cv2.drawContours(out, lines, -1, INK, width + 2, cv2.LINE_8)
    cv2.drawContours(out, lines, -1, colour, width, cv2.LINE_8)
    return out


def heat(image: Pixels, response: NDArray[np.float32]) -> Pixels:
    """The image under a response map [H, W] in 0..1: dark where the method sees nothing."""
    import cv2

    level = np.rint(255 * response.clip(0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(image, 0.4, colours, 0.6, 0), np.uint8)


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask [H, W] as a black and white PNG (0 and 255)."""
    return png(mask.astype(np.uint8) * 255)


def png(pixels: Pixels) -> bytes:
    """[H, W] or [H, W, 3] uint8 as a PNG file's bytes."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def small_png(pixels: Pixels, side: int) -> bytes:
    """[H, W, 3] uint8 as the PNG of a page: its longer side `side` px at most, 256 colours at most,
    so that no picture takes more than about side x side bytes.
    """
    import cv2
    from PIL import Image

    factor = side / max(pixels.shape[:2])
    if factor < 1:
        height, width = (max(round(edge * factor), 1) for edge in pixels.shape[:2])
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))
    stream = io.BytesIO()
    # Not by median cut: that takes seconds, and mixes thin lines with what is beside them.
    small = Image.fromarray(pixels).quantize(256, method=Image.Quantize.FASTOCTREE)
    small.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def curves(series: Series, *, title: str, x: str, y: str, log_y: bool = False) -> bytes:
    """Lines (name -> (xs, ys)) as a PNG file's bytes; points are marked where there are few."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, (xs, ys)) in enumerate(series.items()):
        colour = tuple(channel / 255 for channel in colour_of(index))
        marker = "o" if len(xs) <= 20 else ""
        axes.plot(xs, ys, label=_plain(name), color=colour, linewidth=1.6, marker=marker)
    axes.set(title=_plain(title), xlabel=_plain(x), ylabel=_plain(y))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if log_y:
        axes.set_yscale("log")
    if series:
        axes.legend(frameon=False, fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def _factor(hw: tuple[int, ...]) -> float:
    """By which a picture is drawn larger, a whole number, or smaller."""
    if max(hw[:2]) > MAX_SIDE:
        return MAX_SIDE / max(hw[:2])
    return int(np.clip(np.ceil(MIN_SIDE / max(min(hw[:2]), 1)), 1, max(1, 1600 // max(hw[:2]))))


def _scaled(pixels: NDArray[Scalar], factor: float) -> NDArray[Scalar]:
    """[H, W, ...] at `_factor`'s size; masks keep to what they are."""
    import cv2

    if factor >= 1:
        times = int(factor)
        return pixels.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else pixels
    height, width = (max(round(side * factor), 1) for side in pixels.shape[:2])
    if pixels.dtype == bool:
        small = cv2.resize(pixels.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(small.astype(pixels.dtype))
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(pixels.dtype, copy=False))


def _inner_point(mask: NDArray[np.bool_], taken: Sequence[tuple[int, int]] = ()) -> tuple[int, int]:
    """x, y of the pixel of a mask farthest from its border, if possible not at a taken one."""
    import cv2

    # Beyond the picture nothing is inside: a mask that fills it has its point in the middle.
    deep = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
    free = deep.copy()
    for x, y in taken:
        free[
            max(y - LINE_HEIGHT, 0) : y + LINE_HEIGHT, max(x - LINE_HEIGHT, 0) : x + LINE_HEIGHT
        ] = 0
    deepest = (free if free.any() else deep).argmax()
    y, x = divmod(int(deepest), deep.shape[1])
    return x - 1, y - 1


def _write_at(
    image: Pixels, places: Sequence[tuple[tuple[int, int], str, tuple[int, int, int]]]
) -> Pixels:
    """Words in a colour, rimmed, each centred at x, y."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen, font = ImageDraw.Draw(picture), _font()
    for (x, y), words, colour in places:
        left, top, right, bottom = pen.textbbox((0, 0), words, font=font, stroke_width=2)
        # Near a border it moves inwards, so that every number can be read.
        corner = (
            min(max(x - (left + right) / 2, -left), max(picture.width - right, -left)),
            min(max(y - (top + bottom) / 2, -top), max(picture.height - bottom, -top)),
        )
        pen.text(corner, words, fill=colour, font=font, stroke_width=2, stroke_fill=INK)
    return np.asarray(picture, np.uint8)


def _captions(
    texts: Sequence[str], width: int, *, one_colour: bool = False, first: int = 0
) -> Pixels:
    """The strip below a picture: a colour swatch and the words of each expression.

    first: number of the first one's colour.
    """
    from PIL import Image, ImageDraw

    font = _font()
    room = max(int((width - 3 * MARGIN - FONT_SIZE) / (0.55 * FONT_SIZE)), 8)
    wrapped = [_wrap(text, room) for text in texts]
    height = LINE_HEIGHT * sum(map(len, wrapped)) + 2 * MARGIN
    strip = Image.new("RGB", (width, height if texts else 0), PAPER)
    pen, top = ImageDraw.Draw(strip), MARGIN
    for index, lines in enumerate(wrapped):
        corner = (MARGIN, top + 2)
        far = (MARGIN + FONT_SIZE, top + 2 + FONT_SIZE)
        pen.rectangle(
            (corner, far), fill=colour_of(0 if one_colour else first + index), outline=INK
        )
        for line in lines:
            pen.text((2 * MARGIN + FONT_SIZE, top), line, fill=INK, font=font)
            top += LINE_HEIGHT
    return np.asarray(strip, np.uint8).reshape(-1, width, 3)


def _wrap(text: str, room: int) -> list[str]:
    """At most three lines of `room` characters; what is left over becomes an ellipsis."""
    # Pillow's text layout gives up on control characters.
    printable = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(printable, room, max_lines=3, placeholder=" …") or [""]


@lru_cache(maxsize=1)
def _font() -> FreeTypeFont | ImageFont:
    """DejaVu Sans from matplotlib's data (it knows most scripts), found without importing that."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), FONT_SIZE)
    return ImageFont.load_default(FONT_SIZE)
