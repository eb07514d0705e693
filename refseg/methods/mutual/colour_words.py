"""Colours that an expression tells of its object: weak labels for what was never photographed.

"man in red shirt next to the blue car" tells red of the man and nothing of blue. Which word
belongs to what nobody has annotated; a colour counts where no word for a relation stands before it.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from torch import Tensor

from refseg.ops.colours import COLOURS, MEANINGS
from refseg.types import Batch

#: From the first of these on, an expression tells of other things than its object, or of none.
_ELSEWHERE = re.compile(
    r"\b(next|beside|besides|behind|near|nearest|closest|by|between|under|below|above|over|on|"
    r"front|facing|touching|holding|against|not|no|isn|isnt|without|to)\b"
)
_WORD = re.compile(r"[a-z]+")


@lru_cache(maxsize=400_000)
def colours_told(text: str) -> frozenset[int]:
    """Rows of `COLOURS` that the expression tells of its object."""
    words = _WORD.findall(_ELSEWHERE.split(text.lower())[0])
    return frozenset(COLOURS.index(term) for word in words for term in MEANINGS.get(word, ()))


def told_of_objects(batch: Batch, count: int) -> Tensor:
    """[I, K, 11] float32: whether some expression of the batch tells a colour of an object.

    count: K. Zeros for objects that no expression is about.
    """
    told = torch.zeros(len(batch.images), count, len(COLOURS))
    if batch.targets is not None:
        rows = zip(batch.texts, batch.image_of.tolist(), batch.targets.tolist(), strict=True)
        for text, image, target in rows:
            if target >= 0:
                told[image, target, list(colours_told(text))] = 1.0
    return told
