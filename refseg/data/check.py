"""`refseg data check DIR`: everything that can be wrong with a data set, in one report.

Nothing is changed and one defect does not hide the next: the folder is read leniently, what had to
be left out is counted. A row has one of three states:

    ok      nothing found
    warn    worth knowing, training and evaluation will run
    fail    they would stop, or their numbers would be wrong: nothing to train on, missing or
            broken images and masks, pictures turned by EXIF, contradictory ids, expressions
            without words, the same image in train and evaluation

The exit code is 0 without a "fail", else 1. (Two are the published splits by object, `refcocog
google` and `refcoco google`, that share images on purpose: a warning.) What cannot be read at all,
such as a truncated refs file, raises DataError instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refseg.data.catalog import find_folder, image_finder, open_records
from refseg.data.check_content import check_boxes, check_objects, check_texts
from refseg.data.check_files import (
    CheckRow,
    Progress,
    check_images,
    check_masks,
    listed,
    warn_if,
)
from refseg.data.leakage import (
    SPLIT_BY_OBJECT,
    Leak,
    copied_images,
    find_leaks,
    load_pictures,
    pictures,
)
from refseg.data.published import PUBLISHED, SplitSize
from refseg.data.records import Records
from refseg.data.refer import splits_matching
from refseg.data.tokens import WordTokenizer
from refseg.errors import ConfigError

EXAMPLES = 3
MAX_WORDS = 24  # what the bundled model reads of an expression


@dataclass(frozen=True)
class CheckReport:
    """What was found in one data set. rows: in the order of the checks."""

    folder: str
    dataset: str
    split_by: str
    rows: tuple[CheckRow, ...]

    @property
    def exit_code(self) -> int:
        """1 if a row failed, else 0."""
        return int(any(row.status == "fail" for row in self.rows))

    def row(self, name: str) -> CheckRow:
        """The row called `name`; KeyError if there is none."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, Any]:
        """folder, dataset, split_by, exit_code, counts of each status, rows."""
        states = [row.status for row in self.rows]
        return {
            "folder": self.folder,
            "dataset": self.dataset,
            "split_by": self.split_by,
            "exit_code": self.exit_code,
            "ok": states.count("ok"),
            "warn": states.count("warn"),
            "fail": states.count("fail"),
            "rows": [asdict(row) for row in self.rows],
        }


def check_data(
    folder: str | Path,
    *,
    images: Path | None = None,
    against: Sequence[str | Path] = (),
    max_words: int = MAX_WORDS,
    tokenizer: WordTokenizer | None = None,
    limit: int | None = None,
    split_by: str | None = None,
    decode: bool = False,
    pixels: bool = True,
    progress: Progress | None = None,
) -> CheckReport:
    """Check a data set, given by name or folder.

    images: the folder of its images, where they are in no usual place. against: other data sets
    whose evaluation images it must not train on, and the other way round. max_words: the token
    limit, counted with `tokenizer` if given (its own limit is not looked at), otherwise by words
    and punctuation, which word pieces can only exceed. limit: open at most so many images and so
    many masks, evenly spread. decode: read whole images, not only their headers, and look for
    copies of training images under other names. pixels: False for work on words and boxes alone:
    images are not looked for. progress: called with (what, done, total).
    Raises UnknownName or DataError for a folder that cannot be read at all, ConfigError for
    `images` or `decode` without `pixels`.
    """
    if not pixels and (images is not None or decode):
        raise ConfigError(
            "pixels=False (--no-images) goes with neither images (--images) nor decode (--decode)",
            remedy="leave one of them away",
        )
    records = open_records(folder, split_by=split_by, strict=False)
    where = find_folder(folder)
    finder = image_finder(where, records, images)
    files = [CheckRow("missing images", "ok", 0, "not looked for")]
    sizes: dict[int, tuple[int, int]] = {}
    if pixels:
        files, sizes = check_images(records, finder, decode=decode, limit=limit, progress=progress)
    others = [load_pictures(other) for other in against]
    rows = [
        *check_counts(records),
        check_any(records),
        *check_ids(records),
        *files,
        *check_masks(records, where, sizes, limit=limit, progress=progress),
        check_boxes(records),
        *check_texts(records, max_words, tokenizer),
        *check_objects(records),
        *check_leaks(records, find_leaks(pictures(records, finder), others)),
    ]
    if decode:
        rows.append(check_copies(copied_images(records, finder)))
    meta = records.meta
    return CheckReport(str(where), meta.dataset, meta.split_by, tuple(rows))


