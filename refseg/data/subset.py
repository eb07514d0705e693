"""Boxes for all, masks for a few: which refs' masks may be seen, drawn by a seed, kept in a file.

The setting of Partial-RES (CVPR 2023), which takes 1, 5 or 10 % of the training references. What
costs a person a mask is an annotated object, so objects are drawn here, and every ref about a
drawn object is granted. The file says which refs those were; a run is repeated by the file, not by
a draw.

    subset = draw_subset(open_records("scenes"), "train", share=0.1, seed=0)
    write_subset("masks-10.json", subset)
    labels = Labels(frozenset({"box", "mask"}), read_subset("masks-10.json").ref_ids)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from refseg.data.records import Records
from refseg.data.selection import in_split
from refseg.errors import DataError
from refseg.ops.files import atomic_write_json

#: What a subset's file must have, and of which type.
_KEYS: Mapping[str, Any] = {
    "data": str,
    "split_by": str,
    "split": str,
    "seed": int | None,
    "share": int | float | None,
    "objects": int,
    "sha256": str,
    "ref_ids": list,
}
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_SHOWN = 5


@dataclass(frozen=True)
class MaskSubset:
    """The refs of a split whose masks may be seen, and where they come from.

    data, split_by, split: as in `RecordsMeta` and `open_data`; empty where a file states nothing.
    seed, share: of the draw; None where the ids were not drawn here. objects: number of annotated
    objects that the refs mean, 0 where it is not stated. ref_ids: to be given to `Labels` as
    `mask_refs`. Raises DataError for no ref at all.
    """

    data: str
    split_by: str
    split: str
    seed: int | None
    share: float | None
    objects: int
    ref_ids: frozenset[int]

    def __post_init__(self) -> None:
        if not self.ref_ids:
            raise DataError("a subset of masks without a ref", remedy="name one ref at least")


def draw_subset(records: Records, split: str, share: float, seed: int) -> MaskSubset:
    """All refs about round(share * objects) objects of a split, one object at least.

    The draw is decided by the seed and by the ref ids, not by the order of the source; of two
    shares and one seed the larger contains the smaller. Whether an object has a mask in the data
    is not looked at. Raises UnknownName (split), DataError (share outside (0, 1], no objects).
    """
    if not 0 < share <= 1:
        raise DataError(
            f"the share of objects with masks is {share}", remedy="give a share above 0, at most 1"
        )
    objects = refs_by_object(records, split)
    if not objects:
        raise DataError(
            f"no expression of {records.meta.dataset} {split} means an object",
            remedy="draw from another split",
        )
    objects.sort(key=lambda refs: _lot(seed, refs[0]))
    drawn = objects[: max(round(share * len(objects)), 1)]
    refs = frozenset(chain.from_iterable(drawn))
    meta = records.meta
    return MaskSubset(meta.dataset, meta.split_by, split, seed, share, len(drawn), refs)


def refs_by_object(records: Records, split: str) -> list[list[int]]:
    """The ref ids about each object of a split, ascending; objects by their smallest ref id.

    An object is the set of annotations that a ref means, so two things that one ref means together
    are an object of their own. Refs that mean nothing are in no list. Raises UnknownName.
    """
    targets = records.table("refs").column("ann_rows").combine_chunks()
    counts = pc.list_value_length(targets).to_numpy(zero_copy_only=False)
    ids = records.column("refs", "ref_id")
    rows = np.flatnonzero(in_split(records, split) & (counts > 0))
    rows = rows[np.argsort(ids[rows])]
    flat = pc.list_flatten(targets.take(rows)).to_numpy().tolist()
    ends = np.cumsum(counts[rows]).tolist()
    objects: dict[frozenset[int], list[int]] = {}
    for ref_id, start, end in zip(ids[rows].tolist(), [0, *ends], ends, strict=False):
        objects.setdefault(frozenset(flat[start:end]), []).append(ref_id)
    return list(objects.values())


def check_subset(subset_ids: Iterable[int], records: Records, split: str) -> None:
    """Refuse ids that are no refs of the split: DataError. Raises UnknownName (split)."""
    asked = frozenset(subset_ids)
    known = records.column("refs", "ref_id")[in_split(records, split)].tolist()
    unknown = sorted(asked.difference(known))
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN])) + (", ..." if unknown[_SHOWN:] else "")
        meta = records.meta
        raise DataError(
            f"{len(unknown):,} of the {len(asked):,} refs of the subset of masks are no refs of "
            f"{meta.dataset} ({meta.split_by}), split {split}: {shown}",
            remedy="was it drawn for other data, another split or another split_by? draw it anew "
            "for this one",
        )


def write_subset(path: str | Path, subset: MaskSubset) -> None:
    """Write a subset as JSON, ids ascending, whole or not at all. Raises RunError (disk)."""
    ids = _ascending(subset.ref_ids)
    stated = {key: getattr(subset, key) for key in _KEYS if key not in ("sha256", "ref_ids")}
    atomic_write_json(path, {**stated, "sha256": _digest(ids), "ref_ids": ids})


def read_subset(path: str | Path) -> MaskSubset:
    """What `write_subset` wrote, or a plain text file with one ref id a line.

    Raises DataError: not there, not readable, keys or ids missing or of a wrong kind, ids that are
    not those that were written.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy="check the path") from error
    except ValueError as error:
        raise _not_a_subset(path, "it is no text") from error
    if text.lstrip().startswith(("{", "[")):
        return _from_json(path, text)
    return MaskSubset("", "", "", None, None, 0, _from_lines(path, text))


