"""Box accuracy (REC, "Acc@0.5"): the share of expressions whose box is good enough.

A segmentation's box is the tight, half-open box of its mask. Published code differs in one
detail: the mutual-supervision paper asks for IoU > 0.5, SeqTR and Partial-RES for IoU >= 0.5.
MAttNet adds 1 to widths; we do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError
from refseg.ops.boxes import box_area

Boxes = NDArray[np.float32]


def paired_box_iou(predicted: Boxes, target: Boxes) -> NDArray[np.float64]:
    """IoU of box i with box i: [N, 4] xyxy twice -> [N]; 0 where both are degenerate.

    Raises DataError if the counts differ.
    """
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (predicted, target))
    if len(a) != len(b):
        raise DataError(f"{len(a)} predicted boxes but {len(b)} targets")
    size = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    intersection = size[:, 0] * size[:, 1]
    union = box_area(a) + box_area(b) - intersection
    iou: NDArray[np.float64] = np.zeros(len(union))
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def box_hit(
    predicted: Boxes | None, target: Boxes, *, threshold: float = 0.5, inclusive: bool = False
) -> bool:
    """Whether one box [4] matches: IoU > threshold (>= if inclusive). No box is a miss."""
    if predicted is None:
        return False
    iou = float(paired_box_iou(predicted, target)[0])
    return iou >= threshold if inclusive else iou > threshold


def rec_accuracy(
    predicted: Boxes, target: Boxes, *, threshold: float = 0.5, inclusive: bool = False
) -> float:
    """Share of N pairs of boxes that match; see `box_hit`. Raises DataError without any pair."""
    iou = paired_box_iou(predicted, target)
    if len(iou) == 0:
        raise DataError("no box was scored", remedy="is the split empty?")
    return float(np.mean(iou >= threshold if inclusive else iou > threshold))
