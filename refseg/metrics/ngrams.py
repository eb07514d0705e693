"""The n-grams of sentences as 64-bit numbers, so that counting them is sorting numbers.

Two different n-grams get one number with a chance of about 1e-7 in a set of a million.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDERS = 4

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]

_MIX = np.uint64(0x9E3779B97F4A7C13)


class Grams(NamedTuple):
    """All n-grams of some sentences, each [M]: sentence, number, words, place of the first word."""

    rows: Ints
    keys: Keys
    orders: Ints
    starts: Ints


@lru_cache(maxsize=1 << 17)
def _code(word: str) -> int:
    """A word as 64 bits, the same in every process."""
    digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def ngrams(words: Sequence[str], lengths: Sequence[int]) -> Grams:
    """All n-grams of 1 to 4 words of sentences, shorter ones first.

    words: of all sentences, one after the other. lengths [S]: how many each sentence has.
    """
    total = len(words)
    place: defaultdict[str, int] = defaultdict()
    place.default_factory = place.__len__
    ids = np.fromiter(map(place.__getitem__, words), np.int64, total)
    codes = np.fromiter(map(_code, place), np.uint64, len(place))[ids]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(total)  # words to the end
    starts, keys = np.arange(total), np.zeros(total, np.uint64)
    found = []
    for order in range(1, ORDERS + 1):
        inside = left[starts] >= order
        starts = starts[inside]
        keys = keys[inside] * _MIX + codes[starts + order - 1]
        found.append((rows[starts], keys, np.full(len(starts), order), starts))
    return Grams(*map(np.concatenate, zip(*found, strict=True)))


def in_documents(owners: Ints, columns: Ints, size: int) -> Ints:
    """In how many documents each of `size` n-grams occurs."""
    pairs = np.sort(owners * size + columns)
    new = np.ones(len(pairs), bool)
    new[1:] = pairs[1:] != pairs[:-1]
    counts: Ints = np.bincount(pairs[new] % max(size, 1), minlength=size)
    return counts


def distinct(keys: Keys) -> tuple[Keys, Ints, Ints]:
    """Sorted distinct numbers [G], a place of each in `keys`, and the column [M] of each key."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    columns = np.empty(len(keys), np.int64)
    columns[order] = np.cumsum(new) - 1
    return ordered[new], order[new], columns


def look_up(known: Keys, keys: Keys) -> Ints:
    """Column of each n-gram; those unknown get columns of their own after the last."""
    asked, _, inverse = distinct(keys)
    if len(known) == 0:
        return inverse
    columns = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    new = known[columns] != asked
    columns[new] = len(known) + np.arange(np.count_nonzero(new))
    return columns[inverse]
