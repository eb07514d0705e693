"""Read a PhraseCut folder (VGPhraseCut v0): phrases that may mean several instances at once.

    image_data_split3000.json    or image_data_split.json: one entry an image
    refer_train.json, refer_val.json, refer_test.json, refer_miniv.json     any of them
    images/<image_id>.jpg        Visual Genome 1.2

One image and one task, as the files have them:

    {"image_id": 2407890, "coco_id": 30755, "flickr_id": 34, "width": 500, "height": 375,
     "url": "...", "split": "val"}                  # coco_id null for images that are not COCO's

    {"task_id": "2407890__1001_1002", "image_id": 2407890, "ann_ids": [1001, 1002],
     "instance_boxes": [[x, y, w, h], ...],         # one an instance
     "Polygons": [[[[x, y], ...], ...], ...],       # instance, polygon, point; mind the capital P
     "phrase": "two black dogs",
     "phrase_structure": {"name": "dogs", "attributes": ["black"], "relation_ids": [],
                          "relation_descriptions": [["on", "sofa"]], "type": "attribute"}}

A task becomes one ref with one sentence; its mask is the union over its instances. Instances get
ids of their own, because ann_ids are Visual Genome's and one object serves many tasks. Polygons
are filled as the official code does it (rasteriser "pil": coordinates cut to integers, the outline
counted in).

Mind the validation split: miniv is a part of it, the published counts of val include it, and yet
refer_val.json leaves it out. Here "val" is both files together; "val_without_miniv" is
refer_val.json alone, which is what some published code evaluates on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.records import Records
from refseg.errors import DataError, UnknownName

SPLITS = ("train", "val", "test", "miniv")
SPLIT_ALIASES = {"val": ("val", "miniv"), "val_without_miniv": ("val",)}
IMAGE_FILES = ("image_data_split3000.json", "image_data_split.json")

# Ids are the split's block plus the place in its file, so that they do not depend on which of the
# files are there.
REFS_A_SPLIT = 10_000_000
INSTANCES_A_TASK = 10_000

_CHUNK = 1 << 20
_LONGEST_ENTRY = 64 << 20
_AFTER_ENTRY = (",", "]", " ", "\t", "\r", "\n")


def sources(folder: Path, split_by: str | None = None) -> list[Path]:
    """The files that `read` reads. Raises DataError when they are not there."""
    return [_image_file(folder), *(path for _, path in _task_files(folder))]


def read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records:
    """The normal form of a PhraseCut folder. There is one way to split, named "official".

    strict: raise DataError at the first contradiction; otherwise leave the task out and count it.
    Memory: one task at a time beside the flat arrays of the result.
    """
    if split_by not in (None, "official"):
        raise UnknownName(f"split_by for {folder}", split_by, ["official"])
    image_file, task_files = _image_file(folder), _task_files(folder)
    build = RecordsBuilder(
        "phrasecut",
        "official",
        source=str(image_file),
        strict=strict,
        rasteriser="pil",
        split_aliases=SPLIT_ALIASES,
        image_dirs=("images", "../images"),
    )
    tasks = _Tasks(build, _read_images(build, image_file))
    for split, path in task_files:
        build.source = str(path)
        for place, task in enumerate(iter_json_list(path)):
            with build.entry("task", (place, task)):
                tasks.add(split, SPLITS.index(split) * REFS_A_SPLIT + place, task)
    return build.finish()


class _Tasks:
    """Hands tasks to a builder; images and categories are added when a task first needs them."""

    def __init__(self, build: RecordsBuilder, images: dict[int, tuple[int, int, int | None]]):
        self._build, self._images = build, images
        self._image_added: set[int] = set()
        self._categories: dict[str, int] = {}
        self._task_ids: set[str] = set()

    def add(self, split: str, ref_id: int, task: Mapping[str, Any]) -> None:
        task_id, image_id = str(task["task_id"]), int(task["image_id"])
        boxes, polygons = task["instance_boxes"], task["Polygons"]
        sentence = Sentence(ref_id, str(task["phrase"]))
        structure: Mapping[str, Any] = task.get("phrase_structure") or {}
        if image_id not in self._images:
            self._build.problem("task about an unknown image", f"{task_id}, image_id {image_id}")
        elif task_id in self._task_ids:
            self._build.problem("two tasks with one id", f"task_id {task_id}")
        elif not polygons or len(boxes) != len(polygons):
            self._build.problem(
                "boxes and polygons do not pair up",
                f"task_id {task_id}: {len(boxes)} instance_boxes, {len(polygons)} Polygons",
            )
        else:
            self._task_ids.add(task_id)
            self._add_image(image_id)
            category_id = self._category(str(structure.get("name") or ""))
            ann_ids = []
            for number, (box, instance) in enumerate(zip(boxes, polygons, strict=True)):
                # As the official code: a polygon of one point, or an instance of such, is nothing.
                drawn = [polygon for polygon in instance if len(polygon) >= 2]
                flat = [[float(n) for point in polygon for n in point] for polygon in drawn]
                ann_id = ref_id * INSTANCES_A_TASK + number
                if flat and self._build.annotation(ann_id, image_id, category_id, box, flat):
                    ann_ids.append(ann_id)
            if not ann_ids:  # as a ref without targets it would mean "nothing in this image"
                self._build.problem("task without a usable polygon", f"task_id {task_id}")
                return
            extra = self._extra(task_id, image_id, task, structure)
            self._build.ref(ref_id, image_id, split, ann_ids, [sentence], extra=extra)

    def _add_image(self, image_id: int) -> None:
        if image_id not in self._image_added:
            height, width, _ = self._images[image_id]
            self._build.image(image_id, f"{image_id}.jpg", height, width)
            self._image_added.add(image_id)

    def _category(self, name: str) -> int:
        if name and name not in self._categories:
            self._categories[name] = len(self._categories) + 1
            self._build.category(self._categories[name], name)
        return self._categories.get(name, 0)

    def _extra(
        self, task_id: str, image_id: int, task: Mapping[str, Any], structure: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the official subsets are made from, and the COCO id that leak checks need."""
        kept = {"task_id": task_id, "ann_ids": task.get("ann_ids"), **structure}
        coco_id = self._images[image_id][2]
        return kept if coco_id is None else {**kept, "coco_id": coco_id}


