"""What a method is asked in a benchmark, and whether two forms of it answered alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from refseg.data.transforms import PreprocessConfig
from refseg.profile import case
from refseg.types import Batch, Prediction


def noise(
    vocabulary: int, length: int, side: int, hw: tuple[int, int], each: Sequence[int]
) -> Batch:
    """Images of noise, `side` px in the net and `hw` in px, one for each number of `each`, and so
    many sentences about it, of up to `length` random words.
    """
    torch.manual_seed(1)
    base, images, count = case(side, 1), len(each), sum(each)
    return replace(
        base,
        images=torch.randn(images, 3, side, side),
        image_of=torch.arange(images).repeat_interleave(torch.tensor(each)),
        words=torch.randint(5, vocabulary, (count, length)),
        word_mask=torch.arange(length) < torch.randint(4, length, (count, 1)),
        geometry=(PreprocessConfig(size=side).geometry(hw),) * count,
        keys=tuple(map(str, range(count))),
        texts=("noise",) * count,
        weights=torch.ones(count),
    )


def agree(found: Sequence[Prediction], plain: Sequence[Prediction]) -> None:
    """Stop the run where two forms differ by more than rounding."""
    for one, other in zip(found, plain, strict=True):
        assert one.response is not None
        assert other.response is not None
        apart = np.abs(one.response - other.response).max() / np.ptp(other.response)
        assert apart < 1e-3, f"responses: {apart:.3g} of their range"
        assert np.mean(one.mask != other.mask) < 1e-4, "masks"
