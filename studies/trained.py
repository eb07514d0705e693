"""Variants of VEGA's recipe trained with paired seeds and scored.

Runs with the same seed see the same data in the same order for the same number of steps. Each run
is a folder of its own; a finished one is not trained again, an interrupted one goes on, and its
scores lie beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refseg import models
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Options, evaluate_all
from refseg.ops.files import atomic_write_json, sha256_file
from refseg.ops.masks import response_in_px
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.runner import run_recipe
from refseg.types import Prediction, Sample
from studies.auc import auc
from studies.base import STYLES, Training, open_scenes, say, slug
from studies.paired import Measures
from studies.questions import Objects
from studies.variants import TABLES

RECIPE = "vega_scenes"
PROTOCOL = "original"
CLS_MAP = "cls_similarity"


@dataclass(frozen=True)
class Trained:
    """One finished run's scores: the mean over the val splits. cls_auc: see `ClsMaps`."""

    variant: str
    seed: int
    steps: int
    mIoU: float  # noqa: N815  (the field's name of the metric)
    oIoU: float  # noqa: N815
    cls_auc: float | None
    n: int
    labels: str
    weights: str
    protocol: str = PROTOCOL
    data: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def train_all(training: Training, limit: int | None) -> list[Trained]:
    """Train and score every variant with every seed, seed by seed so that pairs finish early."""
    done = []
    for seed in training.seeds:
        for variant in training.variants:
            recipe = recipe_of(training, variant, seed)
            folder = training.folder / training.table / run_name(variant, seed, recipe.train.steps)
            say(f"{training.table}: {variant}, seed {seed}: {folder.name}")
            result = run_recipe(recipe, folder)
            done.append(_scores(variant, seed, recipe, result.model, limit))
    return done


def recipe_of(training: Training, variant: str, seed: int) -> Recipe:
    """The recipe with the variant's and the caller's overrides."""
    settings = [*TABLES[training.table][variant], *training.overrides, f"train.seed={seed}"]
    if training.steps is not None:
        settings.append(f"train.steps={training.steps}")
    return apply_overrides(get_recipe(RECIPE), settings)


def run_name(variant: str, seed: int, steps: int | None) -> str:
    """A folder's name that tells runs apart."""
    return f"{slug(variant)}-seed{seed}-steps{steps}"


def _scores(variant: str, seed: int, recipe: Recipe, model: Path, limit: int | None) -> Trained:
    """Of the exported weights; read from the run's folder when they were scored before."""
    weights = sha256_file(model / "model.safetensors")
    path = model.parent / f"scores-{limit or 'all'}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["weights"] == weights:
            return Trained(**{**kept, "variant": variant, "data": tuple(kept["data"])})
    loaded = models.load(model)
    reports, maps = [], []
    for style in STYLES:
        dataset = open_scenes(style, "val")
        keep = ClsMaps(dataset)
        reports += evaluate_all(loaded, dataset, [PROTOCOL], options=Options(limit, keep=keep))
        maps += keep.values
    found = Trained(
        variant,
        seed,
        int(recipe.train.steps or 0),
        float(np.mean([report.metrics["mIoU"] for report in reports])),
        float(np.mean([report.metrics["oIoU"] for report in reports])),
        float(np.mean(maps)) if maps else None,
        sum(report.n for report in reports),
        str(recipe.labels()),
        weights,
        data=tuple(f"{style} val" for style in STYLES),
    )
    atomic_write_json(path, found.to_json())
    return found


class ClsMaps:
    """AUC of the CLS token's similarity map against the true mask, expression by expression.

    The map is brought to px first. images: the picture of every value.
    """

    def __init__(self, dataset: ReferDataset) -> None:
        self._objects = Objects(dataset)
        self.values: list[float] = []
        self.images: list[int] = []

    def __call__(self, sample: Sample, prediction: Prediction, iou: float) -> None:
        """See `refseg.evaluate.Options.keep`."""
        scores = prediction.maps.get(CLS_MAP)
        if scores is None:
            return
        mask = self._objects.masks(sample.image_id, prediction.mask.shape)
        value = auc(response_in_px(scores, prediction.geometry), mask[self._objects.target(sample)])
        if value is not None:
            self.values.append(value)
            self.images.append(sample.image_id)


#: What variants are compared by; see `studies.paired`.
MEASURES: Measures[Trained] = {
    "mIoU": lambda one: one.mIoU,
    "oIoU": lambda one: one.oIoU,
    "CLS AUC": lambda one: one.cls_auc,
}
