"""Study "choice": which object is meant, among those annotated and among simulated detections.

No picture is looked at, so no colour is seen: what the heads know of words and places alone. Of
detections a choice is right whose box overlaps the object by half, more than any other object; an
object that was not detected cannot be chosen and counts as missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refseg import models
from refseg.data.catalog import open_data
from refseg.errors import DataError
from refseg.evaluate import Options
from refseg.evaluate_objects import PROTOCOL, evaluate_objects
from refseg.methods.mutual.annotated import relative_boxes
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import MATCHED
from refseg.methods.mutual.things import box_overlap
from refseg.models import PHOTOS, Model
from refseg.recipes.training import LEFT_OUT, left_out
from refseg.types import Labels, Sample
from studies.base import Outcome, learned_from, say

LABELS = Labels.parse("text+box+category")
SETS, SPLITS = ("refcoco", "refcoco+"), ("val", "testA", "testB")


@dataclass(frozen=True)
class Choice:
    """What the study is asked. real: holds refcoco/ and refcoco+/, boxes alone. never: image ids
    that the model was not trained on, besides those of the splits.
    """

    real: Path
    model: str = PHOTOS
    never: frozenset[int] = frozenset()
    limit: int | None = None


class ByBox:
    """A model whose choice among detections is told as one of the annotated objects."""

    def __init__(self, model: Model) -> None:
        self.model, self.name, self.card = model, model.name, model.card

    @torch.inference_mode()
    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Per sample [K] float32: 0 for the object whose detection was chosen, -inf for others."""
        method = self.model.method.eval()
        batch = self.model.batch(samples, share_images=True)
        outputs = method(batch)
        assert outputs.scores is not None
        best = outputs.proposals.boxes[batch.image_of, outputs.scores.argmax(dim=1)]
        objects = objects_of(batch)
        boxes = relative_boxes(objects)[batch.image_of].nan_to_num()
        overlap = box_overlap(boxes, best[:, None])[..., 0]  # [B, K]
        there = outputs.proposals.there[batch.image_of].any(dim=1)
        fit, chosen = overlap.max(dim=1)
        told = torch.full_like(overlap, -torch.inf)
        hit = torch.nonzero((fit >= MATCHED) & there)[:, 0]
        told[hit, chosen[hit]] = 0
        counts = objects.known.sum(dim=1)[batch.image_of].tolist()
        return [row[:k] for row, k in zip(told.numpy(), counts, strict=True)]


class AmongDetections(ByBox):
    """A model that is shown simulated detections of the annotated objects."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        extractor = model.method.extractor
        extractor.config = extractor.config.model_copy(update={"simulate": "always"})


def check_left_out(name: str, card: Mapping[str, Any], never: frozenset[int]) -> None:
    """Raise DataError for a model, `name`, whose card does not say that it never saw `never`."""
    told, wanted = card.get(LEFT_OUT), left_out(never)
    if never and told != wanted:
        raise DataError(
            f"{name}: its card says of images left out of training: {told}; those that judge are "
            f"{wanted}",
            remedy='train it with --set "data.exclude_images=[...]", all ids of the file',
        )


def run(asked: Choice) -> Outcome:
    """Accuracy on every split of both data sets, both ways. Raises DataError (`check_left_out`)."""
    check_left_out(asked.model, models.load(asked.model).card, asked.never)
    rows: list[dict[str, Any]] = []
    for among in ("annotated objects", "simulated detections"):
        model = models.load(asked.model, eyes=False)
        chooser: Any = model if among == "annotated objects" else AmongDetections(model)
        for name in SETS:
            for split in SPLITS:
                dataset = open_data(asked.real / name, split, LABELS, objects=True, pixels=False)
                report = evaluate_objects(chooser, dataset, options=Options(asked.limit))
                rows.append({"among": among, **report.to_json()})
                say(f"choice: {among}: {name} {split}: {report.metrics['accuracy']:.3f}")
    data = [f"{name} {split}" for name in SETS for split in SPLITS]
    seeds = {"simulation": 0, "bootstrap": 0}
    numbers = {"rows": rows, "never": len(asked.never)}
    return Outcome(numbers, [PROTOCOL], data, learned_from(model), seeds)
