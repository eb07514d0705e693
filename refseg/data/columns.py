"""Typed columns that grow row by row, as compact as they will be on disk.

Used by the builder: a number goes into an `array` at once, never into a Python object kept.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from refseg.data.records import (
    KIND_FILE,
    KIND_NONE,
    KIND_POLYGONS,
    KIND_RLE,
    KIND_RLE_LIST,
    MaskFile,
)

ARROW_TYPES = {"q": pa.int64(), "i": pa.int32(), "b": pa.int8(), "d": pa.float64()}


class Columns:
    """Typed columns that grow together. Codes: array module's, "s" for text, "z" for bytes.

    A row is added whole or not at all; a value of a wrong kind raises TypeError or OverflowError.
    """

    def __init__(self, **codes: str) -> None:
        self._codes = codes
        self._columns: dict[str, Any] = {
            name: [] if code in "sz" else array(code) for name, code in codes.items()
        }
        appenders = {
            "s": lambda column: lambda value: column.append(_utf8(value)),
            "z": lambda column: lambda value: column.append(bytes(value)),
        }
        self._appenders = [
            appenders[code](self._columns[name]) if code in "sz" else self._columns[name].append
            for name, code in codes.items()
        ]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def add(self, *values: Any) -> None:
        try:
            for append, value in zip(self._appenders, values, strict=True):
                append(value)
        except (TypeError, OverflowError):
            self.truncate(min(len(column) for column in self._columns.values()))
            raise

    def truncate(self, rows: int) -> None:
        for column in self._columns.values():
            del column[rows:]

    def arrays(self) -> dict[str, Any]:
        """The columns as Arrow arrays, by name."""
        return {name: as_arrow(column, self._codes[name]) for name, column in self._columns.items()}

    def table(self) -> pa.Table:
        return pa.table(self.arrays())


class NumberLists:
    """A column of number lists: one flat array and its offsets."""

    def __init__(self, code: str) -> None:
        self.values, self.offsets = array(code), array("i", [0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def add(self, values: Sequence[float]) -> None:
        self.values.extend(values)  # type: ignore[arg-type]
        self.offsets.append(len(self.values))

    def truncate(self, rows: int) -> None:
        del self.offsets[rows + 1 :]
        del self.values[self.offsets[-1] :]

    def array(self, renumber: NDArray[np.int64] | None = None) -> pa.ListArray:
        values = as_arrow(self.values)
        if renumber is not None:
            values = pa.array(renumber[values.to_numpy()], pa.int32())
        return pa.ListArray.from_arrays(as_arrow(self.offsets), values)


class Segmentations:
    """The segmentations table under construction."""

    def __init__(self) -> None:
        self._kind = array("b")
        self._lists, self._list_offsets = NumberLists("d"), array("i", [0])
        self._rles = Columns(height="i", width="i", counts="z")
        self._rle_offsets = array("i", [0])
        self._files: list[str] = []

    def add(self, segmentation: Any) -> bool:
        """Append one segmentation; False, and nothing appended, when its form is unknown."""
        lists, rles = len(self._lists), len(self._rles)
        try:
            kind, file = self._append(segmentation)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            self._lists.truncate(lists)
            self._rles.truncate(rles)
            return False
        self._kind.append(kind)
        self._files.append(file)
        self._list_offsets.append(len(self._lists))
        self._rle_offsets.append(len(self._rles))
        return True

    def _append(self, segmentation: Any) -> tuple[int, str]:
        if segmentation is None or segmentation == []:
            return KIND_NONE, ""
        if isinstance(segmentation, MaskFile):
            return KIND_FILE, json.dumps(asdict(segmentation))
        if isinstance(segmentation, Mapping):
            self._rle(segmentation)
            return KIND_RLE, ""
        if isinstance(segmentation[0], Mapping):
            for part in segmentation:
                self._rle(part)
            return KIND_RLE_LIST, ""
        if isinstance(segmentation[0], int | float):  # one polygon, not in a list
            segmentation = [segmentation]
        for polygon in segmentation:
            if isinstance(polygon, str):
                raise TypeError("a polygon is a list of numbers")
            self._lists.add(polygon)
        return KIND_POLYGONS, ""

    def _rle(self, part: Mapping[str, Any]) -> None:
        height, width = part["size"]
        counts = part["counts"]
        if isinstance(counts, str):
            counts = counts.encode("ascii")
        runs: Sequence[int] = () if isinstance(counts, bytes) else counts
        self._lists.add(runs)
        self._rles.add(height, width, counts if isinstance(counts, bytes) else b"")

    def table(self) -> pa.Table:
        rles = self._rles.arrays()
        parts = pa.StructArray.from_arrays(list(rles.values()), names=list(rles))
        return pa.table(
            {
                "kind": as_arrow(self._kind),
                "polygons": pa.ListArray.from_arrays(
                    as_arrow(self._list_offsets), self._lists.array()
                ),
                "rles": pa.ListArray.from_arrays(as_arrow(self._rle_offsets), parts),
                "file": as_arrow(self._files, "s"),
            }
        )


def as_arrow(values: Any, code: str = "") -> Any:
    """An Arrow array over the memory of an `array`; a list holds text ("s") or bytes ("z")."""
    if isinstance(values, list):
        return pa.array(values, pa.binary() if code == "z" else pa.string())
    numbers: Any = np.frombuffer(values, values.typecode) if len(values) else []
    return pa.array(numbers, ARROW_TYPES[values.typecode])


def _utf8(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text was expected, not {text!r:.40}")
    # JSON can hold halves of surrogate pairs, which no file can.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
