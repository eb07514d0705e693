"""The embedded world on disk, in the layout of RefCOCO, so that the one real reader reads it.

    images/scene_000001.png ...       rendered pictures, 128 to 256 px a side
    scenes/ scenes+/ scenesg/         refs(oracle).p and instances.json of each style
    scenes-all/                       the refs of all three styles together
    scenes.jsonl                      each image's exact scene and stage
    captions.jsonl                    three captions for each image
    pool.json                         images with masks and no expressions
    world.json                        what was asked for; written last

Image `i` depends on (seed, i) alone, so the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refseg.data.scenes.model import KINDS
from refseg.data.scenes.picture import STYLES, TEST_A_KINDS, Order, image_name, split_of
from refseg.data.scenes.workers import pictures
from refseg.errors import DataError
from refseg.ops.files import (
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    remove_folder,
    write_errors,
)

WORLD_VERSION = 1
SPLIT_BY = "oracle"
TOGETHER = "scenes-all"
DATA_SETS = (*STYLES, TOGETHER)
Progress = Callable[[int, int], None]


def build_scenes(
    folder: Path,
    *,
    seed: int = 0,
    images: int = 4000,
    workers: int | None = None,
    ambiguous_share: float = 0.05,
    only: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Render `images` scenes and write them with their expressions into `folder`.

    The folder appears whole or not at all; one that exists is replaced. only: leave out all
    splits but this one; its pictures and words are the same as in the whole world, the numbers
    of its annotations and refs are not. workers: processes, by
    default one for each processor this process may use. ambiguous_share: share of training
    sentences that are ambiguous on purpose. progress(done, total) is called after each image.
    Raises DataError for values out of range, RunError when the disk refuses.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if images < 1 or workers < 1 or seed < 0 or not 0.0 <= ambiguous_share <= 1.0:
        raise DataError(
            f"cannot build scenes with images={images}, workers={workers}, seed={seed}, "
            f"ambiguous_share={ambiguous_share}",
            remedy="images and workers are at least 1, seed at least 0, the share 0 to 1",
        )
    with atomic_path(folder) as temp:
        (temp / "images").mkdir(parents=True)
        order = Order(seed, images, ambiguous_share, str(temp / "images"))
        indices = [i for i in range(images) if only is None or split_of(i, images) == only]
        world = _World()
        for done, record in enumerate(pictures(order, indices, workers), start=1):
            world.add(indices[done - 1], record)
            if progress is not None:
                progress(done, len(indices))
        world.write(temp, order, indices)
    return Path(folder)


def ensure_scenes(
    cache: Path,
    *,
    seed: int = 0,
    images: int = 4000,
    workers: int | None = None,
    only: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder `<cache>/scenes-v1-<seed>-<images>`, built on first use.

    only: see `build_scenes`; where the whole world is there already, that is returned.
    Two processes that need it at once build it once: the second waits for the first.
    """
    whole = Path(cache) / f"scenes-v{WORLD_VERSION}-{seed}-{images}"
    if only is not None and (whole / "world.json").is_file():
        return whole
    target = whole if only is None else whole.with_name(f"{whole.name}-{only}")
    if (target / "world.json").is_file():
        return target
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / f".{target.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "world.json").is_file():
            for leftover in target.parent.glob(f".{target.name}.*.tmp"):
                remove_folder(leftover)
            build_scenes(
                target, seed=seed, images=images, workers=workers, only=only, progress=progress
            )
    return target


