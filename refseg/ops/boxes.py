"""Boxes: conversions, overlap, clipping and the px <-> net frames.

Boxes are the last axis, [..., 4], continuous `x0, y0, x1, y1` with exclusive far edges, so a box
that covers one pixel has area 1 (no "+1" as in some evaluation code). Degenerate boxes (a far
edge at or before the near one) have area 0. Everything is computed in float64, then returned as
float32 for coordinates and float64 for ratios.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.types import Geometry

Boxes = NDArray[Any]


def xywh_to_xyxy(boxes: Boxes) -> NDArray[np.float32]:
    """Corner and size to two corners, [..., 4] -> [..., 4] float32."""
    b = np.asarray(boxes, np.float64)
    return np.concatenate([b[..., :2], b[..., :2] + b[..., 2:]], -1).astype(np.float32)


def xyxy_to_xywh(boxes: Boxes) -> NDArray[np.float32]:
    """Two corners to corner and size, [..., 4] -> [..., 4] float32."""
    b = np.asarray(boxes, np.float64)
    return np.concatenate([b[..., :2], b[..., 2:] - b[..., :2]], -1).astype(np.float32)


def xyxy_to_cxcywh(boxes: Boxes) -> NDArray[np.float32]:
    """Two corners to centre and size, [..., 4] -> [..., 4] float32."""
    b = np.asarray(boxes, np.float64)
    size = b[..., 2:] - b[..., :2]
    return np.concatenate([b[..., :2] + size / 2, size], -1).astype(np.float32)


def cxcywh_to_xyxy(boxes: Boxes) -> NDArray[np.float32]:
    """Centre and size to two corners, [..., 4] -> [..., 4] float32."""
    b = np.asarray(boxes, np.float64)
    half = b[..., 2:] / 2
    return np.concatenate([b[..., :2] - half, b[..., :2] + half], -1).astype(np.float32)


def box_area(boxes: Boxes) -> NDArray[np.float64]:
    """Area of each box, [..., 4] -> [...] float64; 0 for degenerate boxes."""
    b = np.asarray(boxes, np.float64)
    size = np.clip(b[..., 2:] - b[..., :2], 0.0, None)
    area: NDArray[np.float64] = size[..., 0] * size[..., 1]
    return area


def _overlap(a: Boxes, b: Boxes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intersection and union areas of every pair, both [N, M]."""
    first = np.asarray(a, np.float64).reshape(-1, 1, 4)
    second = np.asarray(b, np.float64).reshape(1, -1, 4)
    near = np.maximum(first[..., :2], second[..., :2])
    far = np.minimum(first[..., 2:], second[..., 2:])
    size = np.clip(far - near, 0.0, None)
    intersection = size[..., 0] * size[..., 1]
    return intersection, box_area(first) + box_area(second) - intersection


def box_iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every pair: a [N, 4], b [M, 4] -> [N, M]; 0 if both are empty."""
    intersection, union = _overlap(a, b)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def box_giou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Generalised IoU of every pair, [N, M] in -1..1: IoU minus the hull's share outside the union.

    Source: Rezatofighi et al., CVPR 2019, algorithm 1. A hull of no area gives 0.
    """
    intersection, union = _overlap(a, b)
    first = np.asarray(a, np.float64).reshape(-1, 1, 4)
    second = np.asarray(b, np.float64).reshape(1, -1, 4)
    near = np.minimum(first[..., :2], second[..., :2])
    far = np.maximum(first[..., 2:], second[..., 2:])
    hull = np.prod(np.clip(far - near, 0.0, None), axis=-1)
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    waste = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    giou: NDArray[np.float64] = iou - waste
    return giou


def clip_boxes(boxes: Boxes, hw: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes cut at the borders of an image of `hw` (rows, columns), [..., 4] float32."""
    height, width = hw
    limit = np.array([width, height, width, height], np.float64)
    return np.clip(np.asarray(boxes, np.float64), 0.0, limit).astype(np.float32)


def boxes_to_net(boxes: Boxes, geometry: Geometry) -> NDArray[np.float32]:
    """Boxes from the px frame to the net frame, [..., 4] float32."""
    scale = np.array(geometry.scale_xy * 2, np.float64)
    offset = np.array(geometry.offset_xy * 2, np.float64)
    return (np.asarray(boxes, np.float64) * scale + offset).astype(np.float32)


def boxes_to_px(boxes: Boxes, geometry: Geometry) -> NDArray[np.float32]:
    """Boxes from the net frame to the px frame, not clipped, [..., 4] float32."""
    scale = np.array(geometry.scale_xy * 2, np.float64)
    offset = np.array(geometry.offset_xy * 2, np.float64)
    return ((np.asarray(boxes, np.float64) - offset) / scale).astype(np.float32)
