"""The task "masks": a teacher's mask for every expression of a split.

The teacher sees pictures and words alone. A ref of the result is one sentence with its mask; it
keeps the sentence's id, words, marks and split, and has the source's ref id beside its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.pictures import locate_images
from refseg.data.refer import NO_TARGET_ID
from refseg.errors import DataError
from refseg.evaluate import packed, read_ahead
from refseg.label.job import Line, Plan, PlannedImage
from refseg.label.options import LabelOptions, Progress
from refseg.models import Model
from refseg.ops.masks import mask_to_box, rle_decode, rle_encode
from refseg.types import TEXT_ONLY, Prediction, Sample

#: What a mask is of is no label that a teacher gives.
CATEGORY = {"id": 1, "name": "object", "supercategory": ""}
SCORE_DIGITS = 6


class MaskTask:
    """asked: the rows of `dataset`, which are the sentences of the split."""

    labels_seen = "text"

    def __init__(self, options: LabelOptions) -> None:
        self.options = options
        self.split = options.split or "train"

    @cached_property
    def dataset(self) -> ReferDataset:
        """The split, all labels but the words withheld."""
        options = self.options
        return open_data(
            options.data,
            self.split,
            TEXT_ONLY,
            images=options.images,
            split_by=options.split_by,
            text_field=options.text_field,
        )

    @property
    def about(self) -> dict[str, str]:
        """Which data, for people."""
        return {"name": self.dataset.name, "by": self.dataset.split_by, "split": self.split}

    @property
    def data_hash(self) -> str:
        """Of the annotations."""
        return self.dataset.hash

    def plan(self, looked: Progress | None = None) -> Plan:
        """Every sentence of the split. Raises DataError when none is left, or images are missing.

        looked: told nothing, as no object is looked at. left_out: "excluded image", "over the
        limit" -> sentences.
        """
        dataset, options = self.dataset, self.options
        ids = dataset.records.column("images", "image_id")
        groups = sorted(
            (int(ids[dataset.entry(group[0]).image_row]), group)
            for group in dataset.groups_by_image()
        )
        kept = [group for group in groups if group[0] not in options.exclude_images]
        left_out = {
            "excluded image": _count(groups) - _count(kept),
            "over the limit": _count(kept) - _count(kept[: options.limit]),
        }
        kept = kept[: options.limit]
        if not kept:
            raise DataError(
                f"{dataset.name} {self.split}: no expression is left of {_count(groups):,} "
                f"({left_out['excluded image']:,} in excluded images)",
                remedy="choose another --split, or exclude fewer images",
            )
        rows = [dataset.entry(group[0]).image_row for _, group in kept]
        _, files = locate_images(dataset.records, dataset.finder, rows)
        planned = (
            PlannedImage(image_id, file, tuple(group))
            for (image_id, group), file in zip(kept, files, strict=True)
        )
        return Plan(tuple(planned), left_out)

    def image_root(self, plan: Plan) -> Path:
        """The folder that the files of the plan are in."""
        dataset, first = self.dataset, plan.images[0]
        path = dataset.finder.find(
            dataset.image_record(dataset.entry(first.asked[0]).image_row)
        ).absolute()
        return path.parents[first.file.count("/")]

    def answer(
        self, model: Model, images: Sequence[PlannedImage]
    ) -> Iterator[tuple[int, list[Line]]]:
        """(images done, answers), batch by batch; an answer says what data it is about."""
        groups = [image.asked for image in images]
        last = {image.asked[-1] for image in images}

        def read(rows: list[int]) -> tuple[list[int], list[Sample]]:
            return rows, self.dataset.samples(rows)

        for rows, samples in read_ahead(read, packed(groups, self.options.batch_size)):
            found = zip(rows, samples, model.predict(samples), strict=True)
            yield len(last.intersection(rows)), [self._line(*one) for one in found]

    def _line(self, row: int, sample: Sample, prediction: Prediction) -> Line:
        records, entry = self.dataset.records, self.dataset.entry(row)
        ids = records.column("sentences", "sent_id")
        rows = records.ref(entry.ref_row).sent_rows
        sentence = records.sentence(next(r for r in rows if ids[r] == entry.sent_id))
        rle = rle_encode(prediction.mask)
        nothing = prediction.empty or not prediction.mask.any()
        return {
            "image_id": entry.image_id,
            "asked": row,
            "ref_id": entry.ref_id,
            "sent_id": entry.sent_id,
            "split": records.text("refs", "split", entry.ref_row),
            "raw": sentence.raw,
            "sent": sentence.sent,
            "weight": entry.weight,
            "pseudo": entry.pseudo,
            "score": round(float(prediction.score), SCORE_DIGITS),
            "size": rle["size"],
            "counts": None if nothing else rle["counts"],
        }

    # -- the data set -------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Facts about all images."""
        return {"upright": True} if self.dataset.records.meta.upright else {}

    def categories(self) -> list[dict[str, Any]]:
        """One for all."""
        return [CATEGORY]

    def images(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The images of instances.json."""
        files = {image.image_id: image.file for image in plan.images}
        for line in lines:
            file = files.pop(line["image_id"], None)
            if file is not None:
                height, width = line["size"]
                yield {
                    "id": line["image_id"], "file_name": file, "height": height, "width": width
                }  # fmt: skip

    def annotations(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A mask for each sentence; none where the teacher found nothing."""
        for number, line in enumerate(lines, start=1):
            if line["counts"] is None:
                continue
            rle = {"size": line["size"], "counts": line["counts"]}
            mask = rle_decode(rle)
            box = mask_to_box(mask)
            assert box is not None
            x0, y0, x1, y1 = map(float, box)
            yield {
                "id": number,
                "image_id": line["image_id"],
                "category_id": CATEGORY["id"],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": rle,
            }

    def refs(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A ref for each sentence; without a target where the teacher found nothing."""
        for number, line in enumerate(lines, start=1):
            weight = line["weight"] * self.options.sentence_weight
            marks = {} if weight == 1 else {"weight": weight}
            if line["pseudo"]:
                marks["pseudo"] = True
            sentence = {
                "sent_id": line["sent_id"],
                "raw": line["raw"],
                "sent": line["sent"],
                "tokens": line["sent"].split(),
            }
            yield {
                "ref_id": number,
                "ann_id": number if line["counts"] is not None else NO_TARGET_ID,
                "image_id": line["image_id"],
                "category_id": CATEGORY["id"],
                "split": line["split"],
                "sent_ids": [line["sent_id"]],
                "sentences": [{**sentence, **marks}],
                "source_ref_id": line["ref_id"],
                "score": line["score"],
            }

    def counts(self, line: Line) -> Mapping[str, int]:
        """What the summary adds up."""
        return {"refs": 1, "expressions": 1, "nothing found": int(line["counts"] is None)}


def _count(groups: Iterable[tuple[int, Sequence[int]]]) -> int:
    return sum(len(group) for _, group in groups)
