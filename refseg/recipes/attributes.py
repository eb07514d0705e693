"""Pictures of a rendered world, each with the set of attributes that occur in it: what an encoder
learns to see from where no place may be told.

As `pictures.py` this reads `scenes.jsonl` beside the data set and not through the labels contract,
and takes less of it: for a whole picture, which kinds, colours, sizes, materials and patterns there
are, and which of them on one thing of a kind. It stands for ImageNet's labels, which are of whole
images, too; an encoder learned from it says so ("attributes of whole pictures").
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refseg.data.catalog import open_data
from refseg.data.collate import normalise
from refseg.data.scenes.model import SceneObject
from refseg.data.scenes.serial import read_scenes
from refseg.data.transforms import PreprocessConfig
from refseg.errors import DataError
from refseg.methods.encoders.attributes import AttributeBatch, AttributeNamer
from refseg.metrics.ranking import average_precision
from refseg.recipes.pictures import ATTRIBUTES, world_record
from refseg.types import Labels

KIND = "kind"
#: Images that are looked at together when an encoder is scored.
TOGETHER = 50


def vocabulary() -> dict[str, tuple[tuple[str, ...], ...]]:
    """Attribute -> its values: each by itself, as ("red",), and kinds with another one, as
    ("ball", "red") under "kind+colour".
    """
    alone = {name: tuple((value,) for value in values) for name, values in ATTRIBUTES.items()}
    kinds = ATTRIBUTES[KIND]
    pairs = {
        f"{KIND}+{name}": tuple(product(kinds, values))
        for name, values in ATTRIBUTES.items()
        if name != KIND
    }
    return {**alone, **pairs}


def occurring(objects: tuple[SceneObject, ...]) -> NDArray[np.bool_]:
    """[A] bool: which values of `vocabulary` some object has, in its order. A set: neither where
    nor how often.
    """
    found = []
    for name, values in vocabulary().items():
        seen = {tuple(getattr(one, part) for part in name.split("+")) for one in objects}
        found += [value in seen for value in values]
    return np.array(found)


@dataclass(frozen=True)
class Attributed:
    """Every picture of a split at net size, in memory. images: [N, h, w, 3] uint8. present: [N, A]
    bool.
    """

    images: NDArray[np.uint8]
    present: NDArray[np.bool_]


def read_attributed(
    name: str, split: str, preprocess: PreprocessConfig, limit: int | None
) -> Attributed:
    """The pictures of a rendered world's split with their attributes.

    Raises DataError for data that is no rendered world, or has no picture in the split.
    """
    record = world_record(name)
    dataset = open_data(name, split, Labels())
    wanted = [dataset.entry(group[0]) for group in dataset.groups_by_image()[:limit]]
    if not wanted:
        raise DataError(f"no pictures in split {split} of {name}", remedy="name another split")
    scenes = dict(read_scenes(record.parent))
    images = [preprocess.apply(dataset.image(entry.image_row))[0] for entry in wanted]
    present = [occurring(scenes[entry.image_id].objects) for entry in wanted]
    return Attributed(np.stack(images), np.stack(present))


@dataclass(frozen=True)
class AttributeBatches:
    """make_batch(indices, epoch) for the loop: pictures, mirrored by the chance `mirror`, drawn by
    (seed, epoch, index). No attribute tells sides.
    """

    pictures: Attributed
    preprocess: PreprocessConfig
    mirror: float
    seed: int

    def __call__(self, indices: list[int], epoch: int) -> AttributeBatch:
        images = self.pictures.images[indices]  # a copy
        for row, index in enumerate(indices):
            if np.random.default_rng([self.seed, epoch, index]).random() < self.mirror:
                images[row] = images[row, :, ::-1]
        return AttributeBatch(
            normalise(images, self.preprocess),
            torch.from_numpy(self.pictures.present[indices]),
        )


@dataclass(frozen=True)
class MeanPrecision:
    """Mean average precision over held-out pictures: of the values of each attribute, and of all
    ("all"), beside what guessing would have ("all, guessed"). Values that no picture has do not
    count.
    """

    batches: AttributeBatches

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        assert isinstance(learner, AttributeNamer)
        present = self.batches.pictures.present
        device = next(learner.parameters()).device
        starts = range(0, len(present), TOGETHER)
        rows = [list(range(start, min(start + TOGETHER, len(present)))) for start in starts]
        parts = [learner.scores(self.batches(part, 0).to(device)) for part in rows]
        scores = torch.cat(parts).cpu().numpy()
        return summary(scores, present)


def summary(scores: NDArray[np.floating], present: NDArray[np.bool_]) -> dict[str, float]:
    """What `MeanPrecision` tells, of scores [N, A]. Attributes without any value are left out."""
    each = [average_precision(scores[:, a], present[:, a]) for a in range(present.shape[1])]
    told, start = {}, 0
    for name, values in vocabulary().items():
        known = [ap for ap in each[start : start + len(values)] if ap is not None]
        start += len(values)
        if known:
            told[name] = float(np.mean(known))
    shares = present.mean(axis=0)
    told["all"] = float(np.mean([ap for ap in each if ap is not None]))
    told["all, guessed"] = float(shares[shares > 0].mean())
    return told
