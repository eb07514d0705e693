"""The task "masks": a teacher's mask for every expression of a split.

The teacher sees pictures and words alone. A ref of the result is one sentence with its mask; it
keeps the sentence's id, words, marks and split, and has the source's ref id beside its own.

With `LabelOptions.agree` masks are kept only where they fit a box: see `refseg.label.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from refseg.data.catalog import open_data
from refseg.data.dataset import Entry, ReferDataset
from refseg.data.pictures import locate_images
from refseg.data.refer import NO_TARGET_ID
from refseg.errors import ConfigError, DataError, RunError
from refseg.evaluate import packed, read_ahead
from refseg.label import agreement
from refseg.label.job import Line, Plan, PlannedImage
from refseg.label.options import LabelOptions, Progress
from refseg.models import Model
from refseg.ops.masks import mask_to_box, rle_decode, rle_encode
from refseg.types import Labels, Prediction, Sample

#: What a mask is of is no label that a teacher gives.
CATEGORY = {"id": 1, "name": "object", "supercategory": ""}
KNOWN = "mask known"  # why a ref is not asked about

Groups = list[tuple[int, list[int]]]


class MaskTask:
    """asked: the rows of `dataset`, which are the sentences of the split, or one of each ref.

    skipped: what is said of `LabelOptions.skip_refs`.
    """

    skipped: ClassVar[str] = KNOWN

    def __init__(self, options: LabelOptions) -> None:
        self.options = options
        self.split = options.split or "train"
        self.labels_seen = "text" if options.agree is None else "text+box"

    @cached_property
    def dataset(self) -> ReferDataset:
        """The split; all labels are withheld but the words, and the boxes where they judge."""
        options = self.options
        return open_data(
            options.data,
            self.split,
            Labels.parse(self.labels_seen),
            images=options.images,
            split_by=options.split_by,
            text_field=options.text_field,
            view="ref" if options.per_ref else "sentence",
            seed=options.seed,
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
        """Every sentence of the split. Raises DataError when none is left, images are missing, or
        no box is known that masks could agree with.

        looked: told nothing, as no object is looked at. left_out: "excluded image", `skipped`,
        "over the limit" -> what would have been asked.
        """
        dataset = self.dataset
        kept, left_out = self._chosen()
        if not kept:
            total = sum(left_out.values())
            known = f", {left_out[KNOWN]:,} with masks already" if KNOWN in left_out else ""
            raise DataError(
                f"{dataset.name} {self.split}: no expression is left of {total:,} "
                f"({left_out['excluded image']:,} in excluded images{known})",
                remedy="choose another --split, or exclude fewer images",
            )
        if self.options.agree is not None:
            self._require_boxes(kept)
        rows = [dataset.entry(group[0]).image_row for _, group in kept]
        _, files = locate_images(dataset.records, dataset.finder, rows)
        planned = (
            PlannedImage(image_id, file, tuple(group))
            for (image_id, group), file in zip(kept, files, strict=True)
        )
        return Plan(tuple(planned), left_out)

    def _chosen(self) -> tuple[Groups, dict[str, int]]:
        """(image id, rows) of what is asked, images by id; and why -> how many rows are not."""
        dataset, options = self.dataset, self.options
        ids = dataset.records.column("images", "image_id")
        groups = sorted(
            (int(ids[dataset.entry(group[0]).image_row]), group)
            for group in dataset.groups_by_image()
        )
        kept = [group for group in groups if group[0] not in options.exclude_images]
        left_out = {"excluded image": _count(groups) - _count(kept)}
        if options.skip_refs:
            before, kept = _count(kept), self._without_skipped(kept)
            left_out[self.skipped] = before - _count(kept)
        left_out["over the limit"] = _count(kept) - _count(kept[: options.limit])
        return kept[: options.limit], left_out

    def _without_skipped(self, groups: Groups) -> Groups:
        skip, entry = self.options.skip_refs, self.dataset.entry
        left = ((i, [row for row in rows if entry(row).ref_id not in skip]) for i, rows in groups)
        return [(image_id, rows) for image_id, rows in left if rows]

    def _require_boxes(self, groups: Groups) -> None:
        entry = self.dataset.entry
        if all(entry(row).box_xyxy is None for _, rows in groups for row in rows):
            raise DataError(
                f"{self.dataset.name} {self.split}: no box is known for any of the "
                f"{_count(groups):,} expressions that are asked about",
                remedy="give data with boxes, or leave out --agree, which compares masks with them",
            )

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
            # Boxes judge the answers, so the teacher does not see them.
            samples = self.dataset.samples(rows)
            return rows, [replace(sample, box_xyxy=None, empty=None) for sample in samples]

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
            "score": round(float(prediction.score), agreement.SCORE_DIGITS),
            "size": rle["size"],
            "counts": None if nothing else rle["counts"],
            **self._asked_for(entry, prediction, nothing),
        }

    def _asked_for(self, entry: Entry, prediction: Prediction, nothing: bool) -> Line:
        """What a line tells only if an option asks for it."""
        told: Line = {}
        if self.options.agree is not None:
            told |= agreement.compared(entry, prediction)
        if self.options.polygons:
            told["polygons"] = [] if nothing else _outlines(prediction, entry)
        return told

    def _kept(self, lines: Iterable[Line]) -> Iterator[Line]:
        return (line for line in lines if agreement.why_not(line, self.options.agree) is None)

    # -- the data set -------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Facts about all images."""
        return {"upright": True} if self.dataset.records.meta.upright else {}

    def categories(self) -> list[dict[str, Any]]:
        """One for all."""
        return [CATEGORY]

    def images(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The images of instances.json: those that something is kept about."""
        files = {image.image_id: image.file for image in plan.images}
        for line in self._kept(lines):
            file = files.pop(line["image_id"], None)
            if file is not None:
                height, width = line["size"]
                yield {
                    "id": line["image_id"], "file_name": file, "height": height, "width": width
                }  # fmt: skip

    def annotations(self, plan: Plan, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A mask for each sentence that is kept; none where the teacher found nothing.

        Methods that predict points get masks to learn from, too: such a student draws points anew,
        evenly, from the contour of the mask. This is the resampling of Partial-RES.
        """
        for number, line in enumerate(self._kept(lines), start=1):
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
                "segmentation": line.get("polygons", rle),
            }

    def refs(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A ref for each sentence that is kept; without a target where the teacher found nothing.

        projection: of the mask against the known box, as it was compared.
        """
        for number, line in enumerate(self._kept(lines), start=1):
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
                **{name: line[name] for name in ("score", "projection") if name in line},
            }

    def counts(self, line: Line) -> Mapping[str, int]:
        """What the summary adds up."""
        if self.options.agree is not None:
            return agreement.tally(line, self.options.agree)
        return {"refs": 1, "expressions": 1, agreement.NOTHING: int(line["counts"] is None)}

    def summary(self, counts: Mapping[str, int], asked: int) -> dict[str, float]:
        """The share that is kept, where masks have to agree with boxes."""
        return {} if self.options.agree is None else agreement.kept_share(counts, asked)

    def nothing_written(self, counts: Mapping[str, int], asked: int) -> RunError:
        """The error of a job that kept no mask."""
        return agreement.none_kept(counts, self.options.agree)


def _outlines(prediction: Prediction, entry: Entry) -> list[list[float]]:
    """The polygons as COCO writes them. Raises ConfigError where there are none.

    Fewer than three points enclose nothing, and COCO's tools take two for a box: they are left out.
    """
    outlines = [
        [float(number) for number in points.reshape(-1)]  # as predicted: they fill to its mask
        for points in prediction.polygons
        if len(points) > 2
    ]
    if not outlines:
        raise ConfigError(
            f'the mask of "{entry.text}" (image {entry.image_id}) has no polygons: this model '
            "predicts masks alone",
            remedy="leave out --polygons to write its masks, and give another --out",
        )
    return outlines


def _count(groups: Iterable[tuple[int, Sequence[int]]]) -> int:
    return sum(len(group) for _, group in groups)
