"""The objects that a split refers to, one by one, with everything that people wrote about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refseg.data.catalog import find_folder, open_records
from refseg.data.dataset import ReferDataset
from refseg.data.refer import refs_files
from refseg.errors import DataError
from refseg.metrics.captions import merge_references


@dataclass(frozen=True)
class Referred:
    """An object of the split with what people wrote about it. *_row: rows of the records."""

    ann_id: int
    ann_row: int
    image_id: int
    image_row: int
    references: tuple[str, ...]


def referred(dataset: ReferDataset, limit: int | None = None) -> tuple[list[list[Referred]], int]:
    """Objects that the items of the split mean, by image, and the number of items left out.

    Left out are items that mean none, several or a crowd. Raises DataError if nothing is left.
    """
    records, left_out = dataset.records, 0
    images: list[list[Referred]] = []
    for items in dataset.groups_by_image():
        found: dict[int, Referred] = {}
        for entry in map(dataset.entry, items):
            rows = records.ann_rows(entry.ref_row)
            if len(rows) != 1 or records.column("annotations", "iscrowd")[rows[0]]:
                left_out += 1
                continue
            ann_id = int(records.column("annotations", "ann_id")[rows[0]])
            new = Referred(ann_id, rows[0], entry.image_id, entry.image_row, ())
            one = found.get(ann_id, new)
            found[ann_id] = replace(one, references=(*one.references, entry.text))
        images.append(list(found.values()))
    left = limit
    for place, group in enumerate(images):
        images[place] = group[:left]
        left = None if left is None else left - len(images[place])
    images = [group for group in images if group]
    if not images:
        raise DataError(
            f"{dataset.name}: split {dataset.split} refers to no single object",
            remedy="another --split",
        )
    return images, left_out


def merged_references(
    dataset: ReferDataset, about: Sequence[Referred], merge: Iterable[str | Path]
) -> dict[int, list[str]]:
    """ann_id -> the references of `about` and what the data sets `merge` say of the same objects.

    Data sets over the same images share annotation ids (RefCOCO, RefCOCO+ and RefCOCOg those of
    COCO). All their splits count: it is the objects that are evaluated. Raises DataError for a
    data set that describes none of the objects, other images, or is the evaluated one itself.
    """
    own = {one.ann_id: one.references for one in about}
    return merge_references(own, *(_others(dataset, about, name) for name in merge), only=own)


def _split_by(dataset: ReferDataset, name: str | Path) -> str | None:
    """By which of a folder's ways to split it is read: the evaluated data set's own, else its only
    one (None). It matters little: the same sentences are split differently.

    Raises DataError where there are several, and that is none of them.
    """
    ways = sorted(refs_files(find_folder(name)))
    own = dataset.records.meta.split_by
    if len(ways) < 2 or own in ways:
        return own if own in ways else None
    raise DataError(
        f"{name}: several ways to split are here, {', '.join(ways)}, and none is that of "
        f"{dataset.name}, {own}",
        remedy="merge a copy of the folder that holds one of them",
    )


def _others(
    dataset: ReferDataset, about: Sequence[Referred], name: str | Path
) -> dict[int, list[str]]:
    """What another data set says about the same objects."""
    if find_folder(name).resolve() == dataset.folder.resolve():
        raise DataError(f"{name} is the evaluated data set itself", remedy="merge another one")
    records = open_records(name, split_by=_split_by(dataset, name))
    ann_ids = records.column("annotations", "ann_id")
    image_of = {one.ann_id: one.image_id for one in about}
    found: dict[int, list[str]] = {}
    for ref in records.refs():
        ann_id = int(ann_ids[ref.ann_rows[0]]) if len(ref.ann_rows) == 1 else None
        if ann_id is None or ann_id not in image_of or not ref.sent_rows:
            continue
        if records.image(ref.image_row).image_id != image_of[ann_id]:
            raise DataError(
                f"{name}: annotation {ann_id} lies in another image than in {dataset.name}",
                remedy="only data sets over the same annotations can be merged",
            )
        field_ = dataset.options.text_field
        found.setdefault(ann_id, []).extend(
            records.text("sentences", field_, row) for row in ref.sent_rows
        )
    if not found:
        raise DataError(
            f"{name} describes none of the {len(about):,} objects of {dataset.name} "
            f"{dataset.split}",
            remedy="only data sets over the same annotations can be merged",
        )
    return found
