"""Which objects of a pool sentences are asked for, and why the others are not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from refseg.data.pictures import PictureSource
from refseg.errors import DataError
from refseg.label.options import LabelOptions, Progress
from refseg.label.pool import Pool

LOOKS = 100  # objects between two words about them


def choose(
    pool: Pool, options: LabelOptions, *, areas: bool = True, looked: Progress | None = None
) -> tuple[NDArray[np.intp], dict[str, int]]:
    """Annotation rows to write about, and of all the others how many were left out, by reason.

    Reasons: "in pictures of testA, val" (splits that are not asked for), "in excluded images",
    "over the limit", "crowd", "described already", "neither mask nor box", "under 1024 px", "not
    drawn"; the first three only where there are such. areas: False leaves the filter area out,
    which decodes every mask; looked(done, objects) is told then. Raises DataError when no object is
    left, and when there are fewer than are to be drawn.
    """
    records = pool.source.records
    if records.count("annotations") == 0:
        raise DataError(
            f"{records.meta.dataset} has no annotated objects",
            remedy="give data whose objects have masks or boxes",
        )
    pictures, left_out = _pictures(pool, options)
    rows = np.flatnonzero(np.isin(records.column("annotations", "image_row"), pictures))

    def drop(why: str, bad: NDArray[np.bool_]) -> None:
        nonlocal rows
        left_out[why] = int(bad.sum())
        rows = rows[~bad]

    drop("crowd", records.column("annotations", "iscrowd")[rows] != 0)
    drop("described already", pool.described(pictures, options.known_refs)[rows])
    if options.filter == "area" and areas:
        sizes = np.fromiter(_areas(pool.source, rows, looked), np.float64, len(rows))
        drop("neither mask nor box", nowhere := np.isnan(sizes))
        drop(f"under {options.min_area} px", sizes[~nowhere] < options.min_area)
    else:
        drop("neither mask nor box", _nowhere(pool.source, rows))
    if (count := options.random_count) is not None:
        drop("not drawn", _not_drawn(pool.source, rows, count, options.seed, len(pictures)))
    if not len(rows):
        told = ", ".join(f"{why} {count:,}" for why, count in left_out.items() if count)
        raise DataError(
            f"{records.meta.dataset}: no object is left to describe in {len(pictures):,} "
            f"pictures (left out: {told or 'nothing'})",
            remedy="choose other pictures (--split), or filter less (--min-area, --filter)",
        )
    return rows, left_out


def _pictures(pool: Pool, options: LabelOptions) -> tuple[NDArray[np.intp], dict[str, int]]:
    """[pictures] image rows, in order of the ids; and how many objects are in the others."""
    records = pool.source.records
    image_row = records.column("annotations", "image_row")
    objects = np.bincount(image_row, minlength=records.count("images"))
    left_out = {}
    others, splits = pool.passed_over(options.split)
    if splits:
        left_out[f"in pictures of {', '.join(splits)}"] = int(objects[others].sum())
    ids, keep = records.column("images", "image_id"), pool.chosen(options.split)
    excluded = keep & np.isin(ids, list(options.exclude_images))
    if excluded.any():
        left_out["in excluded images"] = int(objects[excluded].sum())
    rows = np.flatnonzero(keep & ~excluded)
    rows = rows[np.argsort(ids[rows], kind="stable")]
    if options.limit is not None and (over := int(objects[rows[options.limit :]].sum())):
        left_out["over the limit"] = over
    return rows[: options.limit], left_out


def _areas(
    source: PictureSource, rows: NDArray[np.intp], looked: Progress | None
) -> Iterator[float]:
    """Of each object in px, NaN without mask and box; of COCO's 654,000 it takes minutes."""
    image_rows = source.records.column("annotations", "image_row")
    for done, row in enumerate(rows.tolist(), start=1):
        area = source.area(row, source.hw(int(image_rows[row])))
        if looked is not None and (done % LOOKS == 0 or done == len(rows)):
            looked(done, len(rows))
        yield math.nan if area is None else area


def _nowhere(source: PictureSource, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    records = source.records
    no_mask = (records.column("segmentations", "kind")[rows] == 0) | (not source.masks)
    boxes = [np.isnan(records.column("boxes", name)[rows]) for name in "xywh"]
    return np.asarray(no_mask & np.logical_or.reduce(boxes), np.bool_)


def _not_drawn(
    source: PictureSource, rows: NDArray[np.intp], count: int, seed: int, pictures: int
) -> NDArray[np.bool_]:
    if count > len(rows):
        raise DataError(
            f"random:{count} is to draw {count:,} objects, but {source.records.meta.dataset} has "
            f"only {len(rows):,} that nobody described in the {pictures:,} pictures asked for",
            remedy="draw fewer, ask for more pictures (--split, --limit), or keep all: the filter "
            "none",
        )
    ids = source.records.column("annotations", "ann_id")[rows].tolist()
    order = sorted(range(len(rows)), key=lambda place: _lot(seed, ids[place]))
    bad = np.ones(len(rows), np.bool_)
    bad[order[:count]] = False
    return bad


def _lot(seed: int, ann_id: int) -> bytes:
    """A draw that depends on the seed and the object alone, not on what else is there."""
    return blake2b(f"{seed}/{ann_id}".encode(), digest_size=8).digest()