@dataclass
class _World:
    """Rows gathered image by image; ids count upwards over the whole data set."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {s: [] for s in DATA_SETS}
    )
    sentences: Counter[str] = field(default_factory=Counter)
    scene_lines: list[str] = field(default_factory=list)
    caption_lines: list[str] = field(default_factory=list)
    pool: list[int] = field(default_factory=list)

    def add(self, index: int, record: dict[str, Any]) -> None:
        image_id, split = index + 1, record["split"]
        name = image_name(image_id)
        height, width = record["scene"]["size_hw"]
        self.images.append(
            {"id": image_id, "file_name": name, "height": height, "width": width, "license": 1}
        )
        annotation_ids = {}
        for item in record["scene"]["objects"]:
            annotation_ids[item["object_id"]] = len(self.annotations) + 1
            self.annotations.append(self._annotation(image_id, item, record["masks"]))
        about = {"image_id": image_id, "file_name": name, "split": split}
        scene = {**about, "scene": record["scene"], "stage": record["stage"]}
        self.scene_lines.append(json.dumps(scene))
        self.caption_lines.append(json.dumps({**about, "captions": record["captions"]}))
        if split == "pool":
            self.pool.append(image_id)
        for style in STYLES:
            for ref in record["refs"][style]:
                for data_set in (style, TOGETHER):
                    self._add_ref(data_set, ref, annotation_ids[ref["object_id"]], split)

    def _annotation(self, image_id: int, item: dict[str, Any], masks: list[Any]) -> dict[str, Any]:
        x0, y0, x1, y1 = item["box_xyxy"]
        return {
            "id": len(self.annotations) + 1,
            "image_id": image_id,
            "category_id": KINDS.index(item["kind"]) + 1,
            "object_id": item["object_id"],
            "segmentation": masks[item["object_id"]],
            "area": item["area"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
        }

    def _add_ref(self, data_set: str, ref: dict[str, Any], ann_id: int, split: str) -> None:
        annotation = self.annotations[ann_id - 1]
        sentences = []
        for sentence in ref["sentences"]:
            sentences.append({**sentence, "sent_id": self.sentences[data_set]})
            self.sentences[data_set] += 1
        self.refs[data_set].append(
            {
                "ref_id": len(self.refs[data_set]) + 1,
                "ann_id": ann_id,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "split": split,
                "file_name": image_name(annotation["image_id"], ann_id),
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )

    def write(self, folder: Path, order: Order, indices: list[int]) -> None:
        instances = json.dumps(
            {
                "info": {"description": "refseg scenes", "version": str(WORLD_VERSION)},
                "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
                "images": self.images,
                "annotations": self.annotations,
                "categories": [
                    {"id": index + 1, "name": kind, "supercategory": _supercategory(kind)}
                    for index, kind in enumerate(KINDS)
                ],
            },
            separators=(",", ":"),
        )
        for style in DATA_SETS:
            (folder / style).mkdir()
            atomic_write_text(folder / style / "instances.json", instances)
            path = folder / style / f"refs({SPLIT_BY}).p"
            path.write_bytes(plain_pickle(self.refs[style]))
        atomic_write_text(folder / "scenes.jsonl", "".join(f"{x}\n" for x in self.scene_lines))
        atomic_write_text(folder / "captions.jsonl", "".join(f"{x}\n" for x in self.caption_lines))
        atomic_write_json(folder / "pool.json", {"image_ids": self.pool})
        counts = Counter(split_of(index, order.images) for index in indices)
        atomic_write_json(
            folder / "world.json",
            {
                "version": WORLD_VERSION,
                "seed": order.seed,
                "images": order.images,
                "ambiguous_share": order.ambiguous_share,
                "images_by_split": dict(counts),
                "refs": {style: len(self.refs[style]) for style in DATA_SETS},
                "sentences": {style: self.sentences[style] for style in DATA_SETS},
            },
        )


def _supercategory(kind: str) -> str:
    return "curved" if kind in TEST_A_KINDS else "edged"


def plain_pickle(value: Any) -> bytes:
    """Pickle protocol 2 of lists, dicts, strings and numbers: it names no global.

    The value goes through JSON first, so that equal strings are not shared by accident of how
    they were made and the bytes depend on the value alone.
    """
    import pickle

    return pickle.dumps(json.loads(json.dumps(value)), protocol=2)
