"""Study "small": how small may a thing be until the heads take it for absent?

RefCOCO describes nothing under 5 % of its picture. So all boxes of each picture are shrunk together
towards its middle: what is asked, and how the things lie to one another, stays the same. Among
annotated objects, no picture is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refseg import models
from refseg.data.catalog import open_data
from refseg.models import PHOTOS, Model
from refseg.types import Sample
from studies.base import Outcome, learned_from, say
from studies.photographs_choice import LABELS, SETS, check_left_out

SIDES = (1.0, 0.7, 0.5, 0.35, 0.25)  # of what they were
AT_ONCE = 256  # expressions


@dataclass(frozen=True)
class Small:
    """What the study is asked; as `photographs_choice.Choice`. limit: of each data set."""

    real: Path
    model: str = PHOTOS
    never: frozenset[int] = frozenset()
    limit: int | None = None


def run(asked: Small) -> Outcome:
    """Accuracy and refusals on both splits val at each of `SIDES`. Raises DataError."""
    model = models.load(asked.model, eyes=False)
    check_left_out(asked.model, model.card, asked.never)
    rows: list[dict[str, Any]] = []
    for name in SETS:
        dataset = open_data(asked.real / name, "val", LABELS, objects=True, pixels=False)
        samples = dataset.samples(range(min(len(dataset), asked.limit or len(dataset))))
        samples = [one for one in samples if one.target is not None]
        for side in SIDES:
            told = measured(model, [shrunk(one, side) for one in samples])
            rows.append({"data": f"{name} val", "side": side, **told})
            say(f"small: {name}: {side}: {told['accuracy']:.3f}, {told['refused']:.3f} refused")
    numbers = {"rows": rows, "least": model.min_score}
    data = [f"{name} val" for name in SETS]
    return Outcome(numbers, ["annotated objects"], data, learned_from(model))


def shrunk(sample: Sample, side: float) -> Sample:
    """The sample with its objects' boxes `side` times as large, towards the middle (px)."""
    objects = sample.objects
    assert objects is not None
    assert objects.boxes_xyxy is not None
    height, width = sample.image.shape[:2]
    middle = np.array([width, height] * 2, np.float32) / 2
    boxes = middle + np.float32(side) * (objects.boxes_xyxy - middle)
    return replace(sample, objects=replace(objects, boxes_xyxy=boxes))


@torch.inference_mode()
def measured(model: Model, samples: Sequence[Sample]) -> dict[str, float]:
    """n, the median share of the picture that is meant, accuracy of the choice (refused or not),
    and the share that is refused at the model's own `min_score`.
    """
    method = model.method.eval()
    hits, refused, shares = [], [], []
    for start in range(0, len(samples), AT_ONCE):
        chunk = samples[start : start + AT_ONCE]
        outputs = method(model.batch(chunk, share_images=True))
        best = method.chances(outputs).amax(dim=1)
        refused += (best < model.min_score).tolist()
        targets = [one.target for one in chunk]
        hits += [
            a == b for a, b in zip(outputs.scores.argmax(dim=1).tolist(), targets, strict=True)
        ]
        shares += [_share(one) for one in chunk]
    return {
        "n": len(samples),
        "share": float(np.median(shares)),
        "accuracy": float(np.mean(hits)),
        "refused": float(np.mean(refused)),
    }


def _share(sample: Sample) -> float:
    """Of the picture, by the box of what is meant."""
    assert sample.objects is not None
    assert sample.objects.boxes_xyxy is not None
    assert sample.target is not None
    x0, y0, x1, y1 = sample.objects.boxes_xyxy[sample.target].tolist()
    height, width = sample.image.shape[:2]
    return (x1 - x0) * (y1 - y0) / (height * width)
