"""Study "bounds": what a sequence of coordinates can say about real objects at best.

Nothing is trained. All boxes of RefCOCO's pictures (RefCOCO+ has the same) through the bins (REC);
COCO's polygons through N points (RES): how many have several parts, which one outline cannot
follow, and what the crowd rule makes of these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.catalog import open_records
from refseg.metrics.boxes import paired_box_iou
from refseg.metrics.iou import mask_counts
from refseg.ops.contours import dequantise, fill_polygon, outer_contour, quantise, sample
from refseg.ops.masks import decode_segmentation
from studies.base import Outcome, say

SIDE = 640  # px of the papers' net image
BINS = (100, 200, 500, 1000)
POINTS = (6, 8, 12, 18, 24, 36)
#: Rule of the points, whether a bin means its centre: ours, and the papers' code.
RULES = {"uniform": True, "stride": False}


def run(boxes: Path, photos: Path, limit: int | None = None) -> Outcome:
    """boxes: folder with refcoco/; photos: COCO pictures' folder, instances.json."""
    masks = list(_masks(photos / "instances.json", limit))
    numbers = {
        "rec": _boxes(boxes / "refcoco", limit),
        "res": outlines([mask for mask, _ in masks]),
        "parts": several([parts for _, parts in masks]),
        "largest": largest_part(masks),
        "side": SIDE,
    }
    data = ["refcoco, all boxes", "COCO photographs, all masks"]
    return Outcome(numbers, ["original", "seqtr-crowd"], data, "none: nothing is learned")


def _boxes(folder: Path, limit: int | None) -> dict[str, Any]:
    """Boxes through each number of bins, their picture's longer side at `SIDE`."""
    records = open_records(folder)
    rows = np.flatnonzero(records.column("annotations", "iscrowd") == 0)[:limit]
    xywh = np.stack([records.column("boxes", name)[rows] for name in "xywh"], axis=1)
    image = records.column("annotations", "image_row")[rows]
    size = np.stack([records.column("images", name)[image] for name in ("width", "height")], axis=1)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    whole = np.isfinite(xyxy).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)
    net = (xyxy * (SIDE / size.max(axis=1))[:, None])[whole]
    told = {}
    for bins in BINS:
        for centre in (True, False):
            back = dequantise(quantise(net, SIDE, bins), SIDE, bins, centre=centre)
            iou = paired_box_iou(back.astype(np.float32), net.astype(np.float32))
            told[f"{bins}, {'centre' if centre else 'left edge'}"] = {
                "mean IoU": float(iou.mean()),
                "REC@0.5": float((iou > 0.5).mean()),
                "REC@0.9": float((iou > 0.9).mean()),
            }
    return {"n": int(whole.sum()), "rows": told}


Masks = Sequence[NDArray[np.bool_]]


def _masks(path: Path, limit: int | None) -> Iterator[tuple[NDArray[np.bool_], list[Any]]]:
    """Each object's mask and its parts' masks, largest first, the longer side at `SIDE`."""
    told = json.loads(path.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in told["images"]}
    for one in [one for one in told["annotations"] if not one.get("iscrowd")][:limit]:
        height, width = sizes[one["image_id"]]
        factor = SIDE / max(height, width)
        hw = round(height * factor), round(width * factor)
        polygons = [[factor * value for value in part] for part in one["segmentation"]]
        mask, _ = decode_segmentation(polygons, hw)
        if mask.any():
            parts = [decode_segmentation([part], hw)[0] for part in polygons if len(part) >= 6]
            yield mask, sorted((part for part in parts if part.any()), key=lambda m: -m.sum())


def outlines(masks: Masks) -> list[dict[str, Any]]:
    """Mean IoU of masks and the polygons of N points on them, by rule; 1,000 bins."""
    say(f"bounds: outlines of {len(masks):,} objects")
    rows = []
    for rule, centre in RULES.items():
        contours = [outer_contour(mask, edges=rule == "uniform") for mask in masks]
        for points in POINTS:
            found = [
                _through(mask, contour, points, rule, centre)
                for mask, contour in zip(masks, contours, strict=True)
            ]
            rows.append({"rule": rule, "N": points, "mIoU": float(np.mean(found))})
    return rows


def _through(
    mask: NDArray[np.bool_], contour: NDArray[np.float64], points: int, rule: Any, centre: bool
) -> float:
    size = np.array([mask.shape[1], mask.shape[0]])
    tokens = quantise(sample(contour, points, rule), size, 1000)
    back = dequantise(tokens, size, 1000, centre=centre)
    return _iou(fill_polygon(back, mask.shape), mask)


def several(parts: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Share of the objects with two parts and more."""
    return {"n": len(parts), "several": float(np.mean([len(one) > 1 for one in parts]))}


def largest_part(masks: Sequence[tuple[NDArray[np.bool_], Sequence[Any]]]) -> dict[str, float]:
    """Objects of several parts, answered by a perfect outline of the largest: both protocols.

    Under the crowd rule I / area(prediction): a perfect part of anything scores 1.
    """
    some = [(mask, parts[0]) for mask, parts in masks if len(parts) > 1]
    plain = [_iou(part, mask) for mask, part in some]
    crowd = [float((part & mask).sum() / part.sum()) for mask, part in some]
    whole = [1.0] * (len(masks) - len(some))
    return {
        "original, of several": float(np.mean(plain)),
        "seqtr-crowd, of several": float(np.mean(crowd)),
        "original, all": float(np.mean(plain + whole)),
        "seqtr-crowd, all": float(np.mean(crowd + whole)),
    }


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    both, either = mask_counts(one, other)
    return float(both / either) if either else 1.0
