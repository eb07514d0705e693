"""Text-aware augmentation, and the step from px to net.

Augmentation maps a `Sample` to a `Sample` (or to None: drop it), so that image, mask, box and
words change together: a mirrored image has its left and right swapped in the words too, and a
crop that cuts the referent is no example any more. The other objects of the image go with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from refseg.data.large_scale import cut, large_scale_jitter
from refseg.data.objects import flip_objects
from refseg.data.sides import swap_left_right
from refseg.ops.images import (
    corner_geometry,
    letterbox,
    letterbox_geometry,
    resize_square,
    square_geometry,
)
from refseg.types import Geometry, Sample

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PreprocessConfig(BaseModel):
    """How a network image is made. fit: "square" distorts (as LAVT does), "letterbox" pads.

    size: px of the square. mean, std: per channel, of images in 0..1.
    fit "whole" leaves the making to the method, which is given the image as it is
    (`Batch.originals`); net coordinates are those of a square of `size` into whose upper left
    corner the image fits, as Segment Anything has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=480, ge=8)
    fit: Literal["square", "letterbox", "whole"] = "square"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def apply(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Geometry]:
        """[H, W, 3] uint8 px -> [size, size, 3] uint8 net, and the way back.

        An image without pixels, [H, W, 0], becomes [0, 0, 3], and so does any that is left whole;
        its geometry is that of a full one.
        """
        if image.shape[2] == 0 or self.fit == "whole":
            return np.empty((0, 0, 3), np.uint8), self.geometry((image.shape[0], image.shape[1]))
        resize = resize_square if self.fit == "square" else letterbox
        return resize(image, (self.size, self.size))

    def geometry(self, original_hw: tuple[int, int]) -> Geometry:
        """Where `apply` puts an image of this size (rows, columns)."""
        if self.fit == "whole":
            return corner_geometry(original_hw, self.size)
        place = square_geometry if self.fit == "square" else letterbox_geometry
        return place(original_hw, (self.size, self.size))


class AugmentConfig(BaseModel):
    """Chances per sample. All zero is the paper setting of VEGA.

    flip: mirror, swapping left and right in the words. crop: cut away up to `crop_share` of
    each side; dropped if that cuts the referent. jitter: brightness and contrast, +- share.
    scale: the range of the factor of large-scale jitter, in which every sample is then shown
    smaller or larger (Partial-RES: 0.3, 1.4); see `refseg.data.large_scale`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(default=0.0, ge=0, le=1)
    crop: float = Field(default=0.0, ge=0, le=1)
    crop_share: float = Field(default=0.2, gt=0, lt=0.5)
    jitter: float = Field(default=0.0, ge=0, lt=1)
    scale: tuple[Factor, Factor] | None = None

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and scale[0] > scale[1]:
            raise ValueError("the smallest factor comes first, such as [0.3, 1.4]")
        return scale

    @property
    def idle(self) -> bool:
        """Whether `apply` gives every sample back as it is, without a draw."""
        return not (self.flip or self.crop or self.jitter or self.scale)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        """A changed sample, or None when the crop cut the referent.

        The scale comes last: a mirrored canvas would have its image on the right, a crop would
        cut padding, and a change of light would tint it.
        """
        if self.flip and rng.random() < self.flip:
            sample = flip(sample)
        if self.crop and rng.random() < self.crop:
            cropped = random_crop(sample, rng, self.crop_share)
            if cropped is None:
                return None
            sample = cropped
        if self.jitter:
            sample = jitter(sample, rng, self.jitter)
        if self.scale:
            sample = large_scale_jitter(sample, rng, self.scale)
        return sample


def flip(sample: Sample) -> Sample:
    """Mirror left to right: image, mask, box, objects, and the words for the sides."""
    width = sample.image.shape[1]
    box = sample.box_xyxy
    if box is not None:
        box = np.array([width - box[2], box[1], width - box[0], box[3]], dtype=np.float32)
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        mask=None if sample.mask is None else np.ascontiguousarray(sample.mask[:, ::-1]),
        box_xyxy=box,
        text=swap_left_right(sample.text),
        negatives=tuple(map(swap_left_right, sample.negatives)),
        objects=None if sample.objects is None else flip_objects(sample.objects, width),
    )


def random_crop(sample: Sample, rng: np.random.Generator, share: float) -> Sample | None:
    """Cut up to `share` off each side at random; see `crop` for None."""
    height, width = sample.image.shape[:2]
    cuts = rng.random(4) * share
    x0, y0 = int(cuts[0] * width), int(cuts[1] * height)
    x1, y1 = width - int(cuts[2] * width), height - int(cuts[3] * height)
    return crop(sample, (x0, y0, x1, y1))


def crop(sample: Sample, window_xyxy: tuple[int, int, int, int]) -> Sample | None:
    """The window (px) of the sample, or None when any part of the referent lies outside it.

    Other objects may be cut; see `crop_objects`.
    Raises ValueError when neither mask nor box is there: nobody could know what was cut.
    """
    if sample.empty is not True and not _contains(sample, window_xyxy):
        return None
    return cut(sample, window_xyxy)


def _contains(sample: Sample, window_xyxy: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = window_xyxy
    if sample.mask is not None:
        return int(sample.mask[y0:y1, x0:x1].sum()) == int(sample.mask.sum())
    if sample.box_xyxy is None:
        raise ValueError("a crop needs a mask or a box to know whether the referent is cut")
    bx0, by0, bx1, by1 = sample.box_xyxy
    return bool(bx0 >= x0 and by0 >= y0 and bx1 <= x1 and by1 <= y1)


def jitter(sample: Sample, rng: np.random.Generator, share: float) -> Sample:
    """Brightness and contrast by up to +- `share`; colours keep their hue (words name them)."""
    gain, bias = 1 + share * (2 * rng.random(2) - 1)
    if sample.image.size == 0:
        return sample
    image = sample.image.astype(np.float32)
    mean = image.mean()
    changed = (image - mean) * gain + mean * bias
    return replace(sample, image=np.clip(changed, 0, 255).astype(np.uint8))