def _from_json(path: str | Path, text: str) -> MaskSubset:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_a_subset(path, f"not readable json, perhaps cut short ({error})") from error
    for key, kind in _KEYS.items():
        if not isinstance(found, dict) or key not in found:
            raise _not_a_subset(path, f'there is no "{key}" in it')
        if not isinstance(found[key], kind) or isinstance(found[key], bool):
            raise _not_a_subset(path, f'"{key}" is {found[key]!r:.40}')
    ids = _whole(path, found.pop("ref_ids"))
    if _digest(_ascending(ids)) != found.pop("sha256"):
        raise _not_a_subset(path, "its ref ids are not those that were written (sha256)")
    return MaskSubset(**{key: found[key] for key in _KEYS if key in found}, ref_ids=ids)


def _from_lines(path: str | Path, text: str) -> frozenset[int]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    wrong = [(number, line) for number, line in lines if line and not _WHOLE.fullmatch(line)]
    if wrong:
        raise _not_a_subset(path, f"line {wrong[0][0]} is {wrong[0][1]!r:.40}")
    return _whole(path, [int(line) for _, line in lines if line])


def _whole(path: str | Path, ids: Sequence[Any]) -> frozenset[int]:
    """The ids, each an integer of 64 bits, one at least. Raises DataError."""
    for value in ids:
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise _not_a_subset(path, f"{value!r:.40} is no ref id")
    if not ids:
        raise _not_a_subset(path, "there is no ref id in it")
    return frozenset(ids)


def _not_a_subset(path: str | Path, why: str) -> DataError:
    return DataError(
        f"{path}: no subset of masks: {why}",
        remedy="draw it anew, or give a text file with one ref id a line",
    )


def _ascending(ids: Iterable[int]) -> list[int]:
    return sorted(map(int, ids))  # ids may be NumPy's, which json does not write


def _digest(ascending: Sequence[int]) -> str:
    return hashlib.sha256("\n".join(map(str, ascending)).encode()).hexdigest()


def _lot(seed: int, ref_id: int) -> bytes:
    """Sorting by lots shuffles, and does so alike whatever NumPy's generators become."""
    return hashlib.blake2b(f"masks/{seed}/{ref_id}".encode(), digest_size=16).digest()
