"""The table of a plain folder: captions.csv, its columns and how people's editors write it.

See `refseg.data.folder` for what the columns mean. Excel writes semicolons in half of Europe and a
byte order mark everywhere; both are read. What would lose data without a word is refused.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator
from pathlib import Path

from refseg.errors import DataError

NEEDED = ("image", "text")
BOX_COLUMNS = ("x", "y", "w", "h")
COLUMNS = (*NEEDED, "mask", "split", *BOX_COLUMNS, "category")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (the header is 1) and cells by column name, stripped; empty lines are skipped.

    Raises DataError for a missing file, text that is not UTF-8, a header that lacks a needed
    column or misspells one, and a line with too many or too few cells.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", remedy='it needs a header "image,text,mask,split"'
        ) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 text", remedy='save it as "CSV UTF-8"'
        ) from error
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(path, header)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, _cells(path, reader.line_num, header, cells)
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num}: {error}",
            remedy="put a text that has commas, quotes or line breaks in double quotes",
        ) from error


def _cells(path: Path, line: int, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise DataError(
            f"{path}: line {line} has {len(cells)} cells, the header {len(header)} columns",
            remedy="put a text that has commas in double quotes",
        )
    return {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f'{path}: two columns "{twice[0]}"', remedy="rename one of them")
    missing = [name for name in NEEDED if name not in header]
    absent = [name for name in COLUMNS if name not in header]
    strange = [name for name in header if name not in COLUMNS]
    for name in strange:  # a typing error in an optional column would lose it without a word
        near = difflib.get_close_matches(name, absent, n=1, cutoff=0.75)
        if near:
            raise DataError(
                f'{path}: unknown column "{name}"',
                remedy=f'did you mean "{near[0]}"? valid: {", ".join(COLUMNS)}',
            )
    if missing:
        raise DataError(
            f'{path}: no column "{missing[0]}"; the first line has: {", ".join(header)}',
            remedy=f"the first line names the columns: {', '.join(COLUMNS)}",
        )
    box = [name for name in BOX_COLUMNS if name in header]
    if 0 < len(box) < len(BOX_COLUMNS):
        raise DataError(
            f"{path}: of the box only the columns {', '.join(box)} are there",
            remedy="a box needs all of x, y, w, h (pixels; w and h are sizes, not corners)",
        )
