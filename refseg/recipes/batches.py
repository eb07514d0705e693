"""A recipe's data as the training loop wants it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refseg.data.collate import collate
from refseg.data.joined import Items
from refseg.data.negatives import Negatives
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.methods.tris.config import TrisResponseConfig
from refseg.recipes.base import Recipe
from refseg.types import Batch, Sample

#: Distinguish the generators that draw a subset and deal out chunks from those that augment.
_SUBSET = 2**32 - 1
_CHUNKS = 2**32 - 2
_NEGATIVES = 2**32 - 3


@dataclass
class RecipeBatches:
    """make_batch(indices, epoch) for `refseg.train.loader.TrainData`; runs in loader workers.

    Randomness is a function of (seed, epoch, index), so the number of workers and processes
    changes nothing. rows: dataset rows behind the loop's indices (`subset`). per_image: with more
    than 1 an index is no row but a chunk, up to so many rows of one image, dealt out anew each
    epoch so that each row is in one chunk. negatives: texts about something else that each sample
    brings (`refseg.data.negatives`). `len(batches)`: the number of indices, in any epoch.
    """

    dataset: Items
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    augment: AugmentConfig
    seed: int
    rows: list[int]
    per_image: int = 1
    negatives: int = 0

    def __post_init__(self) -> None:
        self._others = Negatives(self.dataset, self.rows) if self.negatives else None
        self._groups = _within(self.dataset, self.rows) if self.per_image > 1 else []
        self._chunks = [
            (group, start)
            for group, rows in enumerate(self._groups)
            for start in range(0, len(rows), self.per_image)
        ]

    def __len__(self) -> int:
        return len(self._chunks) if self.per_image > 1 else len(self.rows)

    def __call__(self, indices: list[int], epoch: int) -> Batch:
        """The collated samples. A sample that augmentation drops leaves the batch smaller; if
        all are dropped, the first stays as it was, so that no batch is empty.
        """
        self.dataset.set_epoch(epoch)
        asked = [(index, row) for index in indices for row in self._rows_of(index, epoch)]
        samples = self.dataset.samples([row for _, row in asked])
        if self._others is not None:
            samples = [
                replace(sample, negatives=self._drawn(row, index, epoch))
                for sample, (index, row) in zip(samples, asked, strict=True)
            ]
        return collate(
            samples if self.augment.idle else self._augmented(samples, asked, epoch),
            self.tokenizer,
            self.preprocess,
            share_images=self.per_image > 1,
        )

    def _augmented(
        self, samples: list[Sample], asked: list[tuple[int, int]], epoch: int
    ) -> list[Sample]:
        # The rows of a chunk draw alike, each from the start: their pictures stay one picture.
        drawn = [
            self.augment.apply(sample, np.random.default_rng([self.seed, epoch, index]))
            for sample, (index, _) in zip(samples, asked, strict=True)
        ]
        return [sample for sample in drawn if sample is not None] or samples[:1]

    def _drawn(self, row: int, index: int, epoch: int) -> tuple[str, ...]:
        assert self._others is not None
        rng = np.random.default_rng([self.seed, epoch, index, row, _NEGATIVES])
        return self._others.draw(row, self.negatives, rng)

    def _rows_of(self, index: int, epoch: int) -> list[int]:
        """The row of an index, or the rows of its chunk in this epoch."""
        if self.per_image == 1:
            return [self.rows[index]]
        group, start = self._chunks[index]
        rows = self._groups[group]
        order = np.random.default_rng([self.seed, epoch, group, _CHUNKS]).permutation(len(rows))
        return [rows[place] for place in order[start : start + self.per_image]]


def _within(dataset: Items, rows: list[int]) -> list[list[int]]:
    """`dataset.groups_by_image()` of these rows alone; images without any are left out."""
    wanted = set(rows)
    groups = ([row for row in group if row in wanted] for group in dataset.groups_by_image())
    return [group for group in groups if group]


def subset(size: int, limit: int | None, seed: int) -> list[int]:
    """All rows, or `limit` of them drawn by the seed, in ascending order."""
    if limit is None or limit >= size:
        return list(range(size))
    order = np.random.default_rng([seed, _SUBSET]).permutation(size)
    return sorted(order[:limit].tolist())


def check_negatives(recipe: Recipe, method: MethodConfig, group: str) -> None:
    """Refuse step 1 of TRIS where its loss pushes other texts away and none come: the term would
    be 0 in silence. group: of the recipe, with the method's settings. Raises ConfigError.
    """
    if not isinstance(method, TrisResponseConfig) or recipe.data.negatives > 0:
        return
    if method.loss.repel > 0:
        raise ConfigError(
            f"recipe {recipe.name}: {group}.loss.repel={method.loss.repel:g} pushes other texts "
            "away, and data.negatives=0 brings none",
            remedy=f"set data.negatives=3, or {group}.loss.repel=0",
        )