def _read_images(build: RecordsBuilder, path: Path) -> dict[int, tuple[int, int, int | None]]:
    """image_id -> height, width, COCO id or None."""
    found: dict[int, tuple[int, int, int | None]] = {}
    for place, entry in enumerate(iter_json_list(path)):
        with build.entry("image", (place, entry)):
            coco_id = entry.get("coco_id")
            size = int(entry["height"]), int(entry["width"])
            found[int(entry["image_id"])] = (*size, None if coco_id is None else int(coco_id))
    return found


def _image_file(folder: Path) -> Path:
    for name in IMAGE_FILES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: neither {' nor '.join(IMAGE_FILES)} is here",
        remedy="it has the image sizes; get it from where the refer_*.json files came from",
    )


def _task_files(folder: Path) -> list[tuple[str, Path]]:
    paths = [(split, folder / f"refer_{split}.json") for split in SPLITS]
    found = [(split, path) for split, path in paths if path.is_file()]
    if not found:
        raise DataError(
            f"{folder}: no refer_train.json, refer_val.json, refer_test.json or refer_miniv.json",
            remedy="refer_input_*.json have no masks and do not do; get the refer_*.json files",
        )
    return found


def iter_json_list(path: Path) -> Iterator[Any]:
    """The entries of a JSON file whose top level is a list, read one after the other.

    Memory: one entry and a megabyte of text, whatever the size of the file. Raises DataError,
    naming the place, for a missing, truncated or broken file, when the entry there is reached.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _JsonList(path, file).entries()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="check the folder's name") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})", remedy="fetch it again") from error


class _JsonList:
    """A window of text that moves over the file: `text[at:]` is unread, `before` lies behind it."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.before = "", 0, 0

    def entries(self) -> Iterator[Any]:
        if self._next() != "[":
            raise self._broken("the top level is not a list")
        self.at += 1
        if self._next() == "]":
            self.at += 1
        else:
            yield self._entry()
            while self._next() == ",":
                self.at += 1
                self._next()
                yield self._entry()
            if self._next() != "]":
                raise self._broken('"," or "]" was expected')
            self.at += 1
        if self._next():
            raise self._broken("text after the end of the list")

    def _entry(self) -> Any:
        decode = json.JSONDecoder().raw_decode
        while True:
            reason = '"," or "]" was expected'
            try:
                value, end = decode(self.text, self.at)
            except ValueError as error:
                value, end, reason = None, -1, str(error)
            # A number at the window's end may go on behind it: "12" of "1234", "0" of "0.5".
            if end >= 0 and self.text[end : end + 1] in _AFTER_ENTRY:
                self.at = end
                return value
            if len(self.text) - self.at > _LONGEST_ENTRY or not self._read():
                raise self._broken(reason)

    def _next(self) -> str:
        """The next character that is no space, left unread; empty at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read():
                return ""

    def _read(self) -> bool:
        more = self.file.read(_CHUNK)
        self.text, self.before, self.at = self.text[self.at :] + more, self.before + self.at, 0
        return bool(more)

    def _broken(self, reason: str) -> DataError:
        place = f"near character {self.before + self.at:,}"
        ended = "" if self.file.read(1) else "; the file ends soon after, it may be truncated"
        return DataError(
            f"{self.path}: not a readable json list {place}: {reason}{ended}",
            remedy="fetch or copy it again",
        )
