"""Study "chain": from a photograph and words to a mask, and what limits it.

The same heads with other eyes (studies/photographs_eyes.py): without colours, with the annotated
class of each detection, with the annotated objects in place of detections. Beside them what no
words are needed for, and a perfect choice among the same masks ("oracle").
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refseg import models
from refseg.baselines import NAMES, make_baseline
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.errors import DataError
from refseg.evaluate import Options, evaluate_all
from refseg.methods.mutual.model import MutualOutputs
from refseg.models import PHOTOS, Model
from refseg.nn.eyes import Eyes
from refseg.predict import Predictor
from refseg.pull.kept import pulled_folder
from refseg.types import ALL_LABELS, Prediction, Sample
from studies.base import Outcome, learned_from, say
from studies.photographs_choice import check_left_out
from studies.photographs_eyes import (
    Colourless,
    KnowsClasses,
    KnowsObjects,
    Remembering,
    annotations,
)

PROTOCOL = "original"
DATA = ("refcoco", "refcoco+")


@dataclass(frozen=True)
class Chain:
    """What the study is asked. real: holds refcoco/ and refcoco+/ with pixels. model: bundled name
    or folder. never: image ids that the model must not have seen.
    """

    real: Path
    model: str = PHOTOS
    never: frozenset[int] = frozenset()
    limit: int | None = None


def run(asked: Chain) -> Outcome:
    """Score all variants on every expression of the split val of both data sets.

    Raises DataError for a model that may have learned from the photographs, ModelError where
    nothing has been pulled.
    """
    model, eyes = models.load(asked.model), Eyes.load(pulled_folder(PHOTOS))
    check_left_out(asked.model, model.card, asked.never)
    real, rows, photographs = Remembering(eyes), [], set[str]()
    for name in DATA:
        dataset = open_data(asked.real / name, "val", ALL_LABELS, objects=True)
        check_judged(dataset, asked.never)
        objects = annotations(dataset)
        photographs |= objects.keys()
        told: dict[str, Any] = {
            "photos": real,
            "without colours": Colourless(real),
            "classes known": KnowsClasses(real, objects),
            "objects known": KnowsObjects(eyes, objects),
        }
        for baseline in NAMES:
            rows.append(_scores(name, baseline, make_baseline(baseline, dataset), dataset, asked))
        model.method.see_by(_given(real))
        rows.append(_scores(name, "largest detection", Largest(model), dataset, asked))
        for variant, kind in told.items():
            model.method.see_by(_given(kind))
            rows.append(_scores(name, variant, model, dataset, asked))
    model.method.see_by(_given(eyes))
    timed = [open_data(asked.real / name, "val", ALL_LABELS) for name in DATA]
    taken = seconds(model, timed, asked.limit)
    data = [f"{name} val, photographs" for name in DATA]
    numbers = {"rows": rows, "photographs": len(photographs), "seconds": taken}
    return Outcome(numbers, [PROTOCOL], data, learned_from(model), {"bootstrap": 0})


def seconds(
    model: Model, datasets: Sequence[ReferDataset], limit: int | None = None
) -> dict[str, float | None]:
    """Medians: of the first expression about a photograph with everything that is seen, and of each
    further one; None where no photograph has two. limit: photographs of each data set.
    """
    first, further = [], []
    for dataset in datasets:
        for group in dataset.groups_by_image()[:limit]:
            samples, predictor = dataset.samples(group), Predictor(model)
            start = time.perf_counter()
            predictor.set_image(samples[0].image).segment(samples[0].text)
            first.append(time.perf_counter() - start)
            for sample in samples[1:]:
                start = time.perf_counter()
                predictor.segment(sample.text)
                further.append(time.perf_counter() - start)
    return {
        "first": statistics.median(first),
        "further": statistics.median(further) if further else None,
    }


def check_judged(dataset: ReferDataset, never: frozenset[int]) -> None:
    """Raise DataError for photographs that are not among those that were left out."""
    ids = {dataset.entry(group[0]).image_id for group in dataset.groups_by_image()}
    if ids - never:
        raise DataError(
            f"{dataset.name}: images {sorted(ids - never)[:5]} were not kept out of training",
            remedy="name the file that lists all that judge with --never",
        )


def _given(eyes: Any) -> Callable[[], Any]:
    return lambda: eyes


def _scores(name: str, variant: str, answers: Any, dataset: Any, asked: Chain) -> dict[str, Any]:
    (report,) = evaluate_all(answers, dataset, [PROTOCOL], options=Options(asked.limit))
    say(f"chain: {name}: {variant}: mIoU {report.metrics['mIoU']:.3f}")
    return {"data": name, "variant": variant, **report.to_json()}


class Largest:
    """The largest detection, whatever the words say."""

    def __init__(self, model: Model) -> None:
        self.model, self.name = model, "largest detection"
        self.card = {"labels used": "none"}

    @torch.inference_mode()
    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample."""
        model = self.model
        batch = model.batch(samples, share_images=True)
        proposals = model.method.propose(batch)
        areas = (proposals.boxes[..., 2:] - proposals.boxes[..., :2]).prod(dim=-1)
        scores = areas.masked_fill(~proposals.there, -torch.inf)[batch.image_of]
        answers: list[Prediction] = model.method.decode(MutualOutputs(proposals, scores), batch)
        return answers
