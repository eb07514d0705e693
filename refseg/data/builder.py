"""Fill the normal form row by row, checking what every format must hold.

A reader calls, in this order: `category`, `image`, `annotation`, `ref`, then `finish`.

    build = RecordsBuilder("refcoco", "unc", source="instances.json", strict=True)
    build.category(1, "person")
    build.image(72, "COCO_train2014_000000000072.jpg", 640, 427)
    build.annotation(598731, 72, 1, (136.6, 129.4, 289.1, 499.1), [[166.8, 509.1, ...]])
    build.ref(0, 72, "train", [598731], [Sentence(0, "Right giraffe", "right giraffe")])
    records = build.finish()

Values go into flat arrays at once, so that a large file does not become millions of Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from refseg.data.columns import Columns, NumberLists, Segmentations
from refseg.data.records import Records, RecordsMeta, Segmentation, from_tables
from refseg.errors import DataError

EXAMPLES_KEPT = 10
NO_BOX = (float("nan"),) * 4


@dataclass(frozen=True)
class Sentence:
    """One expression as a reader hands it over. An empty raw or sent takes the other's text."""

    sent_id: int
    raw: str
    sent: str = ""
    ambiguous: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


class RecordsBuilder:
    """Collects one data set. See the module docstring for the order of calls.

    source: the file (or folder) named in errors. strict: the first contradiction raises
    DataError; otherwise the row is left out and counted in `RecordsMeta.skipped`.
    meta: anything beyond names, see RecordsMeta.
    """

    def __init__(
        self, dataset: str, split_by: str, *, source: str, strict: bool = True, **meta: Any
    ) -> None:
        self._meta = RecordsMeta(dataset, split_by, **meta)
        self.source, self._strict = source, strict
        self._skipped: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._image_row: dict[int, int] = {}
        self._ann_row: dict[int, int] = {}
        self._ref_ids: set[int] = set()
        self._categories: dict[int, tuple[str, str]] = {}
        self._images = Columns(image_id="q", file_name="s", height="i", width="i")
        self._annotations = Columns(ann_id="q", image_row="i", category_id="i", iscrowd="b")
        self._boxes = Columns(x="d", y="d", w="d", h="d")
        self._segmentations = Segmentations()
        self._refs = Columns(
            ref_id="q", image_row="i", split="s", empty="b", sent_start="i", sent_count="i",
            extra="s",
        )  # fmt: skip
        self._ref_targets = NumberLists("i")
        self._sentences = Columns(
            sent_id="q", ref_row="i", raw="s", sent="s", ambiguous="b", extra="s"
        )

    def problem(self, kind: str, detail: str, remedy: str = "") -> None:
        """A contradiction in the source: raise DataError when strict, else count and go on."""
        if self._strict:
            hint = remedy or "repair the file, or read it with strict=False to leave such rows out"
            raise DataError(f"{self.source}: {kind}: {detail}", remedy=hint)
        self._skipped[kind] = self._skipped.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(detail)

    @contextmanager
    def entry(self, kind: str, entry: object) -> Iterator[None]:
        """Around one entry of the source: a missing or ill-typed field becomes a `problem`."""
        try:
            yield
        except KeyError as error:
            self.problem(f"{kind} without {error}", f"{entry!r:.120}")
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            self.problem(f"{kind} with a value of a wrong kind", f"{error}: {entry!r:.120}")

    def category(self, category_id: int, name: str, supercategory: str = "") -> None:
        """Name a category; the last name of an id counts."""
        self._categories[category_id] = (name, supercategory)

    def image(self, image_id: int, file_name: str, height: int = 0, width: int = 0) -> bool:
        """Add an image. height, width: px, 0 when not stated. False: left out."""
        if image_id in self._image_row:
            self.problem("two images with one id", f"image_id {image_id} ({file_name})")
            return False
        self._images.add(image_id, file_name, height, width)
        self._image_row[image_id] = len(self._image_row)
        return True

    def annotation(
        self,
        ann_id: int,
        image_id: int,
        category_id: int,
        box_xywh: Sequence[float] | None,
        segmentation: Segmentation,
        iscrowd: bool = False,
    ) -> bool:
        """Add an object. box_xywh: px, COCO convention, None when not stated. False: left out."""
        if ann_id in self._ann_row:
            self.problem("two annotations with one id", f"ann_id {ann_id}")
            return False
        if image_id not in self._image_row:
            self.problem("annotation of an unknown image", f"ann_id {ann_id}, image_id {image_id}")
            return False
        box = NO_BOX if box_xywh is None or len(box_xywh) == 0 else tuple(map(float, box_xywh))
        if len(box) != 4:
            self.problem("box without four numbers", f"ann_id {ann_id}: {box_xywh!r}")
            return False
        self._annotations.add(ann_id, self._image_row[image_id], category_id, bool(iscrowd))
        if not self._segmentations.add(segmentation):
            self._annotations.truncate(len(self._ann_row))
            self.problem("segmentation of no known form", f"ann_id {ann_id}: {segmentation!r:.80}")
            return False
        self._boxes.add(*box)
        self._ann_row[ann_id] = len(self._ann_row)
        return True

    def ref(
        self,
        ref_id: int,
        image_id: int,
        split: str,
        ann_ids: Sequence[int],
        sentences: Sequence[Sentence],
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add a referred region; no ann_ids: the expressions mean nothing here. False: left out."""
        if ref_id in self._ref_ids:
            self.problem("two refs with one id", f"ref_id {ref_id}")
            return False
        if image_id not in self._image_row:
            self.problem("ref to an unknown image", f"ref_id {ref_id}, image_id {image_id}")
            return False
        missing = [ann_id for ann_id in ann_ids if ann_id not in self._ann_row]
        if missing:
            self.problem("ref to an unknown annotation", f"ref_id {ref_id}, ann_id {missing[0]}")
            return False
        if not sentences:
            self.problem("ref without a sentence", f"ref_id {ref_id}")
            return False
        rows, start = [self._ann_row[ann_id] for ann_id in ann_ids], len(self._sentences)
        try:
            for s in sentences:
                self._add_sentence(s)
            self._refs.add(
                ref_id, self._image_row[image_id], split, not rows, start, len(sentences),
                _json(extra or {}),
            )  # fmt: skip
        except (TypeError, OverflowError):
            self._sentences.truncate(start)
            raise
        self._ref_targets.add(rows)
        self._ref_ids.add(ref_id)
        return True

    def _add_sentence(self, s: Sentence) -> None:
        raw, sent = s.raw or s.sent, s.sent or s.raw
        row = len(self._refs)
        self._sentences.add(s.sent_id, row, raw, sent, bool(s.ambiguous), _json(s.extra))

    def finish(self) -> Records:
        """The records, annotations grouped by image."""
        annotations = self._annotations.table()
        image_row = annotations["image_row"].to_numpy()
        order = np.argsort(image_row, kind="stable")
        new_row = np.empty_like(order)
        new_row[order] = np.arange(len(order))
        counts = np.bincount(image_row, minlength=len(self._image_row))
        images = self._images.table()
        images = images.append_column("ann_start", pa.array(_starts(counts), pa.int32()))
        images = images.append_column("ann_count", pa.array(counts, pa.int32()))
        refs = self._refs.table().append_column("ann_rows", self._ref_targets.array(new_row))
        boxes, segmentations = self._boxes.table(), self._segmentations.table()
        if not np.array_equal(order, np.arange(len(order))):  # taking copies; most are grouped
            annotations, boxes = annotations.take(order), boxes.take(order)
            segmentations = segmentations.take(order)
        tables = {
            "images": images,
            "annotations": annotations,
            "boxes": boxes,
            "segmentations": segmentations,
            "refs": refs,
            "sentences": self._sentences.table(),
            "categories": _category_table(self._categories),
        }
        meta = replace(
            self._meta,
            skipped=dict(self._skipped),
            examples={kind: tuple(found) for kind, found in self._examples.items()},
        )
        return from_tables(meta, {name: table.combine_chunks() for name, table in tables.items()})


def _json(extra: Mapping[str, Any]) -> str:
    return json.dumps(extra, sort_keys=True, default=str) if extra else ""


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts


def _category_table(categories: Mapping[int, tuple[str, str]]) -> pa.Table:
    return pa.table(
        {
            "category_id": pa.array(list(categories), pa.int32()),
            "name": pa.array([name for name, _ in categories.values()], pa.string()),
            "supercategory": pa.array([parent for _, parent in categories.values()], pa.string()),
        }
    )
