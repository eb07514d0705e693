"""A recipe's data as the training loop wants it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refseg.data.collate import collate
from refseg.data.dataset import ReferDataset
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.types import Batch, Sample

#: Distinguishes the generator that draws a subset from those that augment.
_SUBSET = 2**32 - 1


@dataclass
class RecipeBatches:
    """make_batch(indices, epoch) for `refseg.train.loader.TrainData`; runs in loader workers.

    Randomness is a function of (seed, epoch, index), so the number of workers and processes
    changes nothing. rows: dataset rows behind the loop's indices (`subset`).
    """

    dataset: ReferDataset
    tokenizer: WordTokenizer
    preprocess: PreprocessConfig
    augment: AugmentConfig
    seed: int
    rows: list[int]

    def __call__(self, indices: list[int], epoch: int) -> Batch:
        """The collated samples. A sample that augmentation drops leaves the batch smaller; if
        all are dropped, the first stays as it was, so that no batch is empty.
        """
        self.dataset.set_epoch(epoch)
        samples = self.dataset.samples([self.rows[index] for index in indices])
        drawn = [
            self.augment.apply(sample, np.random.default_rng([self.seed, epoch, index]))
            for sample, index in zip(samples, indices, strict=True)
        ]
        kept: list[Sample] = [sample for sample in drawn if sample is not None]
        return collate(kept or samples[:1], self.tokenizer, self.preprocess)


def subset(size: int, limit: int | None, seed: int) -> list[int]:
    """All rows, or `limit` of them drawn by the seed, in ascending order."""
    if limit is None or limit >= size:
        return list(range(size))
    order = np.random.default_rng([seed, _SUBSET]).permutation(size)
    return sorted(order[:limit].tolist())
