"""The normal form every reader produces, and the one way to read it back.

Seven flat tables, joined by row numbers (never by Python dictionaries, so that a data-loader worker
touches only the bytes it needs):

    images         image_id, file_name, height, width, ann_start, ann_count
    annotations    ann_id, image_row, category_id, iscrowd      all objects, referred to or not
    boxes          x, y, w, h                                   row-aligned with annotations
    segmentations  kind, polygons, rles, file                   row-aligned with annotations
    refs           ref_id, image_row, split, ann_rows, empty, sent_start, sent_count, extra
    sentences      sent_id, ref_row, raw, sent, ambiguous, extra
    categories     category_id, name, supercategory

Boxes and segmentations are tables of their own because the labels contract opens them separately.
Annotations are grouped by image, sentences by ref. Height and width 0 mean "not stated".

A reader is a module of `refseg.data` with

    read(folder: Path, *, split_by: str | None = None, strict: bool = True) -> Records
    sources(folder: Path, split_by: str | None = None) -> list[Path]      (optional)

It fills a `refseg.data.builder.RecordsBuilder`. `sources` lists the files the result depends on;
without it every .json, .p, .pickle, .csv and .tsv directly inside the folder counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TABLES = ("images", "annotations", "boxes", "segmentations", "refs", "sentences", "categories")

KIND_NONE, KIND_POLYGONS, KIND_RLE, KIND_RLE_LIST, KIND_FILE = range(5)


@dataclass(frozen=True)
class MaskFile:
    """A mask kept in an image or MATLAB file, decoded only when somebody may see it.

    path: relative to the data set's folder. variable: name inside a .mat file, empty for images.
    foreground: which values are the object ("nonzero", or "zero" for ReferIt's inverted masks).
    """

    path: str
    variable: str = ""
    foreground: Literal["nonzero", "zero"] = "nonzero"


Segmentation = list[list[float]] | dict[str, Any] | list[dict[str, Any]] | MaskFile | None


@dataclass(frozen=True)
class ImageRecord:
    """One image. height, width: px as the annotations state them, 0 when not stated."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class AnnotationRecord:
    """One annotated object, without its box and mask (`Records.box_xywh`, `.segmentation`)."""

    ann_id: int
    image_row: int
    category_id: int
    category: str
    iscrowd: bool


@dataclass(frozen=True)
class SentenceRecord:
    """One expression. raw: as typed; sent: cleaned. ambiguous: known to mean several objects."""

    sent_id: int
    ref_row: int
    raw: str
    sent: str
    ambiguous: bool
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class RefRecord:
    """One referred region. split: the label as stored. ann_rows: its targets (0, 1 or many)."""

    ref_id: int
    image_row: int
    split: str
    ann_rows: tuple[int, ...]
    empty: bool
    sent_rows: range
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class RecordsMeta:
    """What is true of a whole data set.

    split_aliases: a split's name -> the labels it stands for, where the name alone would not do
    (PhraseCut's official "val" is val and miniv). rasteriser: how its polygons become pixels.
    sizes_exact: False when height and width are estimates, so they prove nothing about a file.
    image_dirs: folders to look for images in, relative to the data set's folder, tried first.
    upright: whether boxes and masks belong to the pictures as EXIF turns them, which is how people
    see them; otherwise they were made for pictures that EXIF does not turn.
    objects_file: the file that states the objects, relative to the data set's folder, for errors.
    skipped: what strict=False left out, kind -> count; examples: kind -> the first few.
    """

    dataset: str
    split_by: str
    split_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rasteriser: Literal["coco", "pil"] = "coco"
    sizes_exact: bool = True
    image_dirs: tuple[str, ...] = ()
    upright: bool = False
    objects_file: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Records:
    """Read access to the seven tables, whichever memory they lie in.

    load_table(name) is called once per table, when the table is first needed; it must give a
    table of one chunk. Columns come back as NumPy views, without copies.
    """

    def __init__(self, meta: RecordsMeta, load_table: Callable[[str], pa.Table]) -> None:
        self.meta = meta
        self._load_table = load_table
        self._tables: dict[str, pa.Table] = {}
        self._columns: dict[tuple[str, str], Any] = {}

    @property
    def tables_opened(self) -> frozenset[str]:
        """Names of the tables that have been touched so far."""
        return frozenset(self._tables)

    def table(self, name: str) -> pa.Table:
        """The Arrow table `name`, loaded on first use."""
        if name not in self._tables:
            self._tables[name] = self._load_table(name)
        return self._tables[name]

    def column(self, table: str, name: str) -> NDArray[Any]:
        """A numeric column as a read-only NumPy view [rows]."""
        key = (table, name)
        if key not in self._columns:
            self._columns[key] = self._chunk(table, name).to_numpy(zero_copy_only=True)
        view: NDArray[Any] = self._columns[key]
        return view

    def _chunk(self, table: str, name: str) -> Any:
        column = self.table(table).column(name)
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

    def _array(self, table: str, name: str) -> Any:
        key = (table, name)
        if key not in self._columns:
            self._columns[key] = self._chunk(table, name)
        return self._columns[key]

    def count(self, table: str) -> int:
        """Number of rows."""
        return int(self.table(table).num_rows)

    def text(self, table: str, name: str, row: int) -> str:
        """One cell of a text column."""
        return str(self._array(table, name)[row].as_py())

    def image(self, row: int) -> ImageRecord:
        """The image in `row`."""
        return ImageRecord(
            int(self.column("images", "image_id")[row]),
            self.text("images", "file_name", row),
            int(self.column("images", "height")[row]),
            int(self.column("images", "width")[row]),
        )

    def annotation(self, row: int) -> AnnotationRecord:
        """The object in `row`, without its box and mask."""
        category_id = int(self.column("annotations", "category_id")[row])
        return AnnotationRecord(
            int(self.column("annotations", "ann_id")[row]),
            int(self.column("annotations", "image_row")[row]),
            category_id,
            self.category_name(category_id),
            bool(self.column("annotations", "iscrowd")[row]),
        )

    def annotation_rows(self, image_row: int) -> range:
        """The rows of all objects annotated in an image."""
        start = int(self.column("images", "ann_start")[image_row])
        return range(start, start + int(self.column("images", "ann_count")[image_row]))

    def category_name(self, category_id: int) -> str:
        """The category's name; the id in digits when the data set names none."""
        found = np.flatnonzero(self.column("categories", "category_id") == category_id)
        return self.text("categories", "name", int(found[0])) if len(found) else str(category_id)

    def box_xywh(self, row: int) -> NDArray[np.float64]:
        """[4] float64 px; NaN where the data set states no box."""
        return np.array([self.column("boxes", name)[row] for name in "xywh"], np.float64)

    def segmentation(self, row: int) -> Segmentation:
        """The mask of an object as the source wrote it; None when there is none."""
        kind = int(self.column("segmentations", "kind")[row])
        if kind == KIND_NONE:
            return None
        if kind == KIND_FILE:
            return MaskFile(**json.loads(self.text("segmentations", "file", row)))
        polygons: list[list[float]] = self._array("segmentations", "polygons")[row].as_py()
        if kind == KIND_POLYGONS:
            return polygons
        rles = self._array("segmentations", "rles")[row].as_py()
        parts = [_rle(part, runs) for part, runs in zip(rles, polygons, strict=True)]
        return parts if kind == KIND_RLE_LIST else parts[0]

    def extra(self, table: str, row: int) -> Mapping[str, Any]:
        """Whatever else the source says about a ref or a sentence."""
        text = self.text(table, "extra", row)
        return json.loads(text) if text else {}

    def sentence(self, row: int) -> SentenceRecord:
        """The expression in `row`."""
        return SentenceRecord(
            int(self.column("sentences", "sent_id")[row]),
            int(self.column("sentences", "ref_row")[row]),
            self.text("sentences", "raw", row),
            self.text("sentences", "sent", row),
            bool(self.column("sentences", "ambiguous")[row]),
            self.extra("sentences", row),
        )

    def ref(self, row: int) -> RefRecord:
        """The referred region in `row`."""
        start = int(self.column("refs", "sent_start")[row])
        return RefRecord(
            int(self.column("refs", "ref_id")[row]),
            int(self.column("refs", "image_row")[row]),
            self.text("refs", "split", row),
            self.ann_rows(row),
            bool(self.column("refs", "empty")[row]),
            range(start, start + int(self.column("refs", "sent_count")[row])),
            self.extra("refs", row),
        )

    def ann_rows(self, ref_row: int) -> tuple[int, ...]:
        """The annotation rows of a ref's targets."""
        return tuple(self._array("refs", "ann_rows")[ref_row].as_py())

    def refs(self) -> Iterator[RefRecord]:
        """All refs, in the order of the source."""
        return (self.ref(row) for row in range(self.count("refs")))

    def splits(self) -> tuple[list[str], NDArray[np.int32]]:
        """The split labels that occur, and for each ref [refs] the number of its label."""
        encoded = self._chunk("refs", "split").dictionary_encode()
        codes: NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False)
        return encoded.dictionary.to_pylist(), codes


def _rle(part: dict[str, Any], runs: list[float]) -> dict[str, Any]:
    counts = part["counts"].decode("ascii") if part["counts"] else [int(run) for run in runs]
    return {"size": [part["height"], part["width"]], "counts": counts}


def from_tables(meta: RecordsMeta, tables: Mapping[str, pa.Table]) -> Records:
    """Records over tables held in memory."""
    return Records(meta, lambda name: tables[name])
