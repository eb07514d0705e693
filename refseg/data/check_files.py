"""The part of `refseg data check` that opens files: images and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refseg.data.images import ImageFinder, exif_orientation
from refseg.data.maskfile import read_mask_file
from refseg.data.records import MaskFile, Records
from refseg.errors import DataError, ImageError
from refseg.ops import boxes as box_ops
from refseg.ops import images as image_ops
from refseg.ops import masks as mask_ops

Status = Literal["ok", "warn", "fail"]
Progress = Callable[[str, int, int], None]
HW = tuple[int, int]

EXAMPLES = 3
MISFIT_IOU = 0.5  # a mask whose own box overlaps the stated one by less belongs elsewhere


@dataclass(frozen=True)
class CheckRow:
    """One line of a report. count: how many things it is about. detail: for people."""

    name: str
    status: Status
    count: int
    detail: str = ""


@dataclass
class _Findings:
    """Things found, by name: how many, and the first few."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, example: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        kept = self.examples.setdefault(name, [])
        if len(kept) < EXAMPLES:
            kept.append(example)

    def row(self, name: str, status: Status, fine: str) -> CheckRow:
        """A line for `name`; `fine` is its detail when nothing was found."""
        count = self.counts.get(name, 0)
        if not count:
            return CheckRow(name, "ok", 0, fine)
        return CheckRow(name, status, count, listed(self.examples[name], count))


def listed(examples: Sequence[str], count: int) -> str:
    """The first few of `count` things, for people."""
    more = count - len(examples)
    return "; ".join(examples) + (f"; and {more:,} more" if more > 0 else "")


def warn_if(count: int) -> Status:
    """ "warn" if anything was counted, else "ok"."""
    return "warn" if count else "ok"


def spread(rows: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """At most `limit` of the rows, evenly spread over them."""
    if limit is None or len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]


def check_images(
    records: Records,
    finder: ImageFinder,
    *,
    decode: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[CheckRow], dict[int, HW]]:
    """Are the images that refs are about there, readable, and of the stated size?

    decode: read all pixels, which also finds files that are cut short, instead of the headers
    alone. limit: open so many at most; all are looked for in any case.
    Returns the rows and the sizes found, image row -> (rows, columns).
    """
    used = np.unique(records.column("refs", "image_row")).astype(np.int64)
    missing_ids = {image.image_id for image in finder.missing(map(records.image, used.tolist()))}
    ids = records.column("images", "image_id")
    there = np.array([row for row in used.tolist() if int(ids[row]) not in missing_ids], np.int64)
    rows = [_missing_row(records, finder, used, missing_ids)]
    found, sizes = _Findings(), {}
    opened = spread(there, limit)
    for done, row in enumerate(opened.tolist()):
        image = records.image(row)
        path = finder.find(image)
        try:
            hw = image_ops.load_image(path).shape[:2] if decode else image_ops.image_size(path)
        except ImageError as error:
            found.add("broken images", error.message)
            continue
        if not records.meta.upright and (turn := exif_orientation(path)) != 1:
            found.add("images turned by EXIF", f"{path}: orientation {turn}")
            continue
        sizes[row] = (int(hw[0]), int(hw[1]))
        stated = (image.height, image.width)
        if records.meta.sizes_exact and 0 not in stated and stated != sizes[row]:
            turned = " (turned by a quarter)" if stated == sizes[row][::-1] else ""
            found.add("image sizes", f"{path}: {_by(sizes[row])}, stated {_by(stated)}{turned}")
        if progress:
            progress("images", done + 1, len(opened))
    if len(there):
        what = "decoded" if decode else "opened, headers only"
        rows.append(found.row("broken images", "fail", f"{len(opened):,} {what}"))
        fine = "masks are about upright pictures" if records.meta.upright else ""
        rows.append(found.row("images turned by EXIF", "fail", fine))
        rows.append(_sizes_row(records, found, len(opened)))
    return rows, sizes


