"""Telling answers of a scored model as pictures, each with what the method tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from refseg import draw
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Options, Report, as_asked
from refseg.explain import inner_pictures
from refseg.models import Model
from refseg.rank import KEEP, Ranked, likeliest, ranks
from refseg.types import Prediction, Sample

CASES = 4  # pictures of each kind
SIDE, INNER_SIDE = 640, 300  # px of a picture's longer side, and of one of the method's own


@dataclass(frozen=True)
class Case:
    """One scored expression as a picture (PNG): the mask tinted, the truth outlined.

    inner: smaller ones (PNG and caption) of what the method tells of its answer, as
    `refseg predict --explain` has them; none where it tells nothing.
    """

    kind: str
    text: str
    iou: float
    png: bytes
    inner: Sequence[tuple[bytes, str]] = ()


def telling_cases(model: Model, dataset: ReferDataset, report: Report) -> list[Case]:
    """The worst, the middle and the best expressions of a report, asked again for their picture."""
    order = np.argsort(np.asarray(report.samples["iou"]), kind="stable")
    count = min(CASES, len(order))
    middle = max((len(order) - count) // 2, 0)
    picked = {
        "worst": order[:count],
        "middle": order[middle : middle + count],
        "best": order[::-1][:count],
    }
    keys = {report.samples["key"][i] for ranks in picked.values() for i in ranks}
    row_of = {key: row for row in range(len(dataset)) if (key := dataset.entry(row).key) in keys}
    return [
        _case(kind, model, dataset[row_of[report.samples["key"][i]]], report.samples["iou"][i])
        for kind, ranks in picked.items()
        for i in ranks
    ]


def _case(kind: str, model: Model, sample: Sample, iou: float) -> Case:
    asked = as_asked(sample, Options())
    prediction = model.predict([asked])[0]
    truth = np.zeros_like(prediction.mask) if sample.mask is None else sample.mask
    picture = draw.small_png(draw.compare(sample.image, prediction.mask, truth), SIDE)
    return Case(kind, sample.text, iou, picture, _inner(model, asked, prediction))


def _inner(model: Model, asked: Sample, prediction: Prediction) -> list[tuple[bytes, str]]:
    return [
        (draw.small_png(one.pixels, INNER_SIDE), "\n".join(one.lines))
        for one in inner_pictures(asked.image, prediction, _ranked(model, asked))
    ]


@torch.inference_mode()
def _ranked(model: Model, asked: Sample) -> tuple[Ranked, ...] | None:
    """What it was chosen among; None for a model that does not choose."""
    if not ranks(model):
        return None
    batch = model.batch([asked]).to(model.device)
    return likeliest(model, model.method.encode_image(batch), batch, KEEP)
