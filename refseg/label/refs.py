"""One mask for each ref, shared by all its sentences, by whoever makes masks of pictures and refs.

`refseg.label.masks` asks a model sentence by sentence; here a maker is handed a picture and the
refs about it, as where several sentences' answers were weighed against each other (TRIS). Refs for
which nothing is found are left out, lest a student take them for nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import Entry
from refseg.errors import RunError
from refseg.label.agreement import NOTHING, SCORE_DIGITS
from refseg.label.job import Line, PlannedImage
from refseg.label.masks import CATEGORY, MaskTask
from refseg.label.options import LabelOptions
from refseg.ops.masks import rle_encode

#: A picture [H, W, 3] uint8 RGB and the ids of refs about it -> a mask [H, W] bool and score each.
Maker = Callable[[NDArray[np.uint8], Sequence[int]], Sequence[tuple[NDArray[np.bool_], float]]]


class RefMaskTask(MaskTask):
    """asked: the refs of the split. options: as for masks, with `per_ref`; model is a name only."""

    skipped: ClassVar[str] = "not learned from"

    def __init__(self, options: LabelOptions) -> None:
        super().__init__(options)
        assert options.per_ref

    def answer(
        self, model: Any, images: Sequence[PlannedImage]
    ) -> Iterator[tuple[int, list[Line]]]:
        """(images done, answers), picture by picture. model: a `Maker`."""
        make: Maker = model
        for image in images:
            entries = [self.dataset.entry(row) for row in image.asked]
            picture = self.dataset.image(entries[0].image_row)
            made = make(picture, [entry.ref_id for entry in entries])
            yield (
                1,
                [
                    self._ref_line(row, entry, mask, score)
                    for row, entry, (mask, score) in zip(image.asked, entries, made, strict=True)
                ],
            )

    def _ref_line(self, row: int, entry: Entry, mask: NDArray[np.bool_], score: float) -> Line:
        records = self.dataset.records
        rle = rle_encode(mask)
        return {
            "image_id": entry.image_id,
            "asked": row,
            "ref_id": entry.ref_id,
            "split": records.text("refs", "split", entry.ref_row),
            "sentences": [self._sentence(r) for r in records.ref(entry.ref_row).sent_rows],
            "score": round(float(score), SCORE_DIGITS),
            "size": rle["size"],
            "counts": rle["counts"] if mask.any() else None,
        }

    def _sentence(self, row: int) -> dict[str, Any]:
        """As REFER writes it, with the marks that the source gives it."""
        told = self.dataset.records.sentence(row)
        marks = {key: told.extra[key] for key in ("weight", "pseudo") if key in told.extra}
        words = {"raw": told.raw, "sent": told.sent, "tokens": told.sent.split()}
        return {"sent_id": told.sent_id, **words, **marks}

    def _kept(self, lines: Iterable[Line]) -> Iterator[Line]:
        return (line for line in lines if line["counts"] is not None)

    def refs(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """A ref for each mask, with all its sentences."""
        for number, line in enumerate(self._kept(lines), start=1):
            yield {
                "ref_id": number,
                "ann_id": number,
                "image_id": line["image_id"],
                "category_id": CATEGORY["id"],
                "split": line["split"],
                "sent_ids": [sentence["sent_id"] for sentence in line["sentences"]],
                "sentences": line["sentences"],
                "source_ref_id": line["ref_id"],
                "score": line["score"],
            }

    def counts(self, line: Line) -> Mapping[str, int]:
        """What the summary adds up."""
        kept = int(line["counts"] is not None)
        return {"refs": kept, "expressions": kept * len(line["sentences"]), NOTHING: 1 - kept}

    def summary(self, counts: Mapping[str, int], asked: int) -> dict[str, float]:
        """Nothing beside the counts."""
        return {}

    def nothing_written(self, counts: Mapping[str, int], asked: int) -> RunError:
        """The error of a job in which no ref got a mask."""
        return RunError(
            f"none of {asked:,} refs got a mask: every map was empty, or lay on edges alone",
            remedy="train what makes the maps longer, and give another --out",
        )
