"""Study "detections": what the detector tells of annotated objects.

The pulled detector looks at photographs with COCO annotations. What it told of each object becomes
refseg/methods/mutual/detections.npz, from which the training of the heads draws; how like the
detector the draws are is measured on photographs that were not drawn from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.errors import DataError
from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.config import RECORDS
from refseg.nn.detections import Joining, join
from refseg.nn.eyes import CLASS_IDS, looks
from refseg.nn.ssd import Ssd, look
from refseg.nn.weights import load_state, read_state
from refseg.ops.boxes import box_area, xywh_to_xyxy
from refseg.ops.files import atomic_path
from refseg.ops.images import corner_geometry, load_image
from refseg.ops.masks import decode_segmentation, mask_in_net
from refseg.pull.kept import pulled_folder
from refseg.train.progress import Counting
from studies.base import Outcome
from studies.detections import LEAST, Photo, compared, records_of
from studies.held_out import held_out

LEASTS = (0.05, 0.1, 0.2)
CELLS = 256


@dataclass(frozen=True)
class Detector:
    """What the study is asked. photos: holds instances.json and images/. never: image ids to leave
    out. records: the file to write.
    """

    photos: Path
    never: frozenset[int] = frozenset()
    records: Path = RECORDS


def run(asked: Detector) -> Outcome:
    """Look at all photographs, write the records, compare. Raises DataError, ModelError."""
    photos = read_photos(asked.photos, asked.never)
    with atomic_path(asked.records) as temporary:
        records_of(photos).save(temporary)
    numbers = {
        "rows": compared(photos, LEASTS),
        "held out": held_out(photos, LEASTS),
        "photographs": len(photos),
        "objects": sum(len(photo.kinds) for photo in photos),
    }
    data = [f"{asked.photos.name}, {len(photos)} photographs"]
    return Outcome(numbers, [], data, "box+mask+category", {"simulation": 0})


def read_photos(folder: Path, never: frozenset[int]) -> list[Photo]:
    """Photographs with what is annotated and what is detected in each. Raises DataError."""
    path = folder / "instances.json"
    if not path.is_file():
        raise DataError(f"{folder}: no instances.json", remedy="name the folder of coco_photos")
    source = json.loads(path.read_text(encoding="utf-8"))
    number = {name: n for n, name in enumerate(COCO_CLASSES)}
    kinds = {one["id"]: number[one["name"]] for one in source["categories"]}
    objects: dict[int, list[dict[str, Any]]] = {}
    for one in source["annotations"]:
        if not one["iscrowd"] and min(one["bbox"][2:]) > 0:
            objects.setdefault(one["image_id"], []).append(one)
    ssd = Ssd()
    weights = pulled_folder("photos") / "ssd.safetensors"
    load_state(ssd, read_state(weights), source=str(weights))
    images = [one for one in source["images"] if one["id"] not in never]
    photos = []
    progress = Counting("auto", "looking at photographs")
    for done, one in enumerate(images, start=1):
        image = load_image(folder / "images" / one["file_name"], exif=False)
        photo = _photo(ssd.eval(), image, objects.get(one["id"], []), kinds)
        photos.append(replace(photo, image_id=one["id"]))
        progress(done, len(images))
    return photos


def _photo(
    ssd: Ssd, image: NDArray[np.uint8], objects: list[dict[str, Any]], kinds: dict[int, int]
) -> Photo:
    height, width = image.shape[:2]
    size = np.array([width, height, width, height], np.float32)
    found = join(look(ssd, image), Joining(least=LEAST))
    boxes = xywh_to_xyxy(np.array([one["bbox"] for one in objects], np.float32).reshape(-1, 4))
    there = box_area(boxes) > 0
    return Photo(
        np.array([one["id"] for one in objects], np.int64)[there],
        np.array([kinds[one["category_id"]] for one in objects], np.int64)[there],
        boxes[there] / size,
        looks(image, _grids(objects, (height, width)))[there],
        found.boxes / size,
        found.probabilities[:, CLASS_IDS],
    )


def _grids(objects: list[dict[str, Any]], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """[K, CELLS, CELLS] masks of annotated objects on the grid on which MobileSAM draws."""
    geometry = corner_geometry(hw, CELLS)
    masks = [
        mask_in_net(decode_segmentation(one["segmentation"], hw)[0], geometry) for one in objects
    ]
    return np.array(masks, bool).reshape(-1, CELLS, CELLS)
