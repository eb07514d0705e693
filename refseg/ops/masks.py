"""Masks: polygons, resizing, and the way back from a network's response to the image.

Masks are [H, W] bool in the px frame unless a name says otherwise; `hw` is (rows, columns).
A response is a [h, w] float map in the net frame. Resizing follows pixel areas (pixel i covers
i .. i+1), so a mask and a box resized together stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from refseg.errors import DataError
from refseg.ops.rle import rle_decode as rle_decode
from refseg.ops.rle import rle_encode as rle_encode
from refseg.types import Geometry

Mask = NDArray[np.bool_]
Response = NDArray[np.float32]
Resample = Literal["bilinear", "bilinear-corners", "bicubic", "nearest"]
Rasteriser = Literal["coco", "pil"]
MaskRule = Literal["union", "lavt_compat"]

# Far beyond any accepted image, and small enough for the rasterisers' 32-bit arithmetic.
_FARTHEST = 100_000.0
# Pixels from which a response is stretched and cut some rows at a time.
_LARGE = 1 << 24
# A map whose values differ by less than this share of them is flat but for rounding.
_FLAT = 1e-6


def mask_to_box(mask: Mask) -> NDArray[np.float32] | None:
    """Tight box [4] float32 xyxy with exclusive far edges; None for a mask without pixels."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def box_mask(box_xyxy: NDArray[np.floating], hw: tuple[int, int]) -> Mask:
    """The pixels [H, W] whose centre lies in a box (px, far edges exclusive); NaN gives none."""
    x0, y0, x1, y1 = box_xyxy
    rows, columns = np.arange(hw[0]) + 0.5, np.arange(hw[1]) + 0.5
    inside: Mask = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))
    return inside


def polygons_to_mask(
    polygons: Sequence[Sequence[float]], hw: tuple[int, int], *, rasteriser: Rasteriser = "coco"
) -> Mask:
    """Union of the filled polygons, each `[x0, y0, x1, y1, ...]` in px.

    rasteriser: "coco" is COCO's own; "pil" is PhraseCut's (vertices cut to integers, outline
    filled). Polygons of odd length or with fewer than 3 points (pil: 2) are dropped.
    Raises DataError if none is left, a number is not finite or lies absurdly far outside.
    """
    return _fill(_sound_polygons(polygons, rasteriser), hw, rasteriser)