def check_counts(records: Records) -> list[CheckRow]:
    """Refs, sentences and images of every split, against the published numbers where there are."""
    meta = records.meta
    labels, codes = records.splits()
    ref_of_sentence = records.column("sentences", "ref_row")
    published = [key[2] for key in PUBLISHED if key[:2] == (meta.dataset, meta.split_by)]
    rows = []
    in_order = sorted(labels, key=lambda name: (not name.startswith("train"), name != "val", name))
    for name in dict.fromkeys([*published, *in_order]):
        wanted = meta.split_aliases.get(name) or splits_matching(labels, name)
        chosen = np.isin(codes, [labels.index(label) for label in wanted if label in labels])
        size = SplitSize(
            int(chosen.sum()),
            int(chosen[ref_of_sentence].sum()),
            len(np.unique(records.column("refs", "image_row")[chosen])),
        )
        rows.append(_count_row(name, size, PUBLISHED.get((meta.dataset, meta.split_by, name))))
    return rows


def _count_row(name: str, size: SplitSize, stated: SplitSize | None) -> CheckRow:
    own = ", ".join(f"{n:,} {what}" for what, n in size._asdict().items())
    if stated is None:
        return CheckRow(f"split {name}", "ok", int(size.refs or 0), own)
    same = all(want in (None, have) for have, want in zip(size, stated, strict=True))
    numbers = ", ".join("?" if n is None else f"{n:,}" for n in stated)
    detail = f"{own}, as published" if same else f"{own}; published: {numbers}"
    return CheckRow(f"split {name}", "ok" if same else "warn", int(size.refs or 0), detail)


def check_any(records: Records) -> CheckRow:
    """Whether there is an expression at all."""
    count = records.count("sentences")
    detail = f"about {records.count('refs'):,} refs" if count else "nothing to train on or score"
    return CheckRow("expressions", "ok" if count else "fail", count, detail)


def check_ids(records: Records) -> list[CheckRow]:
    """What a strict reading would have refused, by kind, and sentence ids that occur twice."""
    meta = records.meta
    rows = [
        CheckRow(kind, "fail", count, f"left out: {listed(meta.examples[kind][:EXAMPLES], count)}")
        for kind, count in meta.skipped.items()
    ]
    if not rows:
        rows.append(CheckRow("contradictions", "ok", 0, "ids are unique and point to something"))
    ids, counts = np.unique(records.column("sentences", "sent_id"), return_counts=True)
    twice = ids[counts > 1]
    detail = f"ids {', '.join(map(str, twice[:EXAMPLES]))}" if len(twice) else ""
    rows.append(CheckRow("sentence ids used twice", warn_if(len(twice)), len(twice), detail))
    return rows


def check_leaks(records: Records, leaks: Sequence[Leak]) -> list[CheckRow]:
    """A row for every pair of splits that share images; one "ok" row if none do."""
    own = f"{records.meta.dataset}({records.meta.split_by})/"
    by_object = (records.meta.dataset, records.meta.split_by) in SPLIT_BY_OBJECT
    rows = []
    for leak in leaks:
        inside = leak.train.startswith(own) and leak.evaluation.startswith(own)
        rows.append(
            CheckRow(
                f"images of {leak.evaluation} in {leak.train}",
                "warn" if inside and by_object else "fail",
                leak.images,
                "published so: split by object" if inside and by_object else listed(
                    leak.examples[:EXAMPLES], leak.images
                ),
            )
        )  # fmt: skip
    return rows or [CheckRow("images in train and evaluation", "ok", 0)]


def check_copies(copies: Sequence[str]) -> CheckRow:
    """Evaluation images that are copies of training images."""
    detail = listed(copies[:EXAMPLES], len(copies))
    return CheckRow("copies of training images", "fail" if copies else "ok", len(copies), detail)
