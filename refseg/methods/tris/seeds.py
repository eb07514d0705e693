"""Seeds: what a response map is sure of, as labels that IRNet learns from (TRIS, per ref).

A seed map has three values: `BACKGROUND`, `FOREGROUND` and, between the two, `IGNORE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from refseg.errors import ConfigError, DataError
from refseg.method import MethodConfig

BACKGROUND, FOREGROUND, IGNORE = 0, 1, 255
#: px for each cell of the grid that edges are learned on.
STRIDE = 4

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
#: (image [H, W, 3], labels [H, W]) -> labels that keep to the image's own outlines.
Smooth = Callable[[Rgb, Mask], Mask]


class SeedConfig(MethodConfig):
    """foreground: a response above it is sure to mean the object. background: one of it or less
    is sure not to (0.05 in IRNet).
    """

    foreground: float = Field(default=0.30, ge=0, le=1)
    background: float = Field(default=0.10, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.background > self.foreground:
            raise ConfigError(
                f"seeds: background {self.background} is above foreground {self.foreground}",
                remedy="a response between the two is neither; the paper has 0.10 and 0.30",
            )
        return self


def unsmoothed(image: Rgb, labels: Mask) -> Mask:
    """The labels as they are: seeds without a CRF."""
    return labels


def seeds(
    response: NDArray[np.floating[Any]],
    image: Rgb,
    config: SeedConfig,
    smooth: Smooth = unsmoothed,
) -> NDArray[np.uint8]:
    """The seed map [H, W] of a response [H, W] in 0..1, px. image: [H, W, 3] RGB.

    `FOREGROUND` where the smoothed confident foreground says so, `BACKGROUND` where it and the
    smoothed confident background both deny it, `IGNORE` elsewhere.
    Raises DataError for a response of another size than the image's or outside of 0..1.
    """
    _check(response, image)
    surely = smooth(image, response > config.foreground)
    perhaps = smooth(image, response > config.background)
    return np.where(surely, FOREGROUND, np.where(perhaps, IGNORE, BACKGROUND)).astype(np.uint8)


def on_grid(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Seeds [H, W] px -> [ceil(H / 4), ceil(W / 4)], nearest: the pixel under a cell's centre.

    Where the last cell reaches beyond the image, its centre may, too: the image's last pixel.
    """
    rows, columns = (
        np.minimum(np.arange(0, size, STRIDE) + STRIDE // 2, size - 1) for size in labels.shape
    )
    picked: NDArray[np.uint8] = labels[rows][:, columns]
    return picked


def _check(response: NDArray[np.floating[Any]], image: Rgb) -> None:
    if response.ndim != 2 or image.shape != (*response.shape, 3):
        raise DataError(
            f"a response of {response.shape} for an image of {image.shape}",
            remedy="stretch the response to the image's pixels first",
        )
    if response.size and not (response.min() >= 0 and response.max() <= 1):
        raise DataError(
            f"a response from {response.min()} to {response.max()}",
            remedy="divide it by its highest value",
        )
