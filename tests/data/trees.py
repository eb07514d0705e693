"""Tiny data set folders for tests, small enough to know every pixel of."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HW = (48, 64)
IMAGE_IDS = (101, 102, 103, 104)

# Two 10 x 10 squares that share 5 x 5 pixels: union 175, without the shared part 150.
SQUARE = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
SQUARE_BESIDE = [15.0, 15.0, 25.0, 15.0, 25.0, 25.0, 15.0, 25.0]
UNION_AREA, LAVT_AREA = 175, 150
#: Every grant of labels under which objects are shown.
SHOWN = [
    frozenset(("text", *extra))
    for n in range(1, 4)
    for extra in combinations(("box", "mask", "category"), n)
    if {"box", "mask"} & set(extra)
]

Tree = dict[str, Any]


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed COCO RLE, by a plain loop over the columns."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def block(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(ann_id: int, image_id: int, category_id: int, box: list[float], seg: Any) -> Tree:
    crowd = int(isinstance(seg, dict))
    return {
        "id": ann_id, "image_id": image_id, "category_id": category_id, "bbox": box,
        "area": box[2] * box[3], "iscrowd": crowd, "segmentation": seg,
    }  # fmt: skip


def ref(ref_id: int, ann_id: Any, image_id: int, split: str, texts: list[str]) -> Tree:
    first = 10 * ref_id
    return {
        "ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "category_id": 1, "split": split,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
        "sent_ids": [first + n for n in range(len(texts))],
        "sentences": [
            {"sent_id": first + n, "raw": raw, "sent": raw.lower(), "tokens": raw.lower().split()}
            for n, raw in enumerate(texts)
        ],
    }  # fmt: skip


def refer_content() -> tuple[list[Tree], Tree]:
    """refs and instances: overlapping polygons, RLE parts, a crowd, several targets and none."""
    instances = {
        "info": {"description": "tiny"},
        "images": [
            {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": HW[0], "width": HW[1]}
            for n in IMAGE_IDS
        ],
        "annotations": [
            annotation(41, 104, 2, [30.0, 5.0, 8.0, 8.0], [[30, 5, 38, 5, 38, 13, 30, 13]]),
            annotation(11, 101, 1, [10.0, 10.0, 15.0, 15.0], [SQUARE, SQUARE_BESIDE]),
            annotation(12, 101, 2, [40.0, 2.0, 12.0, 10.0], [[40, 2, 52, 2, 46, 12]]),
            annotation(13, 101, 1, [1.0, 1.0, 4.0, 4.0], [[1, 1, 5, 1, 5, 5, 1, 5]]),
            annotation(
                21, 102, 1, [2.0, 3.0, 12.0, 10.0],
                [compressed(block(3, 6, 2, 8)), compressed(block(10, 13, 9, 14))],
            ),
            annotation(22, 102, 3, [20.0, 20.0, 10.0, 5.0], rle_of(block(20, 25, 20, 30))),
            annotation(31, 103, 1, [5.0, 5.0, 5.0, 5.0], [[5, 5, 10, 5, 10, 10, 5, 10]]),
            annotation(32, 103, 1, [30.0, 30.0, 6.0, 4.0], [[30, 30, 36, 30, 36, 34, 30, 34]]),
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 2, "name": "cup", "supercategory": "kitchen"},
            {"id": 3, "name": "people", "supercategory": "person"},
        ],
    }  # fmt: skip
    refs = [
        ref(0, 11, 101, "train", ["The left one", "Man in Front", "guy with hat"]),
        ref(1, 12, 101, "val", ["Cup, top right"]),
        ref(2, 21, 102, "testA", ["both halves of her", "the woman"]),
        ref(3, 22, 102, "testB", ["a crowd"]),
        ref(4, 31, 103, "testAB", ["upper person"]),
        ref(5, [31, 32], 103, "val", ["both people", "everybody"]),
        ref(6, [-1], 104, "val", ["the zebra"]),
        ref(7, 41, 104, "train", ["only cup"]),
    ]
    return refs, instances


def photo(image_id: int, hw: tuple[int, int] = HW) -> np.ndarray:
    return np.random.default_rng(image_id).integers(0, 256, (*hw, 3), dtype=np.uint8)


def write_refs(folder: Path, refs: Any, split_by: str = "unc", *, protocol: int | None = 2) -> Path:
    """refs(<split_by>).p in a pickle protocol, or as .json when protocol is None."""
    if protocol is None:
        path = folder / f"refs({split_by}).json"
        path.write_text(json.dumps(refs))
    else:
        path = folder / f"refs({split_by}).p"
        path.write_bytes(pickle.dumps(refs, protocol=protocol))
    return path


def make_refer_tree(
    root: Path,
    *,
    name: str = "refcoco",
    split_by: str = "unc",
    protocol: int | None = 2,
    images: str | None = "images/train2014",
    form: str = "COCO_train2014_{:012d}.jpg",
    edit: Callable[[list[Tree], Tree], None] | None = None,
) -> Path:
    """A REFER folder `root/name` with 4 images, 8 refs, 12 sentences, 8 annotations.

    images: folder of the image files relative to `root`, None for none. form: their names.
    edit: changes refs and instances in place before they are written.
    """
    refs, instances = refer_content()
    if edit is not None:
        edit(refs, instances)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    write_refs(folder, refs, split_by, protocol=protocol)
    (folder / "instances.json").write_text(json.dumps(instances))
    if images is not None:
        place = root / images
        place.mkdir(parents=True, exist_ok=True)
        for image_id in IMAGE_IDS:
            Image.fromarray(photo(image_id)).save(place / form.format(image_id), quality=95)
    return folder


class _Attack:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def malicious_pickle(path: Path, canary: Path, *, protocol: int = 2) -> Path:
    """A refs list with one entry that, if ever loaded naively, creates the file `canary`."""
    attack = _Attack(exec, f"open({str(canary)!r}, 'w').close()")
    path.write_bytes(pickle.dumps([{"ref_id": 0}, attack], protocol=protocol))
    return path


def python2_pickle(path: Path, text: bytes) -> Path:
    """What Python 2 wrote for [str]: protocol 2 with a byte string of less than 256 bytes."""
    path.write_bytes(b"\x80\x02]q\x00U" + bytes([len(text)]) + text + b"q\x01a.")
    return path


if __name__ == "__main__":
    print(make_refer_tree(Path(sys.argv[1])))
