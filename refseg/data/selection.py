"""Which rows of a data set become the items of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from refseg.data.records import Records
from refseg.data.refer import splits_matching
from refseg.errors import DataError, LabelsError, UnknownName
from refseg.types import Labels

TextField = Literal["raw", "sent"]
View = Literal["sentence", "ref"]
MaskRule = Literal["union", "lavt_compat"]

# TRIS tests ReferIt only on targets whose box covers more than this share of the image.
TRIS_REFERIT_BOX_SHARE = 0.05


@dataclass(frozen=True)
class DatasetOptions:
    """How a split is turned into items.

    text_field: the expression as typed or cleaned. view: every sentence an item, or every ref
    with one sentence drawn by (seed, epoch, ref id). mask_rule: see
    `refseg.ops.masks.decode_segmentation`. limit: the first so many items only.
    exclude_images: image ids to leave out. min_box_share: leave out refs whose box covers this
    share of the image or less (needs the label "box"). objects: samples also carry all annotated
    objects of their image but crowds, with the granted labels (needs "box", "category", or "mask"
    for all refs). pixels: read the images; without them a sample's image is empty, [H, W, 0], of
    the size that the annotations state, and no file is looked for. masked_only: leave out refs
    whose mask may not be seen (`Labels.mask_refs`); without such a list it leaves out none.
    """

    text_field: TextField = "raw"
    view: View = "sentence"
    mask_rule: MaskRule = "union"
    seed: int = 0
    limit: int | None = None
    exclude_images: frozenset[int] = frozenset()
    min_box_share: float = 0.0
    objects: bool = False
    pixels: bool = True
    masked_only: bool = False

    def __post_init__(self) -> None:
        for kind, value, valid in (
            ("text_field", self.text_field, ("raw", "sent")),
            ("view", self.view, ("sentence", "ref")),
            ("mask_rule", self.mask_rule, ("union", "lavt_compat")),
        ):
            if value not in valid:
                raise UnknownName(kind, value, valid)
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit is {self.limit}", remedy="give 1 or more, or leave it out")
        if not 0 <= self.min_box_share < 1:
            raise DataError(
                f"min_box_share is {self.min_box_share}", remedy="give a share from 0 to below 1"
            )


def item_rows(
    records: Records, split: str, labels: Labels, options: DatasetOptions
) -> NDArray[np.intp]:
    """[items] rows of the sentences, or in the view "ref" of the refs, that are the items.

    In the order of the source. Raises UnknownName for a split that is not there, LabelsError for
    a filter or for objects that need a label which is not granted, DataError when masks are
    granted and the data set has none.
    """
    if options.objects:
        _require_object_labels(labels)
    if "mask" in labels.granted:
        _require_masks(records)
    keep = in_split(records, split)
    image_row = records.column("refs", "image_row")
    if options.exclude_images:
        ids = records.column("images", "image_id")[image_row]
        keep &= ~np.isin(ids, list(options.exclude_images))
    if options.min_box_share > 0:
        if not labels.allows("box"):
            raise LabelsError(
                "min_box_share looks at boxes, which are not granted",
                remedy='grant "box" or drop the filter',
            )
        keep &= box_shares(records) > options.min_box_share
    if options.masked_only:
        keep &= _mask_granted(records, labels)
    rows = keep if options.view == "ref" else keep[records.column("sentences", "ref_row")]
    return np.flatnonzero(rows)[: options.limit]


def box_shares(records: Records) -> NDArray[np.float64]:
    """[refs] the share of its image that the box of a ref's first target covers; 0 if unknown.

    The first target alone, as in TRIS's ReferIt test.
    """
    targets = records.table("refs").column("ann_rows")
    shares = np.zeros(records.count("refs"))
    some = np.flatnonzero(pc.list_value_length(targets).to_numpy())
    first = pc.list_element(targets.take(some), 0).to_numpy()
    area = records.column("boxes", "w")[first] * records.column("boxes", "h")[first]
    image_row = records.column("refs", "image_row")[some]
    height = records.column("images", "height")[image_row].astype(np.float64)
    pixels = height * records.column("images", "width")[image_row]
    known = (pixels > 0) & np.isfinite(area)
    shares[some[known]] = area[known] / pixels[known]
    return shares


def in_split(records: Records, split: str) -> NDArray[np.bool_]:
    """[refs] whether a ref belongs to the split. Raises UnknownName."""
    meta, (names, codes) = records.meta, records.splits()
    wanted = meta.split_aliases.get(split) or splits_matching(names, split)
    found = [number for number, name in enumerate(names) if name in wanted]
    if not found:
        error = UnknownName(f"split of {meta.dataset}", split, {*names, *meta.split_aliases})
        sizes = [f"{name} {np.sum(codes == number):,}" for number, name in enumerate(names)]
        error.remedy += f" (refs: {', '.join(sizes)})"
        raise error
    return np.isin(codes, found)


def _mask_granted(records: Records, labels: Labels) -> NDArray[np.bool_]:
    """[refs] whether a ref's mask may be seen. Raises LabelsError if none may."""
    if "mask" not in labels.granted:
        raise LabelsError(
            "masked_only keeps the refs whose masks may be seen, and masks are not granted",
            remedy='grant "mask" or drop the filter',
        )
    ids = records.column("refs", "ref_id")
    if labels.mask_refs is None:
        return np.ones(len(ids), np.bool_)
    return np.isin(ids, list(labels.mask_refs))


def _require_object_labels(labels: Labels) -> None:
    if not {"box", "mask", "category"} & labels.granted:
        raise LabelsError(
            f"the objects of an image show what is in it, and only {labels} is granted",
            remedy='grant "box", "mask" or "category", or open the data set without objects',
        )
    if labels.mask_refs is not None:
        raise LabelsError(
            f"masks are granted for {len(labels.mask_refs):,} refs only, but the objects of an "
            "image would show the masks of the others too",
            remedy="drop mask_refs, or open the data set without objects",
        )


def _require_masks(records: Records) -> None:
    kinds = records.column("segmentations", "kind")
    if len(kinds) and not kinds.any():
        raise DataError(
            f"{records.meta.dataset}: masks are granted, but no object in it has one",
            remedy='open it with other labels, such as "text+box"',
        )
