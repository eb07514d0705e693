"""A sound REFER data set of four images, with room for one defect, for the tests of checks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HW = (24, 32)
Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


def annotation(ann_id: int, image_id: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(box),
        "segmentation": outline,
        "iscrowd": 0,
    }


def ref(ref_id: int, image_id: int, ann_id: int, split: str, *texts: str) -> dict[str, Any]:
    sentences = [
        {"sent_id": ref_id * 10 + n, "raw": text, "sent": text.lower(), "tokens": []}
        for n, text in enumerate(texts)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "file_name": "",
        "sent_ids": [],
        "sentences": sentences,
    }


def make_refer(
    root: Path, name: str = "refcoco", split_by: str = "unc", change: Change | None = None
) -> Path:
    """Images 1 to 4 with two objects each; train has image 1 and 2, val 3, testA 4."""
    folder = root / name
    folder.mkdir(parents=True)
    instances = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 24, "width": 32}
            for i in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            annotation(i * 10 + n, i, (2 + 14 * n, 3, 10, 12)) for i in range(1, 5) for n in (0, 1)
        ],
    }
    refs = [
        ref(n, image_id, image_id * 10 + n % 2, split, f"cup {n}", f"the {n} cup")
        for n, (image_id, split) in enumerate(
            [(1, "train"), (1, "train"), (2, "train"), (3, "val"), (4, "testA")]
        )
    ]
    if change:
        change(instances, refs)
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    images = root / "images" / "train2014"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for entry in instances["images"]:
        noise = rng.integers(0, 255, (*HW, 3), np.uint8)
        Image.fromarray(noise).save(images / entry["file_name"])
    return folder
