"""Sentences written about objects, and whether selection heads lead them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refseg.describe import Described, describe, refer_back
from refseg.errors import DataError, NoProposal
from refseg.referred import Referred
from refseg.types import Picture


@dataclass(frozen=True)
class Written:
    """What was written about an object.

    text: "" if no word came out or no proposal stood for the object. iou: of the proposal that
    stood for it, on the grid of its mask (see `refseg.describe.Described`), 0 if none did; None
    where proposals are the objects. own: the writer's own head finds it; judged: the judge does;
    human: the judge finds it by each reference. meaning: see `refseg.meaning`. What was not asked
    is None.
    """

    about: Referred
    text: str
    iou: float | None
    own: bool | None = None
    judged: bool | None = None
    human: tuple[bool, ...] = ()
    meaning: str | None = None


class Scribe:
    """A model that writes, and a judge (or None) that reads, asked about a few pictures at a time.

    An object that no proposal of the writer stands for is kept, with an empty sentence and an IoU
    of 0; one that none of the judge's stands for is a miss. Both are counted.
    """

    def __init__(self, model: Any, judge: Any, beams: int) -> None:
        self.model, self.judge, self.beams = model, judge, beams
        self.own = bool(getattr(model.method.config, "select", False))
        self.refused: list[NoProposal] = []
        self.unseen: list[NoProposal] = []

    def write(
        self, chunk: Sequence[Sequence[Referred]], pictures: Sequence[Picture]
    ) -> list[Written]:
        """A sentence about each object of `chunk`, in order; chunk[i] are those of picture i.

        Raises ConfigError for a model that does not write or a judge that does not read,
        DataError for pictures without their objects.
        """
        about = [one for group in chunk for one in group]
        spots = [
            (i, object_row(pictures[i], one)) for i, group in enumerate(chunk) for one in group
        ]
        found = describe(
            self.model, pictures, spots, beams=self.beams, keep=1, verify=self.own, strict=False
        )
        self.refused += _lost(pictures, spots, [one.proposal >= 0 for one in found])
        made = [self._first(one, told) for one, told in zip(about, found, strict=True)]
        return made if self.judge is None else self._judged(made, pictures, spots)

    def _first(self, about: Referred, found: Described) -> Written:
        iou = 0.0 if found.proposal < 0 else found.iou
        if not found.expressions:  # no word came out
            return Written(about, "", iou, False if self.own else None)
        best = found.expressions[0]
        return Written(about, best.text, iou, best.refers_back)

    def _judged(
        self, made: Sequence[Written], pictures: Sequence[Picture], spots: Sequence[tuple[int, int]]
    ) -> list[Written]:
        """The same with the judge's verdicts on the sentence and on every reference."""
        texts = [(one.text, *one.about.references) for one in made]
        asked = [spot for spot, each in zip(spots, texts, strict=True) for _ in each]
        flat = [text for each in texts for text in each]
        told = iter(refer_back(self.judge, pictures, asked, flat, strict=False))
        found = [[next(told) for _ in each] for each in texts]
        self.unseen += _lost(pictures, spots, [first.matched for first, *_ in found])
        return [
            replace(one, judged=own.hit and bool(one.text), human=tuple(v.hit for v in human))
            for one, (own, *human) in zip(made, found, strict=True)
        ]

    def notes(self) -> list[str]:
        """What to know of the objects that were refused."""
        told = []
        if self.refused:
            told.append(
                f"{len(self.refused):,} objects could not be described and count as failures "
                f"({self.refused[0].message})"
            )
        if self.unseen:
            told.append(
                f"{len(self.unseen):,} objects do not exist for the judge and count as misses "
                f"({self.unseen[0].message})"
            )
        return told


def object_row(picture: Picture, one: Referred) -> int:
    """The row of the picture's objects that is meant. Raises DataError if it comes without them."""
    if picture.objects is None:
        raise DataError(
            f"image {picture.image_id} comes without its objects",
            remedy="open the data with open_data(..., objects=True)",
        )
    return int(np.flatnonzero(picture.objects.ann_ids == one.ann_id)[0])


def _lost(
    pictures: Sequence[Picture], spots: Sequence[tuple[int, int]], matched: Sequence[bool]
) -> list[NoProposal]:
    """What is said of the spots that no proposal stands for."""
    return [
        NoProposal(pictures[place].image_id, row)
        for (place, row), there in zip(spots, matched, strict=True)
        if not there
    ]