def _sound_polygons(
    polygons: Sequence[Sequence[float]], rasteriser: Rasteriser
) -> list[NDArray[np.float64]]:
    fewest = 4 if rasteriser == "pil" else 6
    sound = []
    for polygon in polygons:
        try:
            flat = np.asarray(polygon, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise DataError(f"not a polygon: {str(polygon)[:80]}") from error
        if len(flat) % 2 or len(flat) < fewest:
            continue
        if not (np.abs(flat) <= _FARTHEST).all():
            raise DataError(
                f"polygon with a coordinate that is not finite or beyond {_FARTHEST:.0f}: "
                f"{str(polygon)[:80]}"
            )
        sound.append(flat)
    if not sound:
        raise DataError(
            f"no usable polygon among {len(polygons)}: {str(polygons)[:80]}",
            remedy="a polygon is a list x0, y0, x1, y1, ... of at least three points",
        )
    return sound


def _fill(polygons: list[NDArray[np.float64]], hw: tuple[int, int], rasteriser: Rasteriser) -> Mask:
    height, width = hw
    if rasteriser == "coco":
        codes = coco.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
        return rle_decode(codes[0] if len(codes) == 1 else coco.merge(codes))
    canvas = Image.new("L", (width, height), 0)
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([int(n) for n in polygon], fill=1, outline=1)
    return np.array(canvas, bool)


def decode_segmentation(
    segmentation: Any,
    hw: tuple[int, int],
    *,
    rule: MaskRule = "union",
    rasteriser: Rasteriser = "coco",
) -> tuple[Mask, int]:
    """Mask [H, W] of a COCO `segmentation` and the number of parts it was joined from.

    segmentation: a list of polygons, one flat polygon, an RLE dict, or a list of RLE dicts.
    rule: "union" joins the parts; "lavt_compat" leaves pixels that two parts share as
    background, as code does that sums REFER's parts and keeps the value 1.
    Raises DataError if nothing usable is there or an RLE has another size than `hw`.
    """
    if isinstance(segmentation, Mapping):
        return _rle_of_size(segmentation, hw), 1
    if not isinstance(segmentation, list | tuple) or len(segmentation) == 0:
        raise DataError(
            f"segmentation is {segmentation!r:.80}",
            remedy="expected a list of polygons, an RLE, or a list of RLEs",
        )
    if isinstance(segmentation[0], int | float):
        segmentation = [segmentation]
    if any(isinstance(part, Mapping) for part in segmentation):
        parts = [_rle_of_size(part, hw) for part in segmentation]
    else:
        polygons = _sound_polygons(segmentation, rasteriser)
        if rule == "union":
            return _fill(polygons, hw, rasteriser), len(polygons)
        parts = [_fill([polygon], hw, rasteriser) for polygon in polygons]
    if len(parts) == 1:
        return parts[0], 1
    layers = np.sum(parts, axis=0, dtype=np.int32)
    return np.asarray(layers == 1 if rule == "lavt_compat" else layers > 0, bool), len(parts)


def _rle_of_size(rle: Any, hw: tuple[int, int]) -> Mask:
    mask = rle_decode(rle)
    if mask.shape != tuple(hw):
        raise DataError(
            f"run-length code is {mask.shape[0]} x {mask.shape[1]}, the image {hw[0]} x {hw[1]}",
            remedy="the annotation belongs to another size of the image",
        )
    return mask


def resize_mask(mask: Mask, hw: tuple[int, int], *, like_pillow: bool = False) -> Mask:
    """The mask at another size: each new pixel takes the old one under its centre.

    A centre that falls between two old pixels takes the later one. like_pillow: takes the one
    that Pillow takes, whose running sum of steps decides such ties by rounding error (640 to
    480 has one in three columns); needed to score exactly as code that resizes with Pillow.
    """
    if mask.shape == tuple(hw):
        return mask.copy()
    pick = _nearest_pillow if like_pillow else _nearest
    rows, columns = (pick(old, new) for old, new in zip(mask.shape, hw, strict=True))
    return np.take(np.take(mask, rows, axis=0), columns, axis=1)


def _nearest_pillow(old: int, new: int) -> NDArray[np.int64]:
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Index of the old cell under the centre of each new cell, in exact integer arithmetic."""
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def content_rectangle(geometry: Geometry) -> tuple[int, int, int, int]:
    """Whole net pixels x0, y0, x1, y1 of the image inside its padding, at least one pixel."""
    (height, width), (net_h, net_w) = geometry.original_hw, geometry.net_hw
    (sx, sy), (ox, oy) = geometry.scale_xy, geometry.offset_xy
    x0, y0 = min(max(round(ox), 0), net_w - 1), min(max(round(oy), 0), net_h - 1)
    x1, y1 = min(round(ox + width * sx), net_w), min(round(oy + height * sy), net_h)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def mask_to_xywh(mask: Mask) -> list[float] | None:
    """The tight box as [x, y, width, height], as data sets write boxes; None without pixels."""
    box = mask_to_box(mask)
    if box is None:
        return None
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return [x0, y0, x1 - x0, y1 - y0]


def mask_in_net(mask: Mask, geometry: Geometry) -> Mask:
    """A px mask as the network sees it: [net_h, net_w] bool, nearest, padding False."""
    x0, y0, x1, y1 = content_rectangle(geometry)
    net = np.zeros(geometry.net_hw, bool)
    net[y0:y1, x0:x1] = resize_mask(mask, (y1 - y0, x1 - x0))
    return net


def resize_response(response: Response, hw: tuple[int, int], resample: Resample) -> Response:
    """A float map at another size, [h, w] float32, no antialiasing (as torch's interpolate).

    resample: "bilinear", "bicubic" (a = -0.75) and "nearest" align pixel areas;
    "bilinear-corners" aligns the centres of the corner pixels (align_corners=True).
    """
    values = np.ascontiguousarray(response, np.float32)
    if values.shape == tuple(hw):
        return values.copy()
    if resample == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(values.shape, hw, strict=True))
        return np.take(np.take(values, rows, axis=0), columns, axis=1)
    if resample == "bilinear-corners":
        return _lerp(_lerp(values, hw[0]).T, hw[1]).T
    flag = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[resample]
    return np.asarray(cv2.resize(values, (hw[1], hw[0]), interpolation=flag), np.float32)


def _lerp(values: Response, length: int) -> Response:
    """Linear interpolation along the first axis so that the end rows keep their places."""
    at = np.linspace(0.0, len(values) - 1, length)
    low = np.minimum(at.astype(np.int64), max(len(values) - 2, 0))
    high = np.minimum(low + 1, len(values) - 1)
    share = (at - low).astype(np.float32)[:, None]
    return np.ascontiguousarray(values[low] * (1 - share) + values[high] * share, np.float32)


def response_at(
    response: Response, geometry: Geometry, hw: tuple[int, int], resample: Resample = "bilinear"
) -> Response:
    """The part of a response that shows the image, stretched to any size `hw`, float32.

    Without padding the map is resized once. With padding it is first brought to net size,
    since only there the image has whole-pixel borders.
    """
    return resize_response(_content(response, geometry, resample), hw, resample)


def _content(response: Response, geometry: Geometry, resample: Resample) -> Response:
    """The part of a response that shows the image."""
    x0, y0, x1, y1 = content_rectangle(geometry)
    if (x0, y0, x1, y1) == (0, 0, geometry.net_hw[1], geometry.net_hw[0]):
        return response
    return resize_response(response, geometry.net_hw, resample)[y0:y1, x0:x1]


def response_in_px(
    response: Response, geometry: Geometry, resample: Resample = "bilinear"
) -> Response:
    """A response at the size of the original image, [H, W] float32: padding cut, resize undone."""
    return response_at(response, geometry, geometry.original_hw, resample)


def stretched(values: Response) -> Response:
    """A map [h, w] with its lowest value at 0 and its highest at 1; a flat one becomes zeros.

    Flat is what differs by rounding alone: resizing a constant leaves that, and stretching would
    make a picture of it.
    """
    low, high = float(values.min()), float(values.max())
    if high - low <= _FLAT * max(abs(low), abs(high)):
        return np.zeros_like(values, np.float32)
    return np.asarray((values - low) / np.float32(high - low), np.float32)


def response_to_mask(
    response: Response,
    geometry: Geometry,
    *,
    threshold: float = 0.5,
    resample: Resample = "bilinear",
    strict_greater: bool = True,
) -> Mask:
    """Mask [H, W] px of a response: resized first, then `> threshold` (or `>=`)."""
    height, width = geometry.original_hw
    strips: Iterable[tuple[int, Response]]
    if resample == "bilinear" and height * width > _LARGE:
        strips = _strips(_content(response, geometry, resample), (height, width))
    else:
        strips = [(0, response_in_px(response, geometry, resample))]
    mask = np.empty((height, width), bool)
    for top, values in strips:
        mask[top : top + len(values)] = (
            values > threshold if strict_greater else values >= threshold
        )
    return mask


def _strips(values: Response, hw: tuple[int, int]) -> Iterator[tuple[int, Response]]:
    """`resize_response(values, hw, "bilinear")`, some rows at a time: (first row, [k, W]).

    Of 100 million pixels the whole would be 400 MB. Columns first, as OpenCV does it.
    """
    height, width = hw
    wide = resize_response(values, (len(values), width), "bilinear")
    step = max(_LARGE // (8 * width), 1)
    for top in range(0, height, step):
        rows = np.arange(top, min(top + step, height))
        at = np.clip((rows + 0.5) * (len(values) / height) - 0.5, 0, len(values) - 1)
        above = at.astype(np.int64)
        below = np.minimum(above + 1, len(values) - 1)
        share = (at - above).astype(np.float32)[:, None]
        yield top, wide[above] * (1 - share) + wide[below] * share
