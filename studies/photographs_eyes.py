"""Eyes of the study "chain": the real ones, and such as know more or less than they could.

Each has `look(image, least, most)` as `refseg.nn.eyes.Eyes` has; what is annotated they know by the
picture's content. They show which part of the chain limits it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.nn.eyes import Eyes, Seen, looks
from refseg.nn.mobile_sam import BoxMasks
from refseg.ops.boxes import box_iou
from refseg.types import Objects

Image = NDArray[np.uint8]


def identity(image: Image) -> str:
    """Of a picture, by its content."""
    return hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).hexdigest()


def annotations(dataset: ReferDataset) -> dict[str, Objects]:
    """What is annotated in each picture of a split, by `identity`."""
    found = {}
    for group in dataset.groups_by_image():
        (sample,) = dataset.samples(group[:1])
        assert sample.objects is not None
        found[identity(sample.image)] = sample.objects
    return found


@dataclass
class Remembering:
    """Looks at each picture once, however often it is asked."""

    eyes: Eyes
    kept: dict[tuple[str, float, int], Seen] = field(default_factory=dict)

    def look(self, image: Image, *, least: float, most: int) -> Seen:
        key = identity(image), least, most
        if key not in self.kept:
            self.kept[key] = self.eyes.look(image, least=least, most=most)
        return self.kept[key]


@dataclass
class Colourless:
    """Sees no colours."""

    eyes: Remembering

    def look(self, image: Image, *, least: float, most: int) -> Seen:
        return replace(self.eyes.look(image, least=least, most=most), looks=None)


@dataclass
class KnowsClasses:
    """Whatever overlaps an annotated object by half is of its class beyond doubt."""

    eyes: Remembering
    objects: dict[str, Objects]

    def look(self, image: Image, *, least: float, most: int) -> Seen:
        seen, objects = self.eyes.look(image, least=least, most=most), self.objects[identity(image)]
        overlap = box_iou(seen.boxes, _boxes(objects))
        chances = seen.chances.copy()
        for row, best in enumerate(overlap.argmax(axis=1) if len(objects) else []):
            if overlap[row, best] >= 0.5:
                chances[row] = _classes(objects)[best]
        return replace(seen, chances=chances)


@dataclass
class KnowsObjects:
    """Sees what is annotated, no more and no less; the masks are MobileSAM's, of its boxes."""

    eyes: Eyes
    objects: dict[str, Objects]
    kept: dict[str, Seen] = field(default_factory=dict)

    def look(self, image: Image, *, least: float, most: int) -> Seen:
        del least, most
        key = identity(image)
        if key not in self.kept:
            objects = self.objects[key]
            sam = self.eyes.sam
            masks: BoxMasks = sam.masks(sam.encode(image), _boxes(objects))
            colours = looks(image, (masks.logits > 0).cpu().numpy())
            self.kept[key] = Seen(_boxes(objects), _classes(objects), masks, colours)
        return self.kept[key]


def _boxes(objects: Objects) -> NDArray[np.float32]:
    assert objects.boxes_xyxy is not None
    return objects.boxes_xyxy


def _classes(objects: Objects) -> NDArray[np.float32]:
    """[K, 80], each of one class."""
    names: Sequence[str] = objects.categories or ()
    rows = [COCO_CLASSES.index(name) for name in names]
    return np.eye(len(COCO_CLASSES), dtype=np.float32)[rows]
