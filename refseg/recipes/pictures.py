"""Pictures of a rendered world with their objects' boxes and attributes: what an encoder learns
to see from.

This departs from the labels contract, and openly so: `scenes.jsonl`, the world's own record of
every object in it, is read beside the data set and not through it. It stands for ImageNet, whose
labels no benchmark's contract covers either; no method reads it, and an encoder learned from it
says so ("box+attributes") to whoever starts from it. See docs/decisions/0018.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from refseg.data.catalog import find_folder, open_data
from refseg.data.collate import normalise
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, SIZES, SceneObject
from refseg.data.scenes.serial import read_scenes
from refseg.data.transforms import PreprocessConfig
from refseg.errors import DataError
from refseg.methods.encoders.objects import ObjectBatch, ObjectNamer
from refseg.types import Labels

#: Attribute -> its values, in the order of `ObjectNamerConfig.classes`.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "size": SIZES,
    "material": MATERIALS,
    "pattern": PATTERNS,
}
#: An object narrower than this (px of the net image) has nothing to show.
NARROWEST = 3.0


def world_record(name: str) -> Path:
    """The file that lists every object of a rendered world. Raises DataError for other data."""
    folder = find_folder(name)
    path = folder.parent / "scenes.jsonl"
    if not path.is_file():
        raise DataError(
            f"{folder} is no rendered world: there is no list of its objects ({path})",
            remedy="this encoder learns from rendered pictures alone: set data.name=scenes, "
            "scenes-all@12000 or a folder that `refseg data make` left",
        )
    return path


@dataclass(frozen=True)
class Pictures:
    """Every picture of a split at net size, in memory (49 kB each at 128 px).

    images: [N, h, w, 3] uint8. boxes: [N, O, 4] float32 net. classes: [N, O, A] int64.
    known: [N, O] bool.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    known: NDArray[np.bool_]


def read_pictures(
    name: str, split: str, preprocess: PreprocessConfig, limit: int | None
) -> Pictures:
    """The pictures of a rendered world's split with their objects' boxes and attributes.

    Raises DataError for data that is no rendered world, or has no picture in the split.
    """
    record = world_record(name)
    dataset = open_data(name, split, Labels.parse("text+box"))
    groups = dataset.groups_by_image()[:limit]
    if not groups:
        raise DataError(f"no pictures in split {split} of {name}", remedy="name another split")
    wanted = [dataset.entry(group[0]) for group in groups]
    scenes = dict(read_scenes(record.parent))
    most = max(len(scenes[entry.image_id].objects) for entry in wanted)
    shape = (len(wanted), most)
    images = []
    boxes = np.zeros((*shape, 4), np.float32)
    classes = np.zeros((*shape, len(ATTRIBUTES)), np.int64)
    known = np.zeros(shape, np.bool_)
    for row, entry in enumerate(wanted):
        net, placed = preprocess.apply(dataset.image(entry.image_row))
        images.append(net)
        for column, one in enumerate(scenes[entry.image_id].objects):
            box = np.asarray(one.box_xyxy) * np.tile(placed.scale_xy, 2)
            boxes[row, column] = box + np.tile(placed.offset_xy, 2)
            classes[row, column] = attribute_classes(one)
            known[row, column] = boxes[row, column, 2] - boxes[row, column, 0] > NARROWEST
    return Pictures(np.stack(images), boxes, classes, known)


def attribute_classes(one: SceneObject) -> list[int]:
    """The index of each attribute's value."""
    return [values.index(getattr(one, name)) for name, values in ATTRIBUTES.items()]


@dataclass(frozen=True)
class ObjectBatches:
    """make_batch(indices, epoch) for the loop. zoom, most: see `EncoderRecipe`."""

    pictures: Pictures
    preprocess: PreprocessConfig
    zoom: float
    most: float
    seed: int

    def __call__(self, indices: list[int], epoch: int) -> ObjectBatch:
        """The pictures of these indices, each enlarged or not by a draw of its own."""
        pictures = self.pictures
        batch = ObjectBatch(
            normalise(pictures.images[indices], self.preprocess),
            torch.from_numpy(pictures.boxes[indices]),
            torch.from_numpy(pictures.classes[indices]),
            torch.from_numpy(pictures.known[indices]),
        )
        if not self.zoom:
            return batch
        draws = np.stack([np.random.default_rng([self.seed, epoch, i]).random(4) for i in indices])
        return enlarge(batch, torch.from_numpy(draws).float(), self.zoom, self.most)


def enlarge(batch: ObjectBatch, draws: Tensor, chance: float, most: float) -> ObjectBatch:
    """Pictures enlarged around one of their objects, and mirrored.

    draws: [I, 4] in 0..1: whether to enlarge, how much (1 to `most`), around which object,
    whether to mirror. Objects whose centre leaves the picture are no longer known.
    """
    images, known = batch.images, batch.known
    count, (height, width) = len(images), (images.shape[2], images.shape[3])
    size = torch.tensor([width, height], dtype=torch.float32)
    corners = batch.boxes.view(count, -1, 2, 2) / size * 2 - 1  # [I, O, 2, xy] in -1..1
    scale = torch.where(draws[:, 0] < chance, 1 + draws[:, 1] * (most - 1), torch.ones(count))
    chosen = _nth_known(known, draws[:, 2])
    room = (1 - 1 / scale)[:, None]
    centre = corners[torch.arange(count), chosen].mean(dim=1)
    centre = torch.maximum(torch.minimum(centre, room), -room)
    sign = torch.where(draws[:, 3] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = sign / scale, 1 / scale, centre
    grid = F.affine_grid(theta, [count, 3, height, width], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    corners = (corners - centre[:, None, None]) * scale[:, None, None, None]
    corners[..., 0] *= sign[:, None, None]
    known = known & (corners.mean(dim=2).abs() < 0.95).all(dim=-1)
    corners = corners.clamp(-1, 1)
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    return ObjectBatch(images, (boxes + 1) / 2 * size.repeat(2), batch.classes, known)


def _nth_known(known: Tensor, draw: Tensor) -> Tensor:
    """Index of a known object a picture, drawn evenly; 0 where there is none. [I, O], [I] -> [I]"""
    nth = (draw * known.sum(dim=1)).long()
    return ((known.cumsum(dim=1) > nth[:, None]) & known).int().argmax(dim=1)


@dataclass(frozen=True)
class Accuracy:
    """Share of held-out objects whose attribute is named rightly."""

    batches: ObjectBatches

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        assert isinstance(learner, ObjectNamer)
        count = len(self.batches.pictures.images)
        device = next(learner.parameters()).device
        rows = [list(range(start, min(start + 50, count))) for start in range(0, count, 50)]
        right = torch.cat([learner.right(self.batches(part, 0).to(device)) for part in rows])
        means = right.float().mean(dim=0).tolist()
        return dict(zip(ATTRIBUTES, means, strict=True))
