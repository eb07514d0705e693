"""Study "pictures": expressions of val from the picture to the mask (Figures A1 to A3), a row each.

Picture, entities in a colour for each Gaussian, their relevance to the expression, the three most
relevant, A_fuse x A_slot, the mask, the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg import draw
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Options, as_asked
from refseg.models import Model
from refseg.ops.masks import response_in_px, stretched
from refseg.steps import iou, spread
from refseg.types import Prediction, Sample
from studies.base import Outcome, open_scenes, say
from studies.plots import Cell, picture_grid, true_mask
from studies.sag_runs import BASE, Asked, told_labels, trained

PICTURE = "sag-entities.png"
ROWS = 6  # expressions that are drawn, evenly among those of val
#: Inner maps in the order in which they are drawn -> words below them.
MAPS = {
    "relevance": "relevance",
    "entity_1": "most relevant",
    "entity_2": "second",
    "entity_3": "third",
    "response": "A_fuse x A_slot",
}
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Gathered:
    """An expression and its answer. sample: with the truth, which the model did not see."""

    sample: Sample
    prediction: Prediction

    def cells(self) -> list[Cell]:
        """The row, left to right."""
        image, truth = self.sample.image, true_mask(self.sample)
        shown = self.maps()
        return [
            Cell(image, self.sample.text),
            Cell(draw.coloured(image, self.groups()), "entities, a colour a Gaussian"),
            *(Cell(draw.heat(image, shown[name]), MAPS[name]) for name in MAPS if name in shown),
            Cell(image, "mask", self.prediction.mask, iou=self.iou),
            Cell(image, "truth", truth),
        ]

    def groups(self) -> NDArray[np.int64]:
        """[H, W]: the Gaussian of the entity that has most of each patch."""
        found = response_in_px(
            self.prediction.maps["entities"], self.prediction.geometry, resample="nearest"
        )
        return found.astype(np.int64)

    def maps(self) -> dict[str, Maps]:
        """Name -> [H, W], each stretched to 0..1."""
        told = dict(self.prediction.maps)
        if self.prediction.response is not None:
            told["response"] = self.prediction.response
        in_px = {
            name: response_in_px(one, self.prediction.geometry)
            for name, one in told.items()
            if name in MAPS
        }
        return {name: stretched(one) for name, one in in_px.items()}

    @property
    def iou(self) -> float:
        """With the truth."""
        return iou(self.prediction.mask, true_mask(self.sample))

    def told(self) -> dict[str, Any]:
        """For the record."""
        groups = sorted(set(np.unique(self.groups()).tolist()))
        about = {"image": self.sample.image_id, "text": self.sample.text}
        return {**about, "Gaussians seen": groups, "IoU": self.iou}


def run(asked: Asked) -> Outcome:
    """Of the base, the first seed; trained if it is not yet."""
    seed = asked.seeds[0]
    model = trained(asked, BASE, seed)
    data = open_scenes("scenes", "val")
    say(f"pictures of {model.name}")
    rows = gathered(model.load(), data, chosen(data, asked.limit))
    png = picture_grid([row.cells() for row in rows], [str(n) for n in range(1, len(rows) + 1)])
    numbers = {
        "n": len(rows),
        "among": len(data.groups_by_image()),
        **model.identity(),
        "rows": [row.told() for row in rows],
    }
    labels = told_labels(asked, model)
    return Outcome(
        numbers, ["original"], ["scenes val"], labels, {"training": seed}, {PICTURE: png}
    )


def chosen(data: ReferDataset, limit: int | None = None) -> list[int]:
    """The first expression of pictures that lie evenly among the first so many."""
    first = [group[0] for group in data.groups_by_image()]
    return spread(first[:limit], ROWS)


def gathered(model: Model, data: ReferDataset, rows: Sequence[int]) -> list[Gathered]:
    """Expressions with their answers."""
    samples = data.samples(rows)
    found = model.predict([as_asked(sample, Options()) for sample in samples])
    return [Gathered(*one) for one in zip(samples, found, strict=True)]
