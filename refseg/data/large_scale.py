"""Large-scale jitter: an image shown smaller, on a larger canvas, or larger, as a window of it.

As in SeqTR (ECCV 2022) and Partial-RES (CVPR 2023), with factors from 0.3 to 1.4. Everything stays
in the px frame and nothing is resampled: the step to net, which follows, resizes once. A referent
is cut by at most so much (`LEVELS`, `LEAST`), and no sample is dropped. Words stay as they are: of
what a window leaves, "leftmost" may no longer be true, which the papers accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from refseg.data.objects import crop_objects
from refseg.ops.boxes import box_area, clip_boxes
from refseg.ops.images import MAX_PIXELS, MAX_SIDE, PADDING_RGB
from refseg.types import Objects, Sample

#: The share of the referent that a window must keep: each level is tried `TRIES` times.
LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5)
TRIES = 100
#: What the best window of all levels must keep.
LEAST = 0.3

Windows = NDArray[np.int64]
Kept = Callable[[Windows], NDArray[np.float64]]


def large_scale_jitter(
    sample: Sample, rng: np.random.Generator, factors: tuple[float, float]
) -> Sample:
    """The sample as if seen larger by a factor drawn uniformly from `factors`.

    Below 1 the image lies in the upper left corner of a canvas of round(side / factor), the rest
    is ImageNet's mean colour; the factor is raised where the canvas would have a side over
    `MAX_SIDE` or more than `MAX_PIXELS`. Above 1 it is a window of round(side / factor) at the
    place that `find_window` draws. Where there is none, the sample is given back as it is: pixels
    and labels agree in any case (the published code gives an image as it was with the labels of a
    scaled one). mask, box_xyxy and objects follow; the box is clipped to the window, and `parts`
    stays what the whole mask was joined from.
    """
    hw = sample.image.shape[0], sample.image.shape[1]
    factor = max(float(rng.uniform(*factors)), _smallest_factor(hw))
    new_hw = max(round(hw[0] / factor), 1), max(round(hw[1] / factor), 1)
    if new_hw == hw:
        return sample
    if factor < 1:
        return pad(sample, new_hw)
    window = find_window(sample, rng, new_hw)
    return sample if window is None else _zoomed(sample, window)


def find_window(
    sample: Sample, rng: np.random.Generator, hw: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """A window (px, xyxy) of `hw` (rows, columns) that keeps most of the referent.

    At each level in turn `TRIES` windows are drawn uniformly, and the first that keeps this share
    is taken; else the best of all levels if it keeps `LEAST`; else None. The share is that of the
    mask's area, or of the box's where there is no mask; see `_kept`. Without either, None.
    """
    kept = _kept(sample)
    if kept is None:
        return None
    best, most = None, 0.0
    for level in LEVELS:
        windows = _draw(rng, sample.image.shape[:2], hw)
        shares = kept(windows)
        enough = np.flatnonzero(shares >= level)
        if len(enough):
            return _corners(windows[enough[0]])
        top = int(shares.argmax())
        if shares[top] > most:
            best, most = windows[top], float(shares[top])
    return None if best is None or most < LEAST else _corners(best)


def pad(sample: Sample, hw: tuple[int, int]) -> Sample:
    """The sample in the upper left corner of a canvas of `hw` (rows, columns; px), not smaller.

    The mask is False on the rest; boxes stay as they are.
    """
    return replace(
        sample,
        image=_padded_image(sample.image, hw),
        mask=None if sample.mask is None else _padded_mask(sample.mask, hw),
        objects=None if sample.objects is None else _padded_objects(sample.objects, hw),
    )


def cut(sample: Sample, window_xyxy: tuple[int, int, int, int]) -> Sample:
    """The window (px) of the sample, whatever it cuts; the box is moved and not clipped."""
    x0, y0, x1, y1 = window_xyxy
    box, objects = sample.box_xyxy, sample.objects
    shift = np.array([x0, y0, x0, y0], dtype=np.float32)
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[y0:y1, x0:x1]),
        mask=None if sample.mask is None else np.ascontiguousarray(sample.mask[y0:y1, x0:x1]),
        box_xyxy=None if box is None else (box - shift).astype(np.float32),
        objects=None if objects is None else crop_objects(objects, window_xyxy),
    )


def _zoomed(sample: Sample, window_xyxy: tuple[int, int, int, int]) -> Sample:
    part = cut(sample, window_xyxy)
    if part.box_xyxy is None:
        return part
    return replace(
        part, box_xyxy=clip_boxes(part.box_xyxy, (part.image.shape[0], part.image.shape[1]))
    )


def _smallest_factor(hw: tuple[int, int]) -> float:
    """Below it the canvas would be larger than any image may be; never above 1."""
    height, width = hw
    return min(max(max(hw) / MAX_SIDE, math.sqrt(height * width / MAX_PIXELS)), 1.0)


def _corners(window: Windows) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = window.tolist()
    return x0, y0, x1, y1


def _draw(rng: np.random.Generator, image_hw: tuple[int, ...], hw: tuple[int, int]) -> Windows:
    """[TRIES, 4] windows of `hw` inside the image, xyxy px, each place equally likely."""
    spare = np.array(image_hw, np.int64) - np.array(hw, np.int64)
    near = rng.integers(0, spare + 1, size=(TRIES, 2))[:, ::-1]
    return np.concatenate([near, near + hw[::-1]], axis=1)


def _kept(sample: Sample) -> Kept | None:
    """A function: windows [N, 4] -> the share of the referent [N] that each keeps, 0..1.

    By the mask where it has a pixel, and then a window without any of the box counts as one that
    keeps nothing; else by the box; all of it where nothing is meant. None: nobody knows.
    """
    mask, box = sample.mask, sample.box_xyxy
    if box is not None and box_area(box) == 0:
        box = None
    if mask is not None and mask.any():
        return _kept_of_mask(mask, box)
    if box is not None:
        return lambda windows: _box_shares(box, windows)
    if mask is not None or sample.empty:
        return lambda windows: np.ones(len(windows))
    return None


def _kept_of_mask(mask: NDArray[np.bool_], box: NDArray[np.float32] | None) -> Kept:
    # Each of 500 windows costs four look-ups in the table of sums above and left of a corner.
    above_left = cv2.integral(mask.astype(np.uint8))

    def shares(windows: Windows) -> NDArray[np.float64]:
        x0, y0, x1, y1 = windows.T
        inside = above_left[y1, x1] - above_left[y0, x1] - above_left[y1, x0] + above_left[y0, x0]
        found: NDArray[np.float64] = inside / above_left[-1, -1]
        return found if box is None else found * (_box_shares(box, windows) > 0)

    return shares


def _box_shares(box: NDArray[np.float32], windows: Windows) -> NDArray[np.float64]:
    near = np.maximum(box[:2], windows[:, :2])
    far = np.minimum(box[2:], windows[:, 2:])
    shares: NDArray[np.float64] = box_area(np.concatenate([near, far], axis=1)) / box_area(box)
    return shares


def _padded_image(image: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width, channels = image.shape
    canvas = np.empty((*hw, channels), np.uint8)
    canvas[0] = PADDING_RGB[:channels]  # there may be no pixels
    canvas[1:] = canvas[0]  # 20 times as fast as three bytes at a time
    canvas[:height, :width] = image
    return canvas


def _padded_mask(mask: NDArray[np.bool_], hw: tuple[int, int]) -> NDArray[np.bool_]:
    canvas = np.zeros(hw, np.bool_)
    canvas[: mask.shape[0], : mask.shape[1]] = mask
    return canvas


def _padded_objects(objects: Objects, hw: tuple[int, int]) -> Objects:
    if objects.masks is None:
        return objects
    masks = tuple(None if mask is None else _padded_mask(mask, hw) for mask in objects.masks)
    return replace(objects, masks=masks)
