"""A split of a data set as samples, under a labels contract.

What is not granted is absent from the sample and stays on disk: boxes, segmentations and
annotations are files of their own in the store, and one that no granted label needs is never
opened. A dataset pickles to a few hundred bytes (folder names and options); every data-loader
worker maps the same store again, so memory per worker does not grow with the data set.

With `DatasetOptions.objects` a sample also carries what else is annotated in its image; its ids
and which of them are crowds then count as part of what is granted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.images import ImageFinder, read_checked
from refseg.data.maskfile import read_mask_file
from refseg.data.objects import read_objects
from refseg.data.records import ImageRecord, MaskFile, Records, Segmentation
from refseg.data.selection import DatasetOptions, item_rows
from refseg.data.store import read_store
from refseg.errors import DataError
from refseg.ops import masks as mask_ops
from refseg.types import Labels, Objects, Picture, Sample


@dataclass(frozen=True)
class Entry:
    """An item without its pixels. Fields as in Sample; image_row, ref_row: rows of the records."""

    key: str
    text: str
    image_id: int
    ref_id: int
    sent_id: int
    image_row: int
    ref_row: int
    box_xyxy: NDArray[np.float32] | None
    category: str | None
    empty: bool | None
    weight: float
    pseudo: bool = False


class ReferDataset:
    """The items of one split. Map-style: `len(dataset)`, `dataset[i]`.

    store: the folder of a converted store. folder: the data set's own folder (mask files are
    relative to it). split: by the rule of `refseg.data.refer.splits_matching`.
    Raises UnknownName for a split that is not there, LabelsError for a filter or for objects that
    would need a label which is not granted, DataError when masks are granted and the data set has
    none.
    """

    def __init__(
        self,
        store: Path,
        folder: Path,
        split: str,
        labels: Labels,
        finder: ImageFinder,
        options: DatasetOptions | None = None,
    ) -> None:
        self.store, self.folder, self.finder = store, folder, finder
        self.split, self.labels, self.options = split, labels, options or DatasetOptions()
        self._epoch = 0
        self._open()

    def _open(self) -> None:
        self.records: Records = read_store(self.store)
        self.name = self.records.meta.dataset
        self.split_by = self.records.meta.split_by
        self._rows = item_rows(self.records, self.split, self.labels, self.options)
        self._category_name = cache(self.records.category_name)

    @property
    def hash(self) -> str:
        """Changes when the annotations do."""
        return self.store.name

    def __getstate__(self) -> dict[str, object]:
        kept = ("store", "folder", "finder", "split", "labels", "options", "_epoch")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._rows)

    def with_options(self, **changes: Any) -> ReferDataset:
        """The same split with other fields of `DatasetOptions`. Errors: as for the class."""
        options = replace(self.options, **changes)
        parts = (self.store, self.folder, self.split, self.labels, self.finder)
        return ReferDataset(*parts, options)

    def set_epoch(self, epoch: int) -> None:
        """Choose the sentences of the view "ref" anew.

        Workers that are already running keep the epoch they were started with, so the loader
        must not use persistent workers with this view.
        """
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        """The sample [index]. Raises IndexError, DataError (no image, broken mask), ImageError."""
        entry = self.entry(index)
        return self._sample(entry, self.picture(entry.image_row))

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples; an image that several of them share is read once and is one array, and
        so are its objects.
        """
        entries = [self.entry(index) for index in indices]
        pictures = {row: self.picture(row) for row in dict.fromkeys(e.image_row for e in entries)}
        return [self._sample(entry, pictures[entry.image_row]) for entry in entries]

    def entry(self, index: int) -> Entry:
        """Everything about an item except its pixels."""
        row = int(self._rows[range(len(self._rows))[index]])
        ref_row, sentence_row = self._rows_of(row)
        records, labels = self.records, self.labels
        ref_id = int(records.column("refs", "ref_id")[ref_row])
        image_row = int(records.column("refs", "image_row")[ref_row])
        sent_id = int(records.column("sentences", "sent_id")[sentence_row])
        seen = labels.allows("box") or labels.allows("mask", ref_id)
        extra = records.extra("sentences", sentence_row)
        return Entry(
            key=f"{ref_id}-{sent_id}",
            text=self._text(sentence_row),
            image_id=int(records.column("images", "image_id")[image_row]),
            ref_id=ref_id,
            sent_id=sent_id,
            image_row=image_row,
            ref_row=ref_row,
            box_xyxy=self._box(ref_row) if labels.allows("box") else None,
            category=self._category(ref_row) if labels.allows("category") else None,
            empty=bool(records.column("refs", "empty")[ref_row]) if seen else None,
            weight=float(extra.get("weight", 1.0)),
            pseudo=bool(extra.get("pseudo", False)),
        )

    def image_record(self, image_row: int) -> ImageRecord:
        """What the annotations say about an image."""
        return self.records.image(image_row)

    def image(self, image_row: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, of the size the annotations state; [H, W, 0] without pixels."""
        if not self.options.pixels:
            return np.empty((*self._stated_hw(image_row), 0), np.uint8)
        record, meta = self.records.image(image_row), self.records.meta
        try:
            path = self.finder.find(record)
        except DataError as error:
            raise DataError(
                f"{error.message}\n{self._missing_images()}", remedy=error.remedy
            ) from error
        return read_checked(path, record, sizes_exact=meta.sizes_exact, upright=meta.upright)

    def _stated_hw(self, image_row: int) -> tuple[int, int]:
        height = int(self.records.column("images", "height")[image_row])
        width = int(self.records.column("images", "width")[image_row])
        if height < 1 or width < 1:
            image_id = self.records.column("images", "image_id")[image_row]
            raise DataError(
                f"{self.name}: the annotations do not state the size of image {image_id} "
                f"({height} x {width} px), and without its pixels nothing else tells it",
                remedy="open the data set with pixels, or state height and width of its images",
            )
        return height, width

    def picture_rows(self) -> list[int]:
        """The rows of the images that the items are about, in order of first appearance."""
        image_rows = self.records.column("refs", "image_row")[self._ref_rows()]
        return list(dict.fromkeys(image_rows.tolist()))

    def picture(self, image_row: int) -> Picture:
        """An image, with its objects where the options ask for them. Raises as `__getitem__`."""
        image = self.image(image_row)
        image_id = int(self.records.column("images", "image_id")[image_row])
        if not self.options.objects:
            return Picture(image_id, image)

        def mask(ann_row: int) -> NDArray[np.bool_] | None:
            decoded = self._decoded(ann_row, image.shape[:2], f"image {image_id}")
            return None if decoded is None else decoded[0]

        objects = read_objects(
            self.records, image_row, self.labels, name=self._category_name, decode=mask
        )
        return Picture(image_id, image, objects)

    def _missing_images(self) -> str:
        rows = np.unique(self.records.column("refs", "image_row")[self._ref_rows()]).tolist()
        count = sum(1 for _ in self.finder.missing(map(self.records.image, rows)))
        return f"{count:,} of the {len(rows):,} images of {self.name} {self.split} are missing"

    def groups_by_image(self) -> list[list[int]]:
        """The indices of the items about each image, images in order of first appearance."""
        image_rows = self.records.column("refs", "image_row")[self._ref_rows()]
        groups: dict[int, list[int]] = {}
        for index, image_row in enumerate(image_rows.tolist()):
            groups.setdefault(image_row, []).append(index)
        return list(groups.values())

    def _sample(self, entry: Entry, picture: Picture) -> Sample:
        image, objects = picture.image, picture.objects
        mask: NDArray[np.bool_] | None = None
        parts = 0
        if self.labels.allows("mask", entry.ref_id):
            mask, parts = self._mask(entry, (image.shape[0], image.shape[1]))
        return Sample(
            entry.key, image, entry.text, entry.image_id, entry.ref_id, entry.sent_id, mask,
            entry.box_xyxy, entry.category, entry.empty, parts, entry.weight, objects,
            None if objects is None else self._target(entry.ref_row, objects), entry.pseudo,
        )  # fmt: skip

    def _target(self, ref_row: int, objects: Objects) -> int | None:
        """The row in `objects` of the only target; None for none, several, or a crowd."""
        rows = self.records.ann_rows(ref_row)
        if len(rows) != 1:
            return None
        ann_id = self.records.column("annotations", "ann_id")[rows[0]]
        found = np.flatnonzero(objects.ann_ids == ann_id)
        return int(found[0]) if len(found) else None

    def _text(self, sentence_row: int) -> str:
        typed = self.records.text("sentences", self.options.text_field, sentence_row)
        return " ".join(typed.split())  # line breaks occur in typed text

    def _rows_of(self, row: int) -> tuple[int, int]:
        """The ref and the sentence of an item; `row` is a sentence's or, in view "ref", a ref's."""
        records = self.records
        if self.options.view == "sentence":
            return int(records.column("sentences", "ref_row")[row]), row
        ref_id = int(records.column("refs", "ref_id")[row])
        start = int(records.column("refs", "sent_start")[row])
        count = int(records.column("refs", "sent_count")[row])
        return row, start + draw(self.options.seed, self._epoch, ref_id, count)

    def _box(self, ref_row: int) -> NDArray[np.float32] | None:
        """The box around all targets; None without a target or a stated box."""
        rows = list(self.records.ann_rows(ref_row))
        if not rows:
            return None
        x, y, w, h = (self.records.column("boxes", name)[rows] for name in "xywh")
        box = np.array([x.min(), y.min(), (x + w).max(), (y + h).max()], np.float32)
        return None if np.isnan(box).any() else box

    def _category(self, ref_row: int) -> str | None:
        """The targets' category; several are joined by a comma."""
        ids = self.records.column("annotations", "category_id")
        names = [self._category_name(int(ids[row])) for row in self.records.ann_rows(ref_row)]
        return ", ".join(dict.fromkeys(names)) or None

    def _mask(self, entry: Entry, hw: tuple[int, int]) -> tuple[NDArray[np.bool_] | None, int]:
        """The union of the targets' masks and the number of their parts.

        None when a target has no mask: data may be partly annotated, and a mask that leaves out
        a target would be wrong.
        """
        union, total = np.zeros(hw, np.bool_), 0
        about = f"ref {entry.ref_id}, image {entry.image_id}"
        for ann_row in self.records.ann_rows(entry.ref_row):
            decoded = self._decoded(ann_row, hw, about)
            if decoded is None:
                return None, 0
            union |= decoded[0]
            total += decoded[1]
        if total and not union.any():
            warnings.warn(
                f"{self.name}: ref {entry.ref_id}: its mask covers no pixel", stacklevel=3
            )
        return union, total

    def _decoded(
        self, ann_row: int, hw: tuple[int, ...], about: str
    ) -> tuple[NDArray[np.bool_], int] | None:
        """The mask of an object and the number of its parts, None where it has no segmentation.

        about: what it belongs to, for the DataError of a broken one.
        """
        segmentation = self.records.segmentation(ann_row)
        if segmentation is None:
            return None
        try:
            return self._decode(segmentation, (hw[0], hw[1]))
        except DataError as error:
            ann_id = self.records.column("annotations", "ann_id")[ann_row]
            file = self.folder / self.records.meta.objects_file
            raise DataError(
                f"{file}: annotation {ann_id}, {about}: {error.message}",
                remedy=error.remedy
                or "repair it or leave the ref out; `refseg data check` lists all",
            ) from error

    def _decode(
        self, segmentation: Segmentation, hw: tuple[int, int]
    ) -> tuple[NDArray[np.bool_], int]:
        if isinstance(segmentation, MaskFile):
            return read_mask_file(self.folder, segmentation, hw), 1
        return mask_ops.decode_segmentation(
            segmentation,
            hw,
            rule=self.options.mask_rule,
            rasteriser=self.records.meta.rasteriser,
        )

    def _ref_rows(self) -> NDArray[np.intp]:
        if self.options.view == "ref":
            return self._rows
        return self.records.column("sentences", "ref_row")[self._rows]


def draw(seed: int, epoch: int, ref_id: int, count: int) -> int:
    """A number below `count`, fixed by (seed, epoch, ref_id) and nothing else."""
    digest = blake2b(f"{seed}/{epoch}/{ref_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % count
