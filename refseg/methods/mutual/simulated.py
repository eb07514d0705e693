"""What a detector makes of annotated objects, drawn from what one has made of others.

The heads are to choose among detections, and the data that teach them words have boxes but no
pixels. So the detector was run once on photographs with annotated objects, and what it told about
each of them is kept (`Records`): misses, shifted boxes, doubtful and wrong classes, the same thing
told twice, parts and heaps; and what it saw where nothing is annotated. A `Simulation` gives each
object what some object like it got, by class and size, and the image what some image got beside.
The records are made by `python -m studies.photographs detections`.

A draw is a function of (object id, salt): with one salt the same object always meets the same
fate, whatever else is in the batch; its colours hang on what the batch tells, too. This is ours;
the paper has nothing like it.
Letters: I images, K objects, Q classes, R records of objects, D detections of one, S images with
E detections beside their objects, P classes told of a detection, M records for a class and size,
A numbers that tell of colours.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from refseg.errors import ModelError
from refseg.methods.mutual.draws import drawn
from refseg.methods.mutual.simulated_looks import draw_looks
from refseg.methods.mutual.things import Things, box_overlap

#: Edges of the size bins: share of the image that an object's box covers.
SIZES = (0.01, 0.03, 0.1, 0.3)
CANDIDATES = 128  # M
#: A class with so many records of a size is half drawn from them, half from all of that size.
HALF = 6.0


@dataclass(frozen=True)
class Records:
    """What a detector told of objects and beside them.

    kinds, bins: [R] int64, class and size bin of each object. boxes: [R, D, 4] float32, how each
    detection differs from its object: shifts of the centre by the object's width and height, and
    logarithms of the ratios of the sizes. classes, chances: [R, D, P] int64 and float32, the
    likeliest classes first, and their probabilities; a first chance of 0 is no detection.
    beside_boxes: [S, E, 4] float32, xyxy in 0..1. beside_classes, beside_chances: [S, E, P].
    looks: [R, A] float32, colours of each object (`Things.looks`). photos: [R] int64, which of the
    S images each object is from.
    """

    kinds: Tensor
    bins: Tensor
    boxes: Tensor
    classes: Tensor
    chances: Tensor
    beside_boxes: Tensor
    beside_classes: Tensor
    beside_chances: Tensor
    looks: Tensor
    photos: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def save(self, path: Path) -> None:
        """As .npz, small: half precision, short integers, shares of colours in steps of 1/255."""
        parts = {f.name: getattr(self, f.name).numpy() for f in fields(self)}
        parts["looks"] = (parts["looks"] * 255).round().astype(np.int64)
        small = {
            k: v.astype(np.float16 if v.dtype.kind == "f" else np.uint16) for k, v in parts.items()
        }
        with path.open("wb") as file:  # given a name, NumPy would add its own ending
            np.savez_compressed(file, **small)

    @classmethod
    def read(cls, path: Path) -> Records:
        """Raises ModelError where the file is absent or something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {f.name: file[f.name] for f in fields(cls)}
        except (OSError, EOFError, KeyError, ValueError, BadZipFile, zlib.error) as error:
            raise ModelError(
                f"{path}: no records of a detector ({type(error).__name__})",
                remedy="install refseg again: the file is a part of it",
            ) from None
        parts["looks"] = parts["looks"].astype(np.float32) / 255
        return cls(
            **{
                k: torch.from_numpy(v.astype(np.float32 if v.dtype.kind == "f" else np.int64))
                for k, v in parts.items()
            }
        )


def size_bins(areas: Any) -> Any:
    """Shares of the image -> bins, 0..len(SIZES); of a tensor."""
    return torch.bucketize(areas, torch.tensor(SIZES, device=areas.device), right=True)


