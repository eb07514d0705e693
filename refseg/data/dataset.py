"""A split of a data set as samples, under a labels contract.

What is not granted is absent from the sample and stays on disk: boxes, segmentations and
annotations are files of their own in the store, and one that no granted label needs is never
opened. A dataset pickles to a few hundred bytes (folder names and options); every data-loader
worker maps the same store again, so memory per worker does not grow with the data set.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refseg.data.images import ImageFinder, read_checked
from refseg.data.maskfile import read_mask_file
from refseg.data.records import ImageRecord, MaskFile, Records, Segmentation
from refseg.data.selection import DatasetOptions, item_rows
from refseg.data.store import read_store
from refseg.errors import DataError
from refseg.ops import masks as mask_ops
from refseg.types import Labels, Sample


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


class ReferDataset:
    """The items of one split. Map-style: `len(dataset)`, `dataset[i]`.

    store: the folder of a converted store. folder: the data set's own folder (mask files are
    relative to it). split: by the rule of `refseg.data.refer.splits_matching`.
    Raises UnknownName for a split that is not there, LabelsError for a filter that would need a
    label which is not granted, DataError when masks are granted and the data set has none.
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

    def __getstate__(self) -> dict[str, object]:
        kept = ("store", "folder", "finder", "split", "labels", "options", "_epoch")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the sentences of the view "ref" anew.

        Workers that are already running keep the epoch they were started with, so the loader
        must not use persistent workers with this view.
        """
        self._epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        """The sample [index]. Raises IndexError, DataError (no image, broken mask), ImageError."""
        entry = self.entry(index)
        return self._sample(entry, self.image(entry.image_row))

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples; an image that several of them share is read once and is one array."""
        entries = [self.entry(index) for index in indices]
        images = {row: self.image(row) for row in dict.fromkeys(e.image_row for e in entries)}
        return [self._sample(entry, images[entry.image_row]) for entry in entries]

    def entry(self, index: int) -> Entry:
        """Everything about an item except its pixels."""
        row = int(self._rows[range(len(self._rows))[index]])
        ref_row, sentence_row = self._rows_of(row)
        records, labels = self.records, self.labels
        ref_id = int(records.column("refs", "ref_id")[ref_row])
        image_row = int(records.column("refs", "image_row")[ref_row])
        sent_id = int(records.column("sentences", "sent_id")[sentence_row])
        seen = labels.allows("box") or labels.allows("mask", ref_id)
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
            weight=float(records.extra("sentences", sentence_row).get("weight", 1.0)),
        )

    def image_record(self, image_row: int) -> ImageRecord:
        """What the annotations say about an image."""
        return self.records.image(image_row)

    def image(self, image_row: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, of the size the annotations state."""
        record, meta = self.records.image(image_row), self.records.meta
        try:
            path = self.finder.find(record)
        except DataError as error:
            raise DataError(
                f"{error.message}\n{self._missing_images()}", remedy=error.remedy
            ) from error
        return read_checked(path, record, sizes_exact=meta.sizes_exact, upright=meta.upright)

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

    def _sample(self, entry: Entry, image: NDArray[np.uint8]) -> Sample:
        mask: NDArray[np.bool_] | None = None
        parts = 0
        if self.labels.allows("mask", entry.ref_id):
            mask, parts = self._mask(entry, (image.shape[0], image.shape[1]))
        return Sample(
            entry.key, image, entry.text, entry.image_id, entry.ref_id, entry.sent_id, mask,
            entry.box_xyxy, entry.category, entry.empty, parts, entry.weight,
        )  # fmt: skip

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
        names = [
            self.records.category_name(int(ids[row])) for row in self.records.ann_rows(ref_row)
        ]
        return ", ".join(dict.fromkeys(names)) or None

    def _mask(self, entry: Entry, hw: tuple[int, int]) -> tuple[NDArray[np.bool_] | None, int]:
        """The union of the targets' masks and the number of their parts.

        None when a target has no mask: data may be partly annotated, and a mask that leaves out
        a target would be wrong.
        """
        union, total = np.zeros(hw, np.bool_), 0
        for ann_row in self.records.ann_rows(entry.ref_row):
            segmentation = self.records.segmentation(ann_row)
            if segmentation is None:
                return None, 0
            try:
                mask, parts = self._decode(segmentation, hw)
            except DataError as error:
                raise self._bad_mask(entry, ann_row, error) from error
            union |= mask
            total += parts
        if total and not union.any():
            warnings.warn(
                f"{self.name}: ref {entry.ref_id}: its mask covers no pixel", stacklevel=3
            )
        return union, total

    def _bad_mask(self, entry: Entry, ann_row: int, error: DataError) -> DataError:
        ann_id = self.records.column("annotations", "ann_id")[ann_row]
        ids = f"annotation {ann_id}, ref {entry.ref_id}, image {entry.image_id}"
        return DataError(
            f"{self.folder / self.records.meta.objects_file}: {ids}: {error.message}",
            remedy=error.remedy or "repair it or leave the ref out; `refseg data check` lists all",
        )

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
