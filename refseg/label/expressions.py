"""The task "expressions": sentences for every object that nobody described.

Mutual supervision, section on generation supervision: beam search writes some sentences for each
instance, small instances are dropped, and the sentences count a tenth in the loss. Objects keep
their ids, masks, boxes and categories; every ref of the result has the split "train".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.pictures import PictureSource, locate_images, open_source
from refseg.data.records import MaskFile
from refseg.describe import MATCHED
from refseg.errors import RunError
from refseg.evaluate import read_ahead
from refseg.label.asked import choose
from refseg.label.job import Line, Plan, PlannedImage
from refseg.label.options import LabelOptions, Progress
from refseg.label.pool import Pool
from refseg.label.writing import write_lines
from refseg.models import Model
from refseg.ops.masks import rle_encode
from refseg.types import Picture

SPLIT = "train"


class ExpressionTask:
    """asked: the ids of the objects that sentences are written for."""

    def __init__(self, options: LabelOptions) -> None:
        self.options = options
        self.labels_seen = "text+box+mask+category" if options.masks else "text+box+category"
        self.pixels = options.pixels is not False

    @cached_property
    def source(self) -> PictureSource:
        """All pictures of the data."""
        options = self.options
        split_by = options.split_by if options.refs is None else None
        return open_source(
            options.data, split_by=split_by, images=options.images, masks=options.masks
        )

    @cached_property
    def pool(self) -> Pool:
        """The pictures, and what expressions are about."""
        options = self.options
        if options.refs is None:
            return Pool(self.source)
        return Pool(self.source, open_source(options.refs, split_by=options.split_by))

    @property
    def about(self) -> dict[str, str]:
        """Which data, for people."""
        meta, described = self.source.records.meta, self.pool.described_by.records.meta
        told = {"name": meta.dataset, "by": meta.split_by, "split": self.options.split or "default"}
        if self.pool.refs is not None:
            told |= {"by": described.split_by, "expressions": described.dataset}
        left, splits = self.pool.passed_over(self.options.split)
        if splits:
            told["left out"] = f"{int(left.sum()):,} pictures of {', '.join(splits)}"
        return told

    @property
    def data_hash(self) -> str:
        """Of the annotations; stores are named by their content. And of the choice of images."""
        told, only = self.source.store.name, self.source.only
        if only is not None:
            chosen = blake2b(",".join(map(str, sorted(only))).encode(), digest_size=8).hexdigest()
            told += f" {chosen}"
        return told if self.pool.refs is None else f"{told} {self.pool.refs.store.name}"

    def plan(self, looked: Progress | None = None) -> Plan:
        """The objects to describe. Raises DataError when there are none, or images are missing.

        looked(objects done, objects): see `asked.choose`. left_out: why -> objects; see there.
        """
        asked, left_out = choose(self.pool, self.options, looked=looked)
        return Plan(self._planned(asked), left_out)

    def check(self) -> None:
        """Raise what `plan` would, as far as is known at once: no mask is decoded, and one picture
        is looked for.
        """
        asked, _ = choose(self.pool, self.options, areas=False)
        records = self.source.records
        if self.pixels:
            row = int(records.column("annotations", "image_row")[asked[0]])
            self.source.finder.find(records.image(row))

    def _planned(self, asked: NDArray[np.intp]) -> tuple[PlannedImage, ...]:
        records = self.source.records
        ann_ids = records.column("annotations", "ann_id")
        by_image: dict[int, list[int]] = {}
        for row in asked.tolist():
            image_row = int(records.column("annotations", "image_row")[row])
            by_image.setdefault(image_row, []).append(int(ann_ids[row]))
        ids = records.column("images", "image_id")
        rows = sorted(by_image, key=lambda row: int(ids[row]))
        files = [""] * len(rows)
        if self.pixels:
            _, files = locate_images(records, self.source.finder, rows)
        return tuple(
            PlannedImage(int(ids[row]), file or records.image(row).file_name, tuple(by_image[row]))
            for row, file in zip(rows, files, strict=True)
        )

    def image_root(self, plan: Plan) -> Path | None:
        """The folder that the files of the plan are in; None where no picture is read."""
        if not self.pixels:
            return None
        source, first = self.source, plan.images[0]
        path = source.finder.find(source.records.image(source.rows[first.image_id])).absolute()
        return path.parents[first.file.count("/")]

    def answer(
        self, model: Model, images: Sequence[PlannedImage]
    ) -> Iterator[tuple[int, list[Line]]]:
        """(images done, answers), some pictures at a time; one answer an object."""
        step = self.options.pictures_at_once
        chunks = [images[start : start + step] for start in range(0, len(images), step)]

        def read(chunk: Sequence[PlannedImage]) -> tuple[Sequence[PlannedImage], list[Picture]]:
            rows = [self.source.rows[image.image_id] for image in chunk]
            return chunk, [self.source.picture(row, pixels=self.pixels) for row in rows]

        for chunk, pictures in read_ahead(read, chunks):
            yield len(chunk), list(write_lines(model, self.options, chunk, pictures))

    # -- the data set -------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Facts about all images."""
        meta = self.source.records.meta
        turned = {"upright": True} if meta.upright else {}
        return turned if meta.sizes_exact else {**turned, "size_note": "estimated by the source"}

    def categories(self) -> list[dict[str, Any]]:
        """The source's."""
        rows = self.source.records.table("categories").to_pylist()
        return [
            {"id": r["category_id"], "name": r["name"], "supercategory": r["supercategory"]}
            for r in rows
        ]

    def images(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The images of instances.json."""
        for image in plan.images:
            row = self.source.rows[image.image_id]
            stated = self.source.records.image(row)
            height, width = stated.height, stated.width
            if self.pixels:
                height, width = self.source.hw(row)
            yield {
                "id": image.image_id, "file_name": image.file, "height": height, "width": width
            }  # fmt: skip

    def annotations(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """All objects of the pictures, crowds and described ones too: a student sees them all."""
        for image in plan.images:
            image_row = self.source.rows[image.image_id]
            for ann_row in self.source.records.annotation_rows(image_row):
                yield self._annotation(ann_row, image.image_id, image_row)

    def _annotation(self, ann_row: int, image_id: int, image_row: int) -> dict[str, Any]:
        source = self.source
        annotation = source.records.annotation(ann_row)
        box = [float(number) for number in source.records.box_xywh(ann_row)]
        segmentation: Any = source.records.segmentation(ann_row) if source.masks else None
        foreign = isinstance(segmentation, MaskFile) or source.records.meta.rasteriser != "coco"
        if segmentation is not None and foreign:
            # Files stay with the source, and COCO's filling would give PhraseCut other pixels.
            mask = source.mask(ann_row, source.hw(image_row))
            segmentation = None if mask is None else rle_encode(mask)
        return {
            "id": annotation.ann_id,
            "image_id": image_id,
            "category_id": annotation.category_id,
            "bbox": None if any(map(math.isnan, box)) else box,
            "iscrowd": int(annotation.iscrowd),
            "segmentation": segmentation,
        }

    def refs(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A ref for each object that something was written for."""
        records = self.source.records
        ann_ids = records.column("annotations", "ann_id").tolist()
        category_of = dict(
            zip(ann_ids, records.column("annotations", "category_id").tolist(), strict=True)
        )
        sent_id = 0
        for number, line in enumerate((one for one in lines if one["expressions"]), start=1):
            sentences = []
            for told in line["expressions"]:
                text = told["text"]
                words = {"sent_id": sent_id, "raw": text, "sent": text, "tokens": text.split()}
                marks = {"weight": self.options.sentence_weight, "pseudo": True}
                sentences.append({**words, **marks, **_without_text(told)})
                sent_id += 1
            yield {
                "ref_id": number,
                "ann_id": line["asked"],
                "image_id": line["image_id"],
                "category_id": category_of[line["asked"]],
                "split": SPLIT,
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
                **({} if line["iou"] is None else {"iou": line["iou"]}),
            }

    def counts(self, line: Line) -> Mapping[str, int]:
        """What the summary adds up."""
        written = line["expressions"]
        return {
            "refs": int(bool(written)),
            "expressions": len(written),
            "nothing written": int(not written),
            "no proposal fits": int(line["iou"] is not None and line["iou"] < MATCHED),
        }

    def summary(self, counts: Mapping[str, int], asked: int) -> dict[str, float]:
        """Nothing beside the counts."""
        return {}

    def nothing_written(self, counts: Mapping[str, int], asked: int) -> RunError:
        """The error of a model that wrote no sentence."""
        return RunError(
            f"the model wrote nothing at all for {asked:,} objects",
            remedy="look at what it writes (refseg describe), then give another --out",
        )


def _without_text(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != "text"}
