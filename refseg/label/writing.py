"""Sentences for the objects of some pictures, as the lines of a shard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refseg.describe import Described, describe
from refseg.errors import DataError
from refseg.label.job import Line, PlannedImage
from refseg.label.options import LabelOptions
from refseg.models import Model
from refseg.types import Expression, Picture

DIGITS = 6
#: How `describe` begins to say that an object has no extent, or an image too many objects.
UNMATCHED = "no proposal stands for"


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
    found = _described(model, options, pictures, asked)
    for (place, ann_id), described in zip(about, found, strict=True):
        iou = described.iou
        yield {
            "image_id": images[place].image_id,
            "asked": ann_id,
            "iou": None if iou is None or math.isnan(iou) else round(float(iou), DIGITS),
            "expressions": [_told(sentence) for sentence in described.expressions],
        }


def _described(
    model: Model,
    options: LabelOptions,
    pictures: Sequence[Picture],
    asked: Sequence[tuple[int, int]],
) -> list[Described]:
    """`describe`, but an object that no proposal stands for gets nothing instead of an error.

    Its neighbours are asked again without it: first picture by picture, then one by one.
    """
    try:
        return describe(
            model,
            pictures,
            asked,
            beams=options.beams,
            keep=options.per_object,
            verify=options.verify,
        )
    except DataError as error:
        if UNMATCHED not in error.message:
            raise
        if len(asked) == 1:
            return [Described((), None, -1)]
    places = list(dict.fromkeys(place for place, _ in asked))
    parts = [[one for one in asked if one[0] == place] for place in places]
    if len(parts) == 1:
        parts = [[one] for one in asked]
    return [
        found
        for part in parts
        for found in _described(
            model, options, [pictures[part[0][0]]], [(0, row) for _, row in part]
        )
    ]


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
