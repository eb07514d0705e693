"""What the model for photographs makes of two openly licensed photographs.

They lie in refseg/photographs, with their sources in LICENCES.md there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import refseg
from refseg import draw
from refseg.ops.images import load_image
from refseg.page import Page
from refseg.predict import Predictor, Segmenter
from refseg.propose import Proposal, distinct

FOLDER = Path(refseg.__file__).parent / "photographs"
SURE, ALIKE = 0.5, 0.7  # of what is described: least score, and the IoU from which it is the same
DESCRIBED = 2  # objects of each photograph


@dataclass(frozen=True)
class Photograph:
    """A file in `FOLDER`, who took it, on what terms it may be shown, and what is asked of it."""

    name: str
    by: str
    licence: str
    asked: tuple[str, ...]

    def read(self) -> NDArray[np.uint8]:
        """[H, W, 3] RGB."""
        return load_image(FOLDER / f"{self.name}.jpg")


PHOTOGRAPHS = (
    Photograph("coffee", "Rachel Michetti", "CC0 1.0", ("the cup", "wooden table", "the dog")),
    Photograph(
        "astronaut", "NASA", "public domain", ("woman in orange", "smiling woman", "the bus")
    ),
)


@dataclass(frozen=True)
class PhotoRow:
    """An expression, what kind of thing was chosen ("" if nothing is there), and how sure it is.

    ms: of the first expression with everything that is seen in the photograph.
    """

    picture: str
    expression: str
    kind: str
    score: float
    ms: float
    mask: NDArray[np.bool_]

    def cells(self) -> tuple[str, ...]:
        """Of a table: photograph, expression, answer, score, ms."""
        answer = self.kind or "nothing there"
        return self.picture, self.expression, answer, f"{self.score:.2f}", f"{self.ms:.0f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the mask."""
        told = {"picture": self.picture, "expression": self.expression, "empty": not self.kind}
        return {**told, "kind": self.kind, "score": round(self.score, 4), "ms": round(self.ms, 2)}


@dataclass(frozen=True)
class Said:
    """What was written about an object, and whether it refers back, by what margin."""

    picture: str
    kind: str
    expression: str
    refers_back: bool
    margin: float

    def cells(self) -> tuple[str, ...]:
        """Of a table: photograph, object, sentence, whether it refers back, margin."""
        back = "yes" if self.refers_back else "no"
        return self.picture, self.kind, self.expression, back, f"{self.margin:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "margin": round(self.margin, 4)}


@dataclass(frozen=True)
class PhotoShown:
    """One photograph with its answers, and what was written about its largest objects."""

    photograph: Photograph
    image: NDArray[np.uint8]
    rows: tuple[PhotoRow, ...]
    said: tuple[Said, ...]

    @property
    def name(self) -> str:
        """Of its picture file."""
        return f"photograph_{self.photograph.name}"

    def picture(self) -> bytes:
        """The masks over the photograph, as PNG."""
        texts = [f"{row.expression}  ({row.kind or 'nothing there'})" for row in self.rows]
        return draw.png(draw.overlay(self.image, [row.mask for row in self.rows], texts))


def show_photographs(model: Segmenter) -> Iterator[PhotoShown]:
    """Each of `PHOTOGRAPHS`, asked and described. Raises ModelError as the model's eyes do."""
    for photograph in PHOTOGRAPHS:
        image, predictor = photograph.read(), Predictor(model)
        start = time.perf_counter()
        predictor.set_image(image)
        looking = 1000 * (time.perf_counter() - start)
        rows = tuple(
            _row(predictor, photograph.name, text, looking * (place == 0))
            for place, text in enumerate(photograph.asked)
        )
        largest = sorted(_sure(predictor.propose()), key=lambda one: -int(one.mask.sum()))
        said = (
            one for found in largest[:DESCRIBED] for one in _said(predictor, photograph.name, found)
        )
        yield PhotoShown(photograph, image, rows, tuple(said))


def tell_photographs(page: Page, shown: Sequence[PhotoShown], model: str) -> None:
    """The sections about photographs on the page of the demonstration."""
    page.heading("Photographs")
    page.text(
        f"Ordinary photographs, asked in ordinary words; {model} answered. It finds objects of 80 "
        "kinds, draws them, and chooses by the words; where none of them is meant, it says so. "
        "The time of a photograph's first expression has the looking in it."
    )
    page.gallery((one.picture(), _credit(one.photograph)) for one in shown)
    page.table(
        ("photograph", "expression", "answer", "score", "ms"),
        (row.cells() for one in shown for row in one.rows),
    )
    page.text(
        "And the other way round, about the largest objects: does the sentence refer back to its "
        "object, and by what margin?"
    )
    page.table(
        ("photograph", "object", "written", "back", "margin"),
        (row.cells() for one in shown for row in one.said),
    )


def _credit(photograph: Photograph) -> str:
    return f"{photograph.name}: photograph by {photograph.by}, {photograph.licence}"


def _row(predictor: Predictor, name: str, text: str, spent: float) -> PhotoRow:
    """spent: ms before the question."""
    start = time.perf_counter()
    answer = predictor.segment(text)
    spent += 1000 * (time.perf_counter() - start)
    best = predictor.rank(text, keep=1)
    kind = "" if answer.empty or not best else best[0].proposal.category
    return PhotoRow(name, text, kind, answer.score, spent, answer.mask)


def _sure(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Those worth describing; a mask may have no pixel."""
    return distinct([one for one in proposals if one.score >= SURE and one.mask.any()], ALIKE)


def _said(predictor: Predictor, picture: str, found: Proposal) -> Iterator[Said]:
    """The best sentence about a proposal; none where the model has no words."""
    described = predictor.describe_region(found.mask, keep=1, verify=True)
    for best in described.expressions:
        assert best.refers_back is not None
        assert best.margin is not None
        yield Said(picture, found.category, best.text, best.refers_back, best.margin)
