"""All annotated objects of an image (px): read under the labels contract, mirrored, cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refseg.data.records import Records
from refseg.ops.boxes import box_area, clip_boxes
from refseg.types import Labels, Objects


def read_objects(
    records: Records,
    image_row: int,
    labels: Labels,
    *,
    name: Callable[[int], str],
    decode: Callable[[int], NDArray[np.bool_] | None],
) -> Objects:
    """The objects of an image in the order of the annotations, crowds left out.

    name: category id -> name. decode: annotation row -> mask; both are asked only where granted.
    """
    span = records.annotation_rows(image_row)
    rows = np.arange(span.start, span.stop)
    rows = rows[records.column("annotations", "iscrowd")[rows] == 0]
    ids = records.column("annotations", "category_id")[rows].tolist()
    return Objects(
        records.column("annotations", "ann_id")[rows],
        categories=tuple(map(name, ids)) if labels.allows("category") else None,
        boxes_xyxy=_boxes(records, rows) if labels.allows("box") else None,
        masks=tuple(map(decode, rows.tolist())) if "mask" in labels.granted else None,
    )


def flip_objects(objects: Objects, width: int) -> Objects:
    """The objects of the image mirrored left to right. width: of the image, px."""
    boxes, masks = objects.boxes_xyxy, objects.masks
    if boxes is not None:
        x0, y0, x1, y1 = boxes.T
        boxes = np.stack([width - x1, y0, width - x0, y1], axis=1).astype(np.float32)
    if masks is not None:
        masks = tuple(m if m is None else np.ascontiguousarray(m[:, ::-1]) for m in masks)
    return replace(objects, boxes_xyxy=boxes, masks=masks)


def crop_objects(objects: Objects, window_xyxy: tuple[int, int, int, int]) -> Objects:
    """The same objects in the window (px), none left out, so that rows keep their meaning.

    Outside the window an object has a mask without pixels and a box of NaN.
    """
    x0, y0, x1, y1 = window_xyxy
    boxes, masks = objects.boxes_xyxy, objects.masks
    if boxes is not None:
        boxes = clip_boxes(boxes - np.array([x0, y0, x0, y0]), (y1 - y0, x1 - x0))
        boxes[box_area(boxes) == 0] = np.nan
    if masks is not None:
        masks = tuple(m if m is None else np.ascontiguousarray(m[y0:y1, x0:x1]) for m in masks)
    return replace(objects, boxes_xyxy=boxes, masks=masks)


def same_objects(one: Objects | None, other: Objects | None) -> bool:
    """Whether both are None or the same objects with the same labels at the same places."""
    if one is other or one is None or other is None:
        return one is other
    return (
        np.array_equal(one.ann_ids, other.ann_ids)
        and one.categories == other.categories
        and _same_array(one.boxes_xyxy, other.boxes_xyxy)
        and _same_masks(one.masks, other.masks)
    )


def _same_masks(
    one: tuple[NDArray[np.bool_] | None, ...] | None,
    other: tuple[NDArray[np.bool_] | None, ...] | None,
) -> bool:
    if one is None or other is None:
        return one is other
    return all(_same_array(a, b) for a, b in zip(one, other, strict=True))


def _same_array(
    one: NDArray[np.float32] | NDArray[np.bool_] | None,
    other: NDArray[np.float32] | NDArray[np.bool_] | None,
) -> bool:
    if one is other or one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _boxes(records: Records, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """[K, 4] float32 xyxy, NaN as a whole where any number of a box is not stated."""
    x, y, w, h = (records.column("boxes", name)[rows] for name in "xywh")
    boxes = np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)
    boxes[np.isnan(boxes).any(axis=1)] = np.nan
    return boxes