@dataclass(frozen=True)
class Simulation:
    """Records, and which of them may stand for what.

    like: [Q, len(SIZES) + 1, M] int64, rows of the records for an object of each class and size.
    company: [Q, M] int64, of the S images, for an image whose most frequent class is each.
    """

    records: Records
    like: Tensor
    company: Tensor

    @classmethod
    def of(cls, records: Records, classes: int) -> Simulation:
        """classes: Q."""
        return cls(records, _candidates(records, classes), _company(records, classes))

    def to(self, device: torch.device) -> Simulation:
        """The same on another device."""
        moved = Records(*(getattr(self.records, f.name).to(device) for f in fields(Records)))
        return Simulation(moved, self.like.to(device), self.company.to(device))

    def __call__(
        self, things: Things, ids: Tensor, salt: int, colours: Tensor | None = None
    ) -> Things:
        """What is detected where `things` [I, K] are annotated, K * D + E places an image.

        ids: [I, K] int64, of the objects. colours: [I, K, ZONES, 11] float32, those that words tell
        of them; then everything is looked at (`draw_looks`), else nothing. Nothing is sorted, and
        none too doubtful (`surest`).
        """
        own = self._of_objects(things, ids, salt, colours)
        beside = self._beside(things, ids, salt, colours is not None)
        parts = ((getattr(own, f.name), getattr(beside, f.name)) for f in fields(Things))
        return Things(*(torch.cat(pair, dim=1) for pair in parts))

    def _of_objects(self, things: Things, ids: Tensor, salt: int, colours: Tensor | None) -> Things:
        records, kind = self.records, things.classes.argmax(dim=-1)
        near, far = things.boxes[..., :2], things.boxes[..., 2:]
        size, centre = far - near, (near + far) / 2
        like = self.like[kind, size_bins(size.prod(dim=-1))]  # [I, K, M]
        row = like.gather(2, drawn(ids, salt, like.shape[2])[..., None])[..., 0]  # [I, K]
        shift = records.boxes[row]  # [I, K, D, 4]
        centre = centre[:, :, None] + shift[..., :2] * size[:, :, None]
        half = shift[..., 2:].exp() * size[:, :, None] / 2
        boxes = torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1)
        classes = _exchanged(records.classes[row], records.kinds[row], kind)
        chances = records.chances[row]
        there = things.there[..., None] & (chances[..., 0] > 0)
        parts = boxes, self._spread(classes, chances), there
        found = Things.unseen(*(part.flatten(1, 2) for part in parts))
        if colours is not None:
            told = colours * things.there[..., None, None]  # what is left out is nobody's rival
            looks = draw_looks(
                records.looks, records.kinds, kind, ids, told, salt, there=things.there
            )
            looks = self._of_parts(looks, things.boxes, boxes, ids, salt).flatten(1, 2)
            found = replace(found, looks=looks, looked=torch.ones_like(found.there))
        return found.only(found.there)

    def _of_parts(
        self, looks: Tensor, objects: Tensor, boxes: Tensor, ids: Tensor, salt: int
    ) -> Tensor:
        """Colours [I, K, D, A] of detections of objects that have `looks` [I, K, A].

        The less a detection overlaps its object, the more it has of something else.
        """
        places = ids[..., None] * boxes.shape[2] + torch.arange(boxes.shape[2], device=ids.device)
        other = self.records.looks[drawn(places, salt ^ 0x07E4, len(self.records))]
        fit = box_overlap(objects.flatten(0, 1)[:, None], boxes.flatten(0, 1))[:, 0]
        fit = fit.view(*ids.shape, -1, 1)
        return looks[:, :, None] * fit + other * (1 - fit)

    def _beside(self, things: Things, ids: Tensor, salt: int, looked: bool) -> Things:
        records, nobody = self.records, torch.iinfo(torch.int64).max
        first = ids.masked_fill(~things.there, nobody).amin(dim=1)
        company = self.company[things.classes.sum(dim=1).argmax(dim=1)]  # [I, M]
        row = company.gather(1, drawn(first, salt ^ 0x5EED, company.shape[1])[:, None])[:, 0]
        boxes, chances = records.beside_boxes[row], records.beside_chances[row]
        there = (chances[..., 0] > 0) & (first < nobody)[:, None]
        classes = self._spread(records.beside_classes[row], chances)
        found = Things.unseen(boxes, classes, there)
        if looked:
            size = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
            like = self.like[records.beside_classes[row][..., 0], size_bins(size)]  # [I, E, M]
            places = first[:, None] + torch.arange(there.shape[1], device=first.device)
            column = drawn(places, salt ^ 0xC0105, like.shape[2])[..., None]
            looks = records.looks[like.gather(2, column)[..., 0]]
            found = replace(found, looks=looks, looked=torch.ones_like(there))
        return found.only(there)

    def _spread(self, numbers: Tensor, chances: Tensor) -> Tensor:
        """numbers, chances [..., P] -> [..., Q]."""
        whole = chances.new_zeros(*chances.shape[:-1], len(self.like))
        return whole.scatter_reduce(-1, numbers, chances, "amax")


def _exchanged(told: Tensor, theirs: Tensor, ours: Tensor) -> Tensor:
    """Classes told [I, K, D, P] of objects of the class `theirs` [I, K], as of the class `ours`."""
    theirs, ours = theirs[..., None, None], ours[..., None, None]
    return torch.where(told == theirs, ours, torch.where(told == ours, theirs, told))


def _company(records: Records, classes: int) -> Tensor:
    """[Q, M] images that hold an object of each class, or any where none does."""
    company = torch.zeros(classes, CANDIDATES, dtype=torch.int64)
    every = torch.arange(len(records.beside_boxes))
    for kind in range(classes):
        own = torch.unique(records.photos[records.kinds == kind])
        company[kind] = _spaced(own if len(own) else every, CANDIDATES)
    return company


def _candidates(records: Records, classes: int) -> Tensor:
    """[Q, bins, M]: of n records of a class and size n / (n + HALF) of M, else any of the size.

    Spread evenly, in the order of the records: no draw is needed.
    """
    like = torch.zeros(classes, len(SIZES) + 1, CANDIDATES, dtype=torch.int64)
    for size in range(like.shape[1]):
        every = _or_all(torch.nonzero(records.bins == size)[:, 0], records)
        for kind in range(classes):
            own = torch.nonzero((records.bins == size) & (records.kinds == kind))[:, 0]
            count = round(CANDIDATES * len(own) / (len(own) + HALF))
            like[kind, size] = torch.cat([_spaced(own, count), _spaced(every, CANDIDATES - count)])
    return like


def _or_all(rows: Tensor, records: Records) -> Tensor:
    return rows if len(rows) else torch.arange(len(records))


def _spaced(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows at even spaces, each as often as need be."""
    return rows[torch.arange(count) * len(rows) // max(count, 1)] if count else rows[:0]
