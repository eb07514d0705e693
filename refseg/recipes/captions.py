"""Pictures of a rendered world with captions of the whole: what an image-text pair learns from.

`captions.jsonl` lies beside the data set, one line a picture. A caption lists what there is; it
says neither where nor which one is meant, so it is a label of images and no expression.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refseg.data.catalog import find_folder, open_data
from refseg.data.collate import normalise
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.errors import DataError
from refseg.methods.encoders.pairs import PairBatch, PairLearner
from refseg.types import Labels

#: Pictures that captions are looked up among when an encoder is scored.
AMONG = 100


@dataclass(frozen=True)
class Captioned:
    """Every picture of a split at net size, in memory. images: [N, h, w, 3] uint8. captions: one
    or more each.
    """

    images: NDArray[np.uint8]
    captions: tuple[tuple[str, ...], ...]


def read_captioned(
    name: str, split: str, preprocess: PreprocessConfig, limit: int | None
) -> Captioned:
    """The captioned pictures of a rendered world's split.

    Raises DataError for data that has no captions, or no such picture in the split.
    """
    told = _read(captions_file(name).read_text(encoding="utf-8"))
    dataset = open_data(name, split, Labels())
    images: list[NDArray[np.uint8]] = []
    captions: list[tuple[str, ...]] = []
    for group in dataset.groups_by_image():
        entry = dataset.entry(group[0])
        if told.get(entry.image_id) and (limit is None or len(images) < limit):
            images.append(preprocess.apply(dataset.image(entry.image_row))[0])
            captions.append(told[entry.image_id])
    if not images:
        raise DataError(
            f"no picture of split {split} of {name} has a caption", remedy="name another split"
        )
    return Captioned(np.stack(images), tuple(captions))


def captions_file(name: str) -> Path:
    """The file with a rendered world's captions. Raises DataError for data that has none."""
    path = find_folder(name).parent / "captions.jsonl"
    if not path.is_file():
        raise DataError(
            f"{name} has no captions of whole pictures ({path})",
            remedy="this encoder learns from a rendered world: set data.name=scenes, "
            "scenes-all@12000 or a folder that `refseg data make` left",
        )
    return path


def _read(text: str) -> dict[int, tuple[str, ...]]:
    lines = map(json.loads, filter(None, text.split("\n")))
    return {line["image_id"]: tuple(line["captions"]) for line in lines}


@dataclass(frozen=True)
class PairBatches:
    """make_batch(indices, epoch) for the loop: each picture with one text, mirrored by the chance
    `mirror`, both drawn by (seed, epoch, index). No caption tells sides.

    most: a text is one to so many captions of the picture, "... and ...": one alone ("two shiny
    objects") fits many pictures. How many, which and in what order is drawn.
    """

    pictures: Captioned
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    mirror: float
    seed: int
    most: int = 1

    def __call__(self, indices: list[int], epoch: int) -> PairBatch:
        images, texts = self.pictures.images[indices].copy(), []
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, index])
            texts.append(self._text(self.pictures.captions[index], rng))
            if rng.random() < self.mirror:
                images[row] = images[row, :, ::-1]
        encoded = self.tokenizer.encode(texts)
        return PairBatch(
            normalise(images, self.preprocess),
            torch.from_numpy(encoded.words),
            torch.from_numpy(encoded.mask),
        )

    def _text(self, captions: tuple[str, ...], rng: np.random.Generator) -> str:
        if self.most == 1:
            return captions[int(rng.integers(len(captions)))]
        count = int(rng.integers(min(self.most, len(captions)))) + 1
        return " and ".join(captions[place] for place in rng.permutation(len(captions))[:count])


@dataclass(frozen=True)
class Retrieval:
    """Share of held-out captions that find their own picture first, among `AMONG` at a time."""

    batches: PairBatches

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        assert isinstance(learner, PairLearner)
        count = len(self.batches.pictures.images)
        device = next(learner.parameters()).device
        among = min(AMONG, count)
        parts = [range(start, start + among) for start in range(0, count - among + 1, among)]
        found = [learner.found(self.batches(list(part), 0).to(device)) for part in parts]
        return {f"found among {among}": torch.cat(found).float().mean().item()}
