"""Pictures with annotated objects, wherever they come from, whether anybody described them or not.

A data set (by name or folder), a plain COCO file, a folder with one in it or in its annotations/,
and the rendered world's pool.json, which names pictures of the data sets beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from refseg.data.builder import RecordsBuilder
from refseg.data.catalog import converted_store, detect_format, find_folder, image_finder
from refseg.data.images import ImageFinder, read_checked
from refseg.data.maskfile import read_mask_file
from refseg.data.objects import read_objects
from refseg.data.records import MaskFile, Records
from refseg.data.refer import INSTANCES, add_instances, load_json, splits_matching
from refseg.data.store import ensure_store, read_store
from refseg.errors import DataError, UnknownName
from refseg.ops.images import image_size
from refseg.ops.masks import decode_segmentation
from refseg.types import ALL_LABELS, Labels, Picture

POOL = "pool"
_IMAGE_LIST = re.compile(rb'\s*\{\s*"image_ids"')
_HEAD_BYTES = 256


@dataclass(frozen=True)
class PictureSource:
    """store: the folder of the converted store, named by its content. folder: the data set's own.

    only: image ids to stay with, None for all. masks: False if there are none to be seen.
    """

    store: Path
    folder: Path
    finder: ImageFinder
    only: frozenset[int] | None = None
    masks: bool = True

    @cached_property
    def records(self) -> Records:
        """All tables."""
        return read_store(self.store)

    @cached_property
    def rows(self) -> Mapping[int, int]:
        """image id -> row."""
        ids = self.records.column("images", "image_id").tolist()
        return {image_id: row for row, image_id in enumerate(ids)}

    def in_split(self, split: str | None) -> NDArray[np.bool_]:
        """[images] whether a picture is in `split`, which may be joined of several: "train+pool".

        None: train, if there is one, and the pool: the pictures that no ref of any split is about.
        Raises UnknownName.
        """
        keep = np.zeros(self.records.count("images"), np.bool_)
        names, _ = self.records.splits()
        for part in self.parts(split):
            keep |= ~self.about(names) if part == POOL else self.about(self.labels_of(part))
        if self.only is not None:
            keep &= np.isin(self.records.column("images", "image_id"), list(self.only))
        return keep

    def parts(self, split: str | None) -> list[str]:
        """The splits, and the pool, that `split` is joined of; see `in_split`."""
        if split is not None:
            return split.split("+")
        return ["train", POOL] if "train" in self.records.splits()[0] else [POOL]

    def labels_of(self, part: str) -> Sequence[str]:
        """The split labels that a split's name stands for. Raises UnknownName."""
        names, meta = self.records.splits()[0], self.records.meta
        wanted = meta.split_aliases.get(part) or splits_matching(names, part)
        if not wanted:
            raise UnknownName(f"split of {meta.dataset}", part, {*names, POOL})
        return wanted

    def about(self, labels: Sequence[str]) -> NDArray[np.bool_]:
        """[images] whether a ref with one of these split labels is about a picture."""
        names, codes = self.records.splits()
        wanted = np.isin(codes, [names.index(label) for label in labels])
        found = np.zeros(self.records.count("images"), np.bool_)
        found[self.records.column("refs", "image_row")[wanted]] = True
        return found

    def described(self, known_refs: frozenset[int] | None = None) -> NDArray[np.bool_]:
        """[annotations] whether an expression of any split is about it; see LabelOptions."""
        found = np.zeros(self.records.count("annotations"), np.bool_)
        targets = self.records.table("refs").column("ann_rows").combine_chunks()
        rows = pc.list_flatten(targets).to_numpy()
        if known_refs is not None:
            ids = self.records.column("refs", "ref_id")[pc.list_parent_indices(targets).to_numpy()]
            rows = rows[np.isin(ids, list(known_refs))]
        found[rows] = True
        return found

    def hw(self, image_row: int) -> tuple[int, int]:
        """Rows and columns of a picture, as stated or else from its file."""
        image = self.records.image(image_row)
        if image.height > 0 and image.width > 0:
            return image.height, image.width
        return image_size(self.finder.find(image), exif=self.records.meta.upright)

    def mask(self, ann_row: int, hw: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The mask of an object, None where it has none. Raises DataError for a broken one."""
        segmentation = self.records.segmentation(ann_row) if self.masks else None
        if segmentation is None:
            return None
        meta = self.records.meta
        try:
            if isinstance(segmentation, MaskFile):
                return read_mask_file(self.folder, segmentation, hw)
            return decode_segmentation(segmentation, hw, rasteriser=meta.rasteriser)[0]
        except DataError as error:
            ann_id = self.records.column("annotations", "ann_id")[ann_row]
            raise DataError(
                f"{self.folder / meta.objects_file}: annotation {ann_id}: {error.message}",
                remedy=error.remedy or "repair it or take the annotation out",
            ) from error

    def area(self, ann_row: int, hw: tuple[int, int]) -> float | None:
        """Pixels of an object's mask; of its box where it has no mask; None without either."""
        mask = self.mask(ann_row, hw)
        if mask is not None:
            return float(np.count_nonzero(mask))
        _, _, w, h = self.records.box_xywh(ann_row)
        return float(w * h) if np.isfinite(w * h) else None

    def picture(
        self, image_row: int, *, pixels: bool = True, labels: Labels = ALL_LABELS
    ) -> Picture:
        """An image with the granted labels of its objects; see `data.objects.read_objects`."""
        record, meta = self.records.image(image_row), self.records.meta
        hw = self.hw(image_row)
        image = np.empty((*hw, 0), np.uint8)
        if pixels:
            path = self.finder.find(record)
            image = read_checked(path, record, sizes_exact=meta.sizes_exact, upright=meta.upright)
            hw = image.shape[0], image.shape[1]
        objects = read_objects(
            self.records,
            image_row,
            labels,
            name=self.records.category_name,
            decode=lambda ann_row: self.mask(ann_row, hw),
        )
        return Picture(record.image_id, image, objects)


def open_source(
    data: str,
    *,
    split_by: str | None = None,
    images: Path | None = None,
    masks: bool = True,
) -> PictureSource:
    """The pictures of `data`. masks: False leaves those of its objects unread.

    Raises DataError (nothing readable there), UnknownName.
    """
    return replace(_opened(data, split_by, images), masks=masks)


def _opened(data: str, split_by: str | None, images: Path | None) -> PictureSource:
    path = Path(data).expanduser()
    if not path.is_file():
        folder = find_folder(data)
        alone = _instances_alone(folder)
        return _coco(alone, images) if alone else _data_set(folder, split_by, images)
    with path.open("rb") as stream:
        is_list = _IMAGE_LIST.match(stream.read(_HEAD_BYTES)) is not None
    if not is_list:
        return _coco(path, images)
    ids = load_json(path, ("image_ids",))["image_ids"]
    beside = [path.parent, *sorted(p for p in path.parent.iterdir() if p.is_dir())]
    for folder in beside:
        if (folder / INSTANCES).is_file():
            found = _data_set(folder, split_by, images)
            return PictureSource(found.store, folder, found.finder, frozenset(ids))
    raise DataError(
        f"{path} names pictures, but no {INSTANCES} lies beside it or in a folder there",
        remedy="keep it where the annotations are",
    )


def _data_set(folder: Path, split_by: str | None, images: Path | None) -> PictureSource:
    store = converted_store(folder, split_by=split_by)
    return PictureSource(store, folder, image_finder(folder, read_store(store), images))


def _instances_alone(folder: Path) -> Path | None:
    """The COCO file of a folder that holds annotations and no expressions; None for others.

    Raises DataError for several in a folder that is no data set otherwise.
    """
    found = [path for where in ("", "annotations/") for path in folder.glob(f"{where}*.json")]
    found = sorted(path for path in found if "instances" in path.name)
    if not found or any(next(folder.glob(f"{stem}(*)*"), None) for stem in ("refs", "grefs")):
        return None
    if len(found) == 1:
        return found[0]
    try:
        detect_format(folder)
    except DataError:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(
            f"{folder}: several COCO files are here: {names}",
            remedy=f"name one of them: {found[0]}",
        ) from None
    return None


def _coco(path: Path, images: Path | None) -> PictureSource:
    """A COCO style file, converted on first use."""

    def convert() -> Records:
        build = RecordsBuilder(
            path.stem,
            "none",
            source=str(path),
            objects_file=path.name,
            image_dirs=("images", "."),
        )
        add_instances(build, load_json(path, ("images", "annotations", "categories")))
        return build.finish()

    store = ensure_store(f"coco {path.name}", [path], convert)
    return PictureSource(store, path.parent, image_finder(path.parent, read_store(store), images))


def locate_images(
    records: Records, finder: ImageFinder, image_rows: Sequence[int]
) -> tuple[Path, list[str]]:
    """The folder that all these images lie in or below, and each one's place there.

    Raises DataError, saying how many are missing.
    """
    try:
        paths = [finder.find(records.image(row)).absolute() for row in image_rows]
    except DataError as error:
        missing = sum(1 for _ in finder.missing(map(records.image, image_rows)))
        told = f"{missing:,} of {len(image_rows):,} images of {records.meta.dataset} are missing"
        raise DataError(f"{error.message}\n{told}", remedy=error.remedy) from error
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, [path.relative_to(root).as_posix() for path in paths]
