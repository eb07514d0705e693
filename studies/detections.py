"""What the detector tells of annotated objects, as `refseg.methods.mutual.simulated.Records`.

records_of(photos)      Photo: what is annotated and what is detected -> Records
compared(photos, folds) simulated detections beside real ones, on photos that are not in the pool
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refseg.methods.mutual.coco import COCO_CLASSES
from refseg.methods.mutual.simulated import Records, Simulation, size_bins
from refseg.methods.mutual.things import Things, surest
from refseg.ops.boxes import box_area, box_iou

#: Overlap from which a detection is told as one of the annotated object that it overlaps most.
ATTACHED = 0.2
LEAST = 0.05  # probability below which a detection is not kept
LARGE = 0.03  # of the picture: few smaller objects are referred to
OF_ONE, BESIDE, TOLD = 6, 24, 5  # D, E, P


@dataclass(frozen=True)
class Photo:
    """Boxes xyxy in 0..1 of the photograph. kinds: [K], ann_ids: [K], boxes: [K, 4] of what is
    annotated, crowds left out, looks: [K, A] their colours; found: [N, 4] and chances: [N, Q] of
    what is detected, surest first.
    """

    ann_ids: NDArray[np.int64]
    kinds: NDArray[np.int64]
    boxes: NDArray[np.float32]
    looks: NDArray[np.float32]
    found: NDArray[np.float32]
    chances: NDArray[np.float32]
    image_id: int = -1


def records_of(photos: Sequence[Photo]) -> Records:
    """The detections of each annotated object, and those beside, of the photos."""
    kinds, areas, looks, own, beside, origin = [], [], [], [], [], []
    for number, photo in enumerate(photos):
        best, overlap = _attached(photo)
        kinds += photo.kinds.tolist()
        areas += box_area(photo.boxes).tolist()
        looks += list(photo.looks)
        origin += [number] * len(photo.kinds)
        for row, box in enumerate(photo.boxes):
            rows = np.flatnonzero((best == row) & (overlap >= ATTACHED))[:OF_ONE]
            own.append(_told(_differences(photo.found[rows], box), photo.chances[rows], OF_ONE))
        rows = np.flatnonzero(overlap < ATTACHED)[:BESIDE]
        beside.append(_told(photo.found[rows], photo.chances[rows], BESIDE))
    bins, seen = size_bins(torch.tensor(areas)), torch.from_numpy(np.stack(looks))
    told = (*_stacked(own), *_stacked(beside), seen)
    return Records(torch.tensor(kinds), bins, *told, torch.tensor(origin))


def _attached(photo: Photo) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """[N] the annotated object that each detection overlaps most, and by how much; -1 and 0."""
    if not len(photo.boxes):
        return np.full(len(photo.found), -1), np.zeros(len(photo.found))
    overlap = box_iou(photo.found, photo.boxes)
    return overlap.argmax(axis=1), overlap.max(axis=1)


def _differences(found: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `Records.boxes`."""
    size, sizes = box[2:] - box[:2], found[:, 2:] - found[:, :2]
    shift = ((found[:, :2] + found[:, 2:]) - (box[:2] + box[2:])) / 2 / size
    return np.concatenate([shift, np.log(sizes / size)], axis=1).astype(np.float32)


Told = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]


def _told(boxes: NDArray[np.float32], chances: NDArray[np.float32], places: int) -> Told:
    """boxes [n, 4], chances [n, Q] -> [places, 4], [places, P] classes and their chances."""
    kept = np.zeros((places, 4), np.float32)
    classes, values = np.zeros((places, TOLD), np.int64), np.zeros((places, TOLD), np.float32)
    kept[: len(boxes)] = boxes
    order = np.argsort(-chances, axis=1, kind="stable")[:, :TOLD]
    classes[: len(boxes)] = order
    values[: len(boxes)] = np.take_along_axis(chances, order, axis=1)
    return kept, classes, values


def _stacked(told: Sequence[Told]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*told, strict=True))


# -- is the simulation like the detector? ----------------------------------------------------------


def compared(
    photos: Sequence[Photo], leasts: Sequence[float], folds: int = 4
) -> list[dict[str, Any]]:
    """Rows of what is told about the objects of photos, by the detector and by a simulation that
    draws from the other folds' photos, for each least probability of a detection.
    """
    rows = []
    photos = [photo for photo in photos if len(photo.kinds)]
    parts = [photos[first::folds] for first in range(folds)]
    pools = [[p for other in parts if other is not part for p in other] for part in parts]
    simulations = [Simulation.of(records_of(pool), len(COCO_CLASSES)) for pool in pools]
    for least in leasts:
        real = [(photo, as_things(photo)) for part in parts for photo in part]
        drawn = [
            (photo, simulated(photo, simulation))
            for part, simulation in zip(parts, simulations, strict=True)
            for photo in part
        ]
        for name, pairs in (("detector", real), ("simulated", drawn)):
            told = [(photo, surest(things, least, 64)) for photo, things in pairs]
            rows.append({"least": least, "source": name, **measured(told)})
    return rows


def as_things(photo: Photo) -> Things:
    """What is detected, I = 1."""
    there = torch.ones(1, len(photo.found), dtype=torch.bool)
    return Things.unseen(
        torch.from_numpy(photo.found)[None], torch.from_numpy(photo.chances)[None], there
    )


def annotated(photo: Photo) -> Things:
    """What is annotated, I = 1."""
    classes = torch.eye(len(COCO_CLASSES))[torch.from_numpy(photo.kinds)][None]
    there = torch.ones(1, len(photo.kinds), dtype=torch.bool)
    return Things.unseen(torch.from_numpy(photo.boxes)[None], classes, there)


def simulated(photo: Photo, simulation: Simulation) -> Things:
    """What the simulation makes of what is annotated, I = 1."""
    return simulation(annotated(photo), torch.from_numpy(photo.ann_ids)[None], 0)


def found_of(photo: Photo, things: Things) -> NDArray[np.bool_]:
    """Whether each object that covers 3 % or more is found (IoU 0.5)."""
    _, overlap = _large(photo, things)
    return (overlap >= 0.5).any(axis=1)


def _large(photo: Photo, things: Things) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """[K] which objects cover 3 % or more, and their overlaps with what is detected [n, N]."""
    large = box_area(photo.boxes) >= LARGE
    return large, box_iou(photo.boxes[large], things.boxes[0][things.there[0]].numpy())


def measured(told: Sequence[tuple[Photo, Things]]) -> dict[str, float]:
    """Of all photos: detections a photo; of objects that cover `LARGE` or more: the share that
    is found (IoU 0.5), and of these the share whose class is the likeliest, the mean IoU of the
    best box, its mean probability, and the detections of IoU 0.5.
    """
    counts, found, right, fits, sure, doubles = [], [], [], [], [], []
    for photo, things in told:
        classes = things.classes[0][things.there[0]].numpy()
        counts.append(len(classes))
        large, overlap = _large(photo, things)
        for kind, row in zip(photo.kinds[large], overlap, strict=True):
            best = int(row.argmax()) if len(row) else -1
            found.append(best >= 0 and row[best] >= 0.5)
            if found[-1]:
                right.append(classes[best].argmax() == kind)
                fits.append(row[best])
                sure.append(classes[best].max())
                doubles.append((row >= 0.5).sum())
    values = zip(
        ("detections a photo", "found", "class right", "IoU", "probability", "detections of it"),
        (counts, found, right, fits, sure, doubles),
        strict=True,
    )
    return {name: float(np.mean(value)) if value else float("nan") for name, value in values}