def _missing_row(
    records: Records, finder: ImageFinder, used: NDArray[np.int64], missing: set[int]
) -> CheckRow:
    if not missing:
        return CheckRow("missing images", "ok", 0, f"all {len(used):,} are there")
    ids = records.column("images", "image_id")
    first = next(row for row in used.tolist() if int(ids[row]) in missing)
    try:
        finder.find(records.image(first))
        where = ""
    except DataError as error:
        where = " ".join(error.message.split())
    detail = f"of {len(used):,}; {where}"
    if len(missing) == len(used):
        detail += "; where words and boxes alone are of use, --no-images"
    return CheckRow("missing images", "fail", len(missing), detail)


def _sizes_row(records: Records, found: _Findings, opened: int) -> CheckRow:
    if not records.meta.sizes_exact:
        return CheckRow("image sizes", "ok", 0, "the stated sizes are estimates, not compared")
    return found.row("image sizes", "fail", f"{opened:,} compared with the annotations")


def check_masks(
    records: Records,
    folder: Path,
    sizes: dict[int, HW],
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[CheckRow]:
    """Can the targets' masks be decoded, do they have pixels, and do they fit their boxes?

    sizes: of image files that were opened; otherwise the stated size is taken.
    """
    targets = records.table("refs").column("ann_rows").combine_chunks().flatten().to_numpy()
    targets = np.unique(targets).astype(np.int64)
    with_mask = targets[records.column("segmentations", "kind")[targets] != 0]
    found, opened = _Findings(), spread(with_mask, limit)
    for done, row in enumerate(opened.tolist()):
        _check_mask(records, folder, row, sizes, found)
        if progress:
            progress("masks", done + 1, len(opened))
    without = len(targets) - len(with_mask)
    detail = f"of {len(targets):,} that are referred to"
    rows = [CheckRow("objects without a mask", "warn" if without else "ok", without, detail)]
    if len(opened):
        fine = f"{len(opened):,} of {len(with_mask):,} decoded"
        rows.append(found.row("broken masks", "fail", fine))
        useless: Status = "fail" if found.counts.get("empty masks") == len(opened) else "warn"
        rows.append(found.row("empty masks", useless, "every mask has pixels"))
        rows.append(found.row("masks the wrong way round", "fail", "object and ground not swapped"))
        rows.append(found.row("masks away from their box", "warn", "masks and boxes agree"))
    return rows


def _check_mask(
    records: Records, folder: Path, row: int, sizes: dict[int, HW], found: _Findings
) -> None:
    annotation = records.annotation(row)
    image = records.image(annotation.image_row)
    name = f"annotation {annotation.ann_id}, image {image.image_id}"
    hw = sizes.get(annotation.image_row, (image.height, image.width))
    segmentation = records.segmentation(row)
    try:
        if isinstance(segmentation, MaskFile):
            name = segmentation.path
            mask = read_mask_file(folder, segmentation, hw)
        elif 0 in hw:
            found.add("broken masks", f"{name}: the size of the image is not known")
            return
        else:
            rasteriser = records.meta.rasteriser
            mask, _ = mask_ops.decode_segmentation(segmentation, hw, rasteriser=rasteriser)
    except DataError as error:
        found.add("broken masks", f"{name}: {error.message}")
        return
    if not mask.any():
        found.add("empty masks", name)
        return
    box = records.box_xywh(row)
    if np.isfinite(box).all() and _fit(mask, box) < MISFIT_IOU:
        inverted = not mask.all() and _fit(~mask, box) > 0.9
        found.add(
            "masks the wrong way round" if inverted else "masks away from their box",
            f"{name}: the box of its pixels and the stated one overlap by {_fit(mask, box):.2f}",
        )


def _fit(mask: NDArray[np.bool_], box_xywh: NDArray[np.float64]) -> float:
    """IoU of the mask's tight box with a stated one, px."""
    own = mask_ops.mask_to_box(mask)
    stated = box_ops.xywh_to_xyxy(box_xywh[None].astype(np.float32))
    return 0.0 if own is None else float(box_ops.box_iou(own[None], stated)[0, 0])


def _by(hw: HW) -> str:
    return f"{hw[0]} x {hw[1]} (rows x columns)"
