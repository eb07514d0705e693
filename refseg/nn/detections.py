"""From the detector's 1,917 answers to the objects of a picture.

One thing is answered by many anchors, and two classes may both be likely of it. Answers that
overlap much and have the same likeliest class are one object; so are those that overlap nearly
wholly, whatever their class. The surest answer gives the box, and each class's probability is the
highest of the answers joined, so that doubt about the class is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refseg.errors import ConfigError
from refseg.nn.ssd import Detected
from refseg.ops.boxes import box_area, box_iou


@dataclass(frozen=True)
class Joining:
    """least: probability of the likeliest class below which an answer is none. same, any: overlap
    (IoU) from which answers of the same likeliest class, and of any, are one object.
    most: objects of a picture, the surest.
    """

    least: float = 0.1
    same: float = 0.6
    any: float = 0.85
    most: int = 100

    def __post_init__(self) -> None:
        for name in ("least", "same", "any"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give 0 to 1")
        if self.most < 1:
            raise ConfigError(f"most is {self.most}", remedy="give 1 or more")


@dataclass(frozen=True)
class Found:
    """boxes: float32 [N, 4], xyxy px of the original image. probabilities: float32 [N, 91] by
    COCO's category id (column 0 is to be ignored). Surest first.
    """

    boxes: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


def join(detected: Detected, joining: Joining = Joining()) -> Found:
    """The objects of a picture, without regard to any expression; there may be none."""
    classes = detected.probabilities[:, 1:]
    sure, likeliest = classes.max(axis=1), classes.argmax(axis=1)
    there = (sure >= joining.least) & (box_area(detected.boxes) > 0)
    # Stable, so that equal answers come in the anchors' order.
    order = np.flatnonzero(there)[np.argsort(-sure[there], kind="stable")]
    boxes, probabilities = detected.boxes[order], detected.probabilities[order]
    overlap = box_iou(boxes, boxes)
    alike = likeliest[order][:, None] == likeliest[order][None]
    one = (overlap >= joining.any) | (alike & (overlap >= joining.same))
    free = np.ones(len(order), bool)
    kept: list[int] = []
    told: list[NDArray[np.float32]] = []
    for row in range(len(order)):  # greedily, from the surest
        if not free[row]:
            continue
        if len(kept) == joining.most:
            break
        joined = one[row] & free
        free &= ~joined
        kept.append(row)
        told.append(probabilities[joined].max(axis=0))
    width = detected.probabilities.shape[1]
    return Found(boxes[kept], np.array(told, np.float32).reshape(-1, width))
