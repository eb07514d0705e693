"""Regions that a person points out: a mask or a box, checked, as the object of a picture.

read_region((40, 30, 160, 120), image.shape[:2])     # a box, x0 y0 x1 y1
read_region(read_mask(path, image.shape[:2]), image.shape[:2])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.folder import LOSSY
from refseg.data.maskfile import read_mask_file
from refseg.data.records import MaskFile
from refseg.errors import DataError
from refseg.ops.boxes import clip_boxes
from refseg.ops.images import image_size
from refseg.ops.masks import box_mask, mask_to_box
from refseg.types import Objects, Picture

Mask = NDArray[np.bool_]
#: A mask, bool [H, W], or a box x0 y0 x1 y1; both px.
RegionLike = NDArray[Any] | Sequence[float]

SLACK = 1.0  # px that a box may reach beyond the image: detectors round outwards


@dataclass(frozen=True)
class Region:
    """mask: [H, W] bool with a pixel at least. box_xyxy: [4] float32 inside the image. is_box: it
    was given as a box.

    Of a box the mask is the filled box, of a mask the box is the tight one.
    """

    mask: Mask
    box_xyxy: NDArray[np.float32]
    is_box: bool = False

    def picture(self) -> Picture:
        """A picture of its size, without pixels, whose one object it is.

        The object has no mask if a box was given: what is meant is in it and seldom fills it.
        """
        blind = np.empty((*self.mask.shape, 0), np.uint8)
        masks = None if self.is_box else (self.mask,)
        own = Objects(np.zeros(1, np.int64), boxes_xyxy=self.box_xyxy[None], masks=masks)
        return Picture(0, blind, own)

    def filled(self) -> Mask:
        """The region as a model sees it that was taught on boxes."""
        return box_mask(self.box_xyxy, (self.mask.shape[0], self.mask.shape[1]))


def read_region(region: RegionLike, hw: tuple[int, int]) -> Region:
    """The region of an image of `hw` (rows, columns). Raises DataError; see `RegionLike`.

    Refused: a mask that is not bool, empty or of another size than the image; a box that is not
    four numbers, degenerate, or not inside the image (a pixel beyond its border is cut off).
    """
    if isinstance(region, np.ndarray) and region.ndim == 2:
        return _from_mask(region, hw)
    return _from_box(region, hw)


def _from_mask(mask: NDArray[Any], hw: tuple[int, int]) -> Region:
    if mask.dtype != np.bool_:
        raise DataError(f"a mask of type {mask.dtype}", remedy="give bool, such as mask > 0")
    _check_size(mask.shape, hw)
    box = mask_to_box(mask)
    if box is None:
        raise DataError("the mask is empty", remedy="mark the region's pixels in it")
    return Region(mask, box)


def _from_box(region: RegionLike, hw: tuple[int, int]) -> Region:
    try:
        box = np.asarray(region, np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise DataError(
            f"a region that is neither a mask nor a box: {region!r:.80}",
            remedy="give a bool array [H, W], or four finite numbers",
        )
    x0, y0, x1, y1 = box.tolist()
    told = f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{told} has no area", remedy="its width and height must be above 0")
    if min(x0, y0) < -SLACK or x1 > hw[1] + SLACK or y1 > hw[0] + SLACK:
        raise DataError(
            f"{told} is not inside the image of {hw[1]} x {hw[0]} pixels",
            remedy="count from the upper left corner; on the command line a box is x,y,w,h, in "
            "Python x0, y0, x1, y1",
        )
    inside = clip_boxes(box, hw)
    mask = box_mask(inside, hw)
    if not mask.any():
        raise DataError(f"{told} holds no pixel's centre", remedy="give a larger box")
    return Region(mask, inside, is_box=True)


def read_mask(path: Path, hw: tuple[int, int]) -> Mask:
    """[H, W] bool of a mask file of an image of `hw`; as in data sets, what is not 0 is in.

    Raises DataError for a lossy format or another size, ImageError for no image. The size is
    judged from the header.
    """
    if path.suffix.lower() in LOSSY:
        raise DataError(
            f"mask {path} is in a lossy format, whose faint noise would count as region",
            remedy="write it as PNG",
        )
    _check_size(image_size(path, exif=False), hw)
    return read_mask_file(path.parent, MaskFile(path.name), hw)


def _check_size(mask_hw: tuple[int, ...], hw: tuple[int, int]) -> None:
    if mask_hw != tuple(hw):
        raise DataError(
            f"the mask is {mask_hw[1]} x {mask_hw[0]} pixels, the image {hw[1]} x {hw[0]}",
            remedy="give a mask of the image's own size, turned as the image's EXIF tag turns it",
        )
