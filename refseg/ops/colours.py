"""Names of colours: which of the eleven that English has for them all a pixel is called.

The eleven are Berlin and Kay's basic terms. A pixel with hardly any colour is black, gray or white
by its lightness; for the rest the survey of xkcd decides (954 colours that people named, by way of
matplotlib): the nearest five in CIELAB vote by the basic terms in their names, the closer the more.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

#: In the order of `colour_shares`.
COLOURS = (
    "black", "gray", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
#: Words for colours -> the basic terms that they may mean.
MEANINGS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in COLOURS},
    **dict.fromkeys(("grey", "silver"), ("gray",)),
    **dict.fromkeys(("tan", "beige", "khaki", "chocolate"), ("brown",)),
    **dict.fromkeys(("navy", "denim", "cyan", "aqua"), ("blue",)),
    **dict.fromkeys(("teal", "turquoise"), ("blue", "green")),
    **dict.fromkeys(("maroon", "burgundy"), ("red", "brown")),
    **dict.fromkeys(("violet", "lavender"), ("purple",)),
    "magenta": ("pink",),
    "gold": ("yellow",),
    "cream": ("white",),
}
#: CIELAB: below this chroma a pixel has no colour; of these, lightness below and above which it
#: is black and white. Darker than DARK it is black whatever its chroma.
GRAYISH, BLACK, WHITE, DARK = 12.0, 28.0, 75.0, 12.0
VOTERS = 5
ZONES = 3
BITS = 5  # of each channel that the table of names tells apart


def colour_names(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., 3] uint8 RGB -> [...] uint8, rows of `COLOURS`."""
    red, green, blue = np.moveaxis(image >> (8 - BITS), -1, 0).astype(np.int32)
    names: NDArray[np.uint8] = _table()[(red << 2 * BITS) | (green << BITS) | blue]
    return names


def colour_shares(names: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """names, mask: [H, W], any two of one size -> [11] float32, the colours' shares of the mask's
    pixels; zeros for a mask without any.
    """
    counts = np.bincount(names[mask], minlength=len(COLOURS)).astype(np.float32)
    total = counts.sum()
    return counts / total if total else counts


def colour_zones(names: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[3, 11] float32: the shares of a mask, of its upper and of its lower half.

    The halves are those of its rows, first to last: of a person, shirt and trousers. Zeros for a
    half, or a mask, without any pixel.
    """
    zones = np.zeros((ZONES, len(COLOURS)), np.float32)
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return zones
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    middle = (top + bottom + 1) // 2
    for zone, (first, last) in enumerate(((top, bottom), (top, middle), (middle, bottom))):
        zones[zone] = colour_shares(names[first:last], mask[first:last])
    return zones


@cache
def _table() -> NDArray[np.uint8]:
    """The name of each colour of `BITS` bits a channel, [2 ** (3 BITS)]."""
    levels = (np.arange(2**BITS) + 0.5) * 2 ** (8 - BITS) / 255
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(cells)
    known, terms = _survey()
    apart, near = cKDTree(known).query(lab, VOTERS)
    votes = np.zeros((len(lab), len(COLOURS)))
    for one in range(VOTERS):
        weight = 1 / (apart[:, one] ** 2).clip(1e-6)
        np.add.at(votes, (np.arange(len(lab)), terms[near[:, one]]), weight)
    names = votes.argmax(axis=1)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    plain = np.select([lightness < BLACK, lightness > WHITE], [0, 2], 1)
    names = np.where(chroma < GRAYISH, plain, names)
    return np.where(lightness < DARK, 0, names).astype(np.uint8)


def _survey() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """CIELAB [n, 3] and term [n] of the survey's colours whose last word says what they are."""
    from matplotlib.colors import XKCD_COLORS, to_rgb

    points, terms = [], []
    for name, value in XKCD_COLORS.items():
        meant = MEANINGS.get(name.removeprefix("xkcd:").split()[-1], ())
        if len(meant) == 1:
            points.append(to_rgb(value))
            terms.append(COLOURS.index(meant[0]))
    return _lab(np.array(points)), np.array(terms)


def _lab(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """[n, 3] RGB in 0..1 -> CIELAB, L in 0..100."""
    image = rgb.astype(np.float32)[None]
    lab: NDArray[np.float32] = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[0]
    return lab
