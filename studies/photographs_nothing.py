"""Study "nothing": does a score tell that an image shows nothing of what is asked for?

Each image is asked its own expressions, and as many of other images of which it shows nothing:
their object's category is not annotated in it. The threshold is chosen on simulated detections of
the splits val: the greatest that refuses no more than `SPARED` of the own expressions. Photographs
tell what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.models import PHOTOS, Model
from refseg.types import ALL_LABELS, Sample
from studies.auc import auc
from studies.base import Outcome, learned_from, say
from studies.photographs_chain import check_judged
from studies.photographs_choice import LABELS, SETS, AmongDetections, check_left_out

SPARED = 0.05
#: Ways to score an answer: p(k) with "nothing" among the answers, and without.
SCORES = ("with nothing", "without")


@dataclass(frozen=True)
class Nothing:
    """What the study is asked. real: holds refcoco/ and refcoco+/, boxes alone; photos: the same
    with pixels. model, never: as in `photographs_choice.Choice`.
    """

    real: Path
    photos: Path
    model: str = PHOTOS
    never: frozenset[int] = frozenset()
    limit: int | None = None


def run(asked: Nothing) -> Outcome:
    """Scores of own and of foreign expressions, simulated and in photographs.

    Raises DataError (`check_left_out`, `check_judged`), ModelError where nothing has been pulled.
    """
    model = models.load(asked.model, eyes=False)
    check_left_out(asked.model, model.card, asked.never)
    chooser = AmongDetections(model)
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name in SETS:
        told = open_data(asked.real / name, "val", LABELS, objects=True, pixels=False)
        found[f"{name} val, simulated"] = scored(chooser.model, told, asked.limit)
    own = np.concatenate([one["own, with nothing"] for one in found.values()])
    least = threshold(own)
    say(f"nothing: below {least:.3f}")
    seeing = models.load(asked.model)
    for name in SETS:
        shown = open_data(asked.photos / name, "val", ALL_LABELS, objects=True)
        check_judged(shown, asked.never)
        found[f"{name} val, photographs"] = scored(seeing, shown, asked.limit)
    rows = [{"data": name, **measured(scores, least)} for name, scores in found.items()]
    data = [f"{name} val" for name in SETS]
    numbers = {"rows": rows, "least": least, "spared": SPARED}
    return Outcome(numbers, ["annotated objects"], data, learned_from(model), {"foreign": 0})


def threshold(own: NDArray[np.float64]) -> float:
    """The greatest value below which no more than `SPARED` of the scores `own` lie."""
    ordered = np.sort(own)
    return float(ordered[int(SPARED * len(ordered))])


def measured(scores: dict[str, NDArray[np.float64]], least: float) -> dict[str, Any]:
    """n, share of own and foreign expressions refused, and the area under the curve of both."""
    own, foreign = scores["own, with nothing"], scores["foreign, with nothing"]
    mine = np.repeat([True, False], [len(own), len(foreign)])
    areas = {
        way: auc(np.concatenate([scores[f"own, {way}"], scores[f"foreign, {way}"]]), mine)
        for way in SCORES
    }
    return {
        "n": len(own),
        "foreign": len(foreign),
        "own refused": float((own < least).mean()),
        "foreign refused": float((foreign < least).mean()),
        "AUC": areas["with nothing"],
        "AUC without": areas["without"],
    }


@torch.inference_mode()
def scored(
    model: Model, dataset: ReferDataset, limit: int | None
) -> dict[str, NDArray[np.float64]]:
    """Of own and foreign expressions, by each of `SCORES`: [n] of all images, in order."""
    method = model.method.eval()
    found: dict[str, list[NDArray[np.float64]]] = {
        f"{whose}, {way}": [] for whose in ("own", "foreign") for way in SCORES
    }
    for samples, own in questions(dataset, limit):
        batch = model.batch(samples, share_images=True)
        outputs = method(batch)
        chance = method.chances(outputs).amax(dim=1).double().numpy()
        plain = outputs.scores.softmax(dim=1).nan_to_num(0.0).amax(dim=1).double().numpy()
        for scores, name in ((chance, SCORES[0]), (plain, SCORES[1])):
            found[f"own, {name}"].append(scores[:own])
            found[f"foreign, {name}"].append(scores[own:])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def questions(
    dataset: ReferDataset, limit: int | None = None
) -> Iterator[tuple[list[Sample], int]]:
    """(expressions about one image, own first, number of own), image by image.

    Foreign ones are drawn anew from the whole split for each image, by its number.
    """
    entries = [dataset.entry(row) for row in range(len(dataset))]
    kinds = np.array([str(entry.category) for entry in entries])
    asked = 0
    for group in dataset.groups_by_image():
        if limit is not None and asked >= limit:
            return
        own = dataset.samples(group)
        objects = own[0].objects
        assert objects is not None
        able = np.flatnonzero(~np.isin(kinds, list(objects.categories or ())))
        rng = np.random.default_rng([0, own[0].image_id])
        rows = rng.choice(able, size=min(len(own), len(able)), replace=False)
        foreign = [replace(own[0], text=entries[row].text, key=f"foreign {row}") for row in rows]
        asked += len(own)
        yield [*own, *foreign], len(own)
