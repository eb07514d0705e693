"""The proposals of a model by themselves: everything in an image that it takes for an object.

load("mutual-scenes").propose("photo.jpg")[0].mask
distinct(proposals, 0.8)                      # of near-duplicates the surest one
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from refseg.errors import ConfigError
from refseg.models import Model
from refseg.ops.masks import mask_to_box, response_to_mask
from refseg.ops.rle import rle_counts, rle_encode
from refseg.types import Geometry


@dataclass(frozen=True)
class Proposal:
    """One proposal of an image.

    number: its row in the model, the same whatever else is asked. score: 1 - p(no object).
    category: the likeliest one that the model was taught, "object" where it was taught none;
    category_score: its probability, at most `score`. logits: [h, w] float32 of the mask, in the
    net frame. found_xyxy: [4] float32 px, the box in which a detector found it; None for what is a
    mask and no more.
    """

    number: int
    score: float
    category: str
    category_score: float
    logits: NDArray[np.float32]
    geometry: Geometry
    found_xyxy: NDArray[np.float32] | None = None

    @property
    def box_xyxy(self) -> NDArray[np.float32] | None:
        """[4] px: the box in which it was found, else the tight one of its mask, made anew each
        time; None for a mask without a pixel.
        """
        return mask_to_box(self.mask) if self.found_xyxy is None else self.found_xyxy

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W] bool px, made anew each time: a hundred of a large photo would fill the memory.

        It may be empty: a model has as many proposals as queries, whatever the image shows.
        """
        # As `decode` does it, so that an answer's mask is the mask of its proposal to the pixel.
        logits = torch.from_numpy(self.logits)[None, None]
        full = F.interpolate(logits, self.geometry.net_hw, mode="bilinear", align_corners=False)
        return response_to_mask(full[0, 0].numpy(), self.geometry, threshold=0.0)


def check_proposes(model: Model) -> None:
    """Raise ConfigError for a model that finds no objects in pixels by itself."""
    if not hasattr(model.method, "propose"):
        raise ConfigError(
            f"{model.name} (method {model.method_name}) makes no proposals",
            remedy="use a model of the method mutual, such as photos",
        )
    if model.method.reads_objects:
        raise ConfigError(
            f"{model.name} chooses among annotated objects and sees no pixels",
            remedy="use a model that sees, such as photos or mutual-scenes",
        )


def list_proposals(model: Model, proposals: Any, geometry: Geometry) -> list[Proposal]:
    """What the method proposes about one image (its first), surest first; no padding."""
    level = proposals.levels[-1]
    names = model.method.config.extractor.classes
    logits = level.masks[0].float().cpu().numpy()
    chance = level.classes[0].float().softmax(dim=-1).cpu()  # [N, Q + 1], the last: no object
    best, category = chance[:, :-1].max(dim=-1)
    scores = 1 - chance[:, -1]
    boxes = proposals.boxes_px(0, geometry.original_hw)
    there = [True] * len(scores) if proposals.there is None else proposals.there[0].tolist()
    return [
        Proposal(
            number,
            float(scores[number]),
            names[int(category[number])],
            float(best[number]),
            logits[number],
            geometry,
            None if boxes is None else boxes[number],
        )
        for number in scores.argsort(descending=True, stable=True).tolist()
        if there[number]
    ]


def distinct(proposals: Iterable[Proposal], iou: float) -> list[Proposal]:
    """The proposals, surest first, without those whose mask has an IoU of `iou` with one kept.

    iou: above 0, to 1. Masks are compared in px. Masks without a pixel are all alike.
    """
    return list(unlike(sorted(proposals, key=lambda p: -p.score), iou))


def unlike(proposals: Iterable[Proposal], iou: float) -> Iterator[Proposal]:
    """As `distinct`, in the order given; a mask is made when it is asked for."""
    codes: list[dict[str, Any]] = []
    for one in proposals:
        code = rle_encode(one.mask)
        both, either = rle_counts([code] * len(codes), codes)
        if not (both >= iou * either).any():
            codes.append(code)
            yield one
