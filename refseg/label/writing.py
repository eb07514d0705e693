"""Sentences for the objects of some pictures, as the lines of a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refseg.describe import describe
from refseg.label.job import Line, PlannedImage
from refseg.label.options import LabelOptions
from refseg.models import Model
from refseg.types import Expression, Picture

DIGITS = 6


def write_lines(
    model: Model,
    options: LabelOptions,
    images: Sequence[PlannedImage],
    pictures: Sequence[Picture],
) -> Iterator[Line]:
    """A line for each object asked for. iou: see `refseg.describe.Described`.

    With `options.verify` the sentences come with what the model's own selection head says of them.
    """
    about = [(place, ann_id) for place, image in enumerate(images) for ann_id in image.asked]
    asked = [(place, _row(pictures[place], ann_id)) for place, ann_id in about]
    found = describe(
        model,
        pictures,
        asked,
        beams=options.beams,
        keep=options.per_object,
        verify=options.verify,
        strict=False,
    )
    for (place, ann_id), described in zip(about, found, strict=True):
        yield {
            "image_id": images[place].image_id,
            "asked": ann_id,
            "iou": None if described.iou is None else round(described.iou, DIGITS),
            "expressions": [_told(sentence) for sentence in described.expressions],
        }


def _told(sentence: Expression) -> dict[str, Any]:
    told: dict[str, Any] = {"text": sentence.text, "score": round(float(sentence.score), DIGITS)}
    if sentence.refers_back is not None:
        told["refers_back"] = bool(sentence.refers_back)
    if sentence.margin is not None:
        told["margin"] = round(float(sentence.margin), DIGITS)
    return told


def _row(picture: Picture, ann_id: int) -> int:
    assert picture.objects is not None
    return int(np.flatnonzero(picture.objects.ann_ids == ann_id)[0])
