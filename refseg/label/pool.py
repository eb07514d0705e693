"""Pictures with objects to write about, and what of them people's expressions are about.

A data set knows both. COCO's annotations name 118,287 pictures and no expression, and RefCOCO's
expressions are about 19,994 of these: a pool then has COCO as its `source` and RefCOCO as `refs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from refseg.data.leakage import identities, pictures
from refseg.data.pictures import POOL, PictureSource
from refseg.data.records import ImageRecord
from refseg.errors import DataError

#: Splits whose names begin so are learned from; all others are evaluated on.
LEARNED = "train"


@dataclass(frozen=True)
class Pool:
    """refs: the data set whose expressions count, in place of the source's own (None).

    Its pictures are recognised in the source as `refseg.data.leakage` does, or by id and file name
    together; its objects by their ids.
    """

    source: PictureSource
    refs: PictureSource | None = None

    @property
    def described_by(self) -> PictureSource:
        """Whose expressions count."""
        return self.source if self.refs is None else self.refs

    def chosen(self, split: str | None) -> NDArray[np.bool_]:
        """[images] whether a picture is in `split` (see `PictureSource.in_split`) and in no split
        for evaluation that is not asked for: RefCOCOg's split by objects has pictures in both.

        Raises UnknownName.
        """
        told = self.described_by
        asked = [
            label for part in told.parts(split) if part != POOL for label in self._labels(part)
        ]
        others = [name for name in self._splits if name not in asked]
        judged = [name for name in others if not name.startswith(LEARNED)]
        keep = self._about(asked)
        if POOL in told.parts(split):
            keep |= ~self._about(self._splits)
        return self._only() & keep & ~self._about(judged)

    def passed_over(self, split: str | None) -> tuple[NDArray[np.bool_], list[str]]:
        """[images] the described pictures that are not `chosen`, and the splits they are in."""
        left = self._only() & self._about(self._splits) & ~self.chosen(split)
        return left, [name for name in sorted(self._splits) if (self._about([name]) & left).any()]

    def described(
        self, images: NDArray[np.intp], known_refs: frozenset[int] | None = None
    ) -> NDArray[np.bool_]:
        """[annotations] whether an expression of any split is about an object.

        images: rows of the pictures that matter. known_refs: see LabelOptions. Raises DataError
        where `refs` describes objects in them and the source has none of these by their ids.
        """
        if self.refs is None:
            return self.source.described(known_refs)
        theirs, ours = self.refs.records, self.source.records
        rows = np.flatnonzero(self.refs.described(known_refs))
        picture = self._place[theirs.column("annotations", "image_row")[rows]]
        ids = theirs.column("annotations", "ann_id")[rows]
        own_ids = ours.column("annotations", "ann_id")
        own_picture = ours.column("annotations", "image_row")
        order = np.argsort(own_ids, kind="stable")
        near = order[np.searchsorted(own_ids, ids, sorter=order).clip(max=len(order) - 1)]
        same = (own_ids[near] == ids) & (own_picture[near] == picture)
        matter = np.isin(picture, images)
        if matter.any() and not same[matter].any():
            raise DataError(
                f"{theirs.meta.dataset} describes {int(matter.sum()):,} objects in pictures of "
                f"{ours.meta.dataset}, which has none of them by its annotation id",
                remedy=f"choose pictures that nobody described: the split {POOL}",
            )
        found = np.zeros(len(own_ids), np.bool_)
        found[near[same]] = True
        return found

    # -- pictures of refs in the source ---------------------------------------------------------

    @cached_property
    def _splits(self) -> list[str]:
        return self.described_by.records.splits()[0]

    def _labels(self, part: str) -> Sequence[str]:
        return self.described_by.labels_of(part)

    def _only(self) -> NDArray[np.bool_]:
        """[images] those that the source stays with."""
        ids, only = self.source.records.column("images", "image_id"), self.source.only
        return np.ones(len(ids), np.bool_) if only is None else np.isin(ids, list(only))

    def _about(self, labels: Sequence[str]) -> NDArray[np.bool_]:
        """[images] whether a ref with one of these split labels is about a picture."""
        if self.refs is None:
            return self.source.about(labels)
        place = self._place[self.refs.about(labels)]
        found = np.zeros(self.source.records.count("images"), np.bool_)
        found[place[place >= 0]] = True
        return found

    @cached_property
    def _place(self) -> NDArray[np.intp]:
        """[images of refs] the row of the same picture in the source; -1 where it has none, and
        for pictures without an expression.
        """
        assert self.refs is not None
        records, name = self.source.records, self.source.records.meta.dataset
        ours: dict[str, int] = {}
        for row in range(records.count("images")):
            image = records.image(row)
            keys = identities(image, name, self.source.finder, {})
            ours |= dict.fromkeys([*keys, _stated(image)], row)
        theirs = self.refs.records
        place = np.full(theirs.count("images"), -1, np.intp)
        for row in np.flatnonzero(self.refs.about(self._splits)).tolist():
            place[row] = ours.get(_stated(theirs.image(row)), -1)
        for keys_of_split in pictures(theirs, self.refs.finder).by_split.values():
            for key, image_id in keys_of_split.items():
                if key in ours:
                    place[self.refs.rows[image_id]] = ours[key]
        return place


def _stated(image: ImageRecord) -> str:
    """Enough to know a picture by where there is no file to look at and no number of COCO's."""
    return f"{image.image_id} {PurePosixPath(image.file_name).name}"
