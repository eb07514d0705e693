"""What is to be seen in a photograph: detected objects, and a mask for the box of each.

    eyes = Eyes.load(folder)          weights that `refseg models pull photos` brings
    seen = eyes.look(image, ...)      boxes, probabilities of COCO's 80 classes, masks, colours

The detector (ssd.py, detections.py) says what is where, MobileSAM (mobile_sam.py) draws it, and
colours are counted in what is drawn. Both nets are frozen, made by others, and belong to no model:
they are in no state dict.
Letters: N detections, Q = 80 classes, L cells a side of the mask logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refseg.nn.detections import Joining, join
from refseg.nn.mobile_sam import BoxMasks, MobileSam
from refseg.nn.ssd import Ssd, look
from refseg.nn.weights import load_state, read_state
from refseg.ops.colours import COLOURS, ZONES, colour_names, colour_zones
from refseg.ops.images import corner_geometry
from refseg.ops.masks import content_rectangle
from refseg.types import Batch

#: Ids that COCO gives no class; 1..90 without them are the 80 classes in their usual order.
NO_CLASS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
CLASS_IDS = tuple(i for i in range(1, 91) if i not in NO_CLASS)
FILES = ("ssd.safetensors", "mobile_sam.safetensors")


@dataclass(frozen=True)
class Seen:
    """One image's detections, surest first; there may be none.

    boxes: float32 [N, 4], xyxy px. chances: float32 [N, Q], each class's probability by itself, in
    COCO's order. masks: of the boxes. looks: float32 [N, 33], the colours of each mask
    (`refseg.ops.colours.colour_zones`); None where nobody looked.
    """

    boxes: NDArray[np.float32]
    chances: NDArray[np.float32]
    masks: BoxMasks
    looks: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def logits(self) -> Tensor:
        """[N, L, L] float32 of the masks, over the square that the image is fitted into."""
        return self.masks.logits


class Eyes:
    """A detector and MobileSAM, on one device."""

    def __init__(self, ssd: Ssd, sam: MobileSam) -> None:
        self.ssd, self.sam = ssd.eval().requires_grad_(False), sam

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Weights as `refseg models pull photos` leaves them. Raises ModelError naming the file."""
        ssd, (detector, masks) = Ssd(), (folder / name for name in FILES)
        load_state(ssd, read_state(detector), source=str(detector))
        return cls(ssd.to(device), MobileSam.load(masks).to(device))

    @property
    def side(self) -> int:
        """Of the square that an image is fitted into, px."""
        return self.sam.config.side

    def look(self, image: NDArray[np.uint8], *, least: float, most: int) -> Seen:
        """What is to be seen in an image, [H, W, 3] uint8 RGB px of any size.

        least: probability of the likeliest class from which a detection counts. most: detections,
        the surest.
        """
        found = join(look(self.ssd, image), Joining(least=least, most=most))
        masks = self.sam.masks(self.sam.encode(image), found.boxes)
        inside = (masks.logits > 0).cpu().numpy()
        return Seen(found.boxes, found.probabilities[:, CLASS_IDS], masks, looks(image, inside))


class WithEyes(nn.Module):
    """A method and the eyes that it sees by, as parts of one module: to be counted and timed.

    heads: a method with `see_by` (see `refseg.methods.mutual.model.Mutual`).
    """

    def __init__(self, heads: nn.Module, eyes: Eyes) -> None:
        super().__init__()
        self.detector, self.masks, self.heads = eyes.ssd, eyes.sam, heads
        told: Any = heads
        told.see_by(lambda: eyes)

    def forward(self, batch: Batch) -> Any:
        """What the method answers."""
        return self.heads(batch)


def looks(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The colours of N masks of an image: [N, 33] float32, each zone's in turn.

    image: [H, W, 3] uint8 RGB px. masks: [N, L, L], over the square that the image is fitted into
    at the upper left, on whose grid colours are looked at.
    """
    found = np.zeros((len(masks), ZONES * len(COLOURS)), np.float32)
    if not len(masks):
        return found
    _, _, width, height = content_rectangle(corner_geometry(image.shape[:2], masks.shape[1]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    names = colour_names(np.asarray(small, np.uint8))
    for row, mask in enumerate(masks):
        found[row] = colour_zones(names, mask[:height, :width]).ravel()
    return found
