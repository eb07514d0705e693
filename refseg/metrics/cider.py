"""CIDEr-D: how much of an expression's words, weighed by how telling they are, people also used.

Vedantam et al. 2015, in the form of the coco-caption code that all published numbers come from:
n-grams of 1 to 4 words, clipped counts, a Gaussian on the difference of lengths (sigma 6),
times 10. One document of the idf is one object with all its references. A quirk is kept for
equal numbers: the "length" of a sentence is the number of its bigrams.

References are indexed once as a sparse matrix of tf-idf weights; hypotheses are compared with
their rows all at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from refseg.errors import DataError
from refseg.metrics.ngrams import ORDERS, Grams, Ints, Keys, distinct, in_documents, look_up, ngrams
from refseg.metrics.words import (
    check_hypothesis,
    check_references,
    check_same,
    flatten,
    tokenise,
    tokenise_all,
)

SIGMA = 6.0

Split = Callable[[str], list[str]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many documents an n-gram occurs; a document is one object with all its references.

    documents: their number. counts: n-gram (1 to 4 words joined by spaces) -> documents with it.
    Fit it once on the training split's references and use it for rewards: the idf of one batch
    is meaningless (of one object it is 0 throughout).
    """

    documents: int
    counts: Mapping[str, int]

    @classmethod
    def fit(
        cls, references: Mapping[Any, Sequence[str]], *, split: Split = tokenise
    ) -> DocumentFrequency:
        """Count the n-grams of references: object -> its sentences.

        Raises DataError if there is no object, or one without references.
        """
        words, lengths, owners = _words(references, split)
        grams = ngrams(words, lengths)
        _, first, columns = distinct(grams.keys)
        counts = in_documents(owners[grams.rows], columns, len(first))
        named = {
            " ".join(words[start : start + order]): count
            for start, order, count in zip(
                grams.starts[first].tolist(),
                grams.orders[first].tolist(),
                counts.tolist(),
                strict=True,
            )
        }
        return cls(len(references), dict(sorted(named.items())))


class CiderD:
    """CIDEr-D against a fixed set of references, which are indexed once.

    references: object -> its sentences (duplicates count as often as they occur). frequency: the
    idf; without it that of these references, which is the published protocol if they are those
    of the evaluated split. split: sentence -> words; `str.split` for sentences tokenised before.
    Raises DataError if there is no object, or one without references.
    """

    def __init__(
        self,
        references: Mapping[Any, Sequence[str]],
        frequency: DocumentFrequency | None = None,
        *,
        split: Split = tokenise,
    ) -> None:
        self._split = split
        self._given = references
        self._rows = {key: row for row, key in enumerate(references)}
        words, lengths, owners = _words(references, split)
        grams = ngrams(words, lengths)
        self._idf, columns = (
            _idf_of(grams, owners, len(references))
            if frequency is None
            else _fixed_idf(grams, frequency)
        )
        self._per_object = np.bincount(owners, minlength=len(references))
        self._first = np.cumsum(self._per_object) - self._per_object
        self._references = _bag(grams.rows, columns, grams.orders, len(lengths), self._idf)

    def scores(self, hypotheses: Mapping[Any, str]) -> dict[Any, float]:
        """Object -> CIDEr-D (0..10) of its one hypothesis, for exactly the objects indexed.

        Their mean is the corpus' score. Raises DataError if objects are missing or unknown.
        """
        check_same(hypotheses, self._given)
        keys = list(hypotheses)
        found = self.score(keys, [hypotheses[key] for key in keys])
        return dict(zip(keys, found.tolist(), strict=True))

    def score(self, keys: Sequence[Any], hypotheses: Sequence[str]) -> Floats:
        """CIDEr-D [N] of N sentences about the objects `keys` [N]; a key may occur repeatedly.

        For rewards: five beams an object are five entries. An empty sentence scores 0.
        Raises DataError for an unknown object, a sentence that is not a string, unequal lengths.
        """
        if len(keys) != len(hypotheses):
            raise DataError(f"{len(hypotheses)} hypotheses for {len(keys)} objects")
        for key, text in zip(keys, hypotheses, strict=True):
            if key not in self._rows:
                raise DataError(f'object "{key}" has no references')
            check_hypothesis(key, text)
        grams = ngrams(*_split(self._split, hypotheses))
        columns = look_up(self._idf.keys, grams.keys)
        bag = _bag(grams.rows, columns, grams.orders, len(keys), self._idf)
        objects = np.fromiter((self._rows[key] for key in keys), np.int64, len(keys))
        count = self._per_object[objects]
        pairs = np.repeat(np.arange(len(keys)), count)  # [P] hypothesis of each pair
        within = np.arange(len(pairs)) - np.repeat(np.cumsum(count) - count, count)
        similar = _similarity(bag, pairs, self._references, self._first[objects][pairs] + within)
        return 10.0 * np.bincount(pairs, similar, minlength=len(keys)) / count


# -- Counting ------------------------------------------------------------------------------------


class _Idf(NamedTuple):
    """Sorted n-grams [G] with words in each [G] and idf [G]; `unseen` is the idf of all others."""

    keys: Keys
    orders: Ints
    weights: Floats
    unseen: float


class _Bag(NamedTuple):
    """tf-idf [S, G], its norm for each n-gram length [S, 4] and the numbers of bigrams [S]."""

    weights: csr_matrix
    norms: Floats
    bigrams: Floats
    orders: Ints


def _words(
    references: Mapping[Any, Sequence[str]], split: Split
) -> tuple[list[str], list[int], Ints]:
    """All words, how many each sentence has [S], and the number of each sentence's object [S]."""
    check_references(references)
    sizes = [len(sentences) for sentences in references.values()]
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return *_split(split, list(chain.from_iterable(references.values()))), owners


def _split(split: Split, texts: Sequence[str]) -> tuple[list[str], list[int]]:
    return tokenise_all(texts) if split is tokenise else flatten([split(text) for text in texts])


def _idf_of(grams: Grams, owners: Ints, documents: int) -> tuple[_Idf, Ints]:
    """The idf of the references themselves, and the column of each n-gram."""
    keys, first, columns = distinct(grams.keys)
    counts = in_documents(owners[grams.rows], columns, len(keys))
    unseen = float(np.log(documents))
    return _Idf(keys, grams.orders[first], unseen - np.log(counts), unseen), columns


def _fixed_idf(grams: Grams, frequency: DocumentFrequency) -> tuple[_Idf, Ints]:
    """A given idf, with the references' other n-grams added, and the column of each n-gram."""
    known = ngrams(*flatten([gram.split(" ") for gram in frequency.counts]))
    sizes = np.fromiter((gram.count(" ") + 1 for gram in frequency.counts), np.int64)
    whole = known.orders == sizes[known.rows]
    order = np.argsort(known.rows[whole])
    counts = np.fromiter(frequency.counts.values(), np.int64)
    keys, first, columns = distinct(np.concatenate([known.keys[whole][order], grams.keys]))
    unseen = float(np.log(frequency.documents))
    weights = np.full(len(keys), unseen)
    weights[columns[: len(sizes)]] -= np.log(counts)
    orders = np.concatenate([sizes, grams.orders])[first]
    return _Idf(keys, orders, weights, unseen), columns[len(sizes) :]


def _bag(rows: Ints, columns: Ints, orders: Ints, size: int, idf: _Idf) -> _Bag:
    width = max(len(idf.keys), int(columns.max(initial=-1)) + 1)
    every = np.zeros(width, np.int64)
    every[columns] = orders
    every[: len(idf.keys)] = idf.orders
    weights = np.full(width, idf.unseen)
    weights[: len(idf.keys)] = idf.weights
    counts = csr_matrix((np.ones(len(rows)), (rows, columns)), (size, width))
    counts.sum_duplicates()
    counts.data *= weights[counts.indices]
    norms = np.sqrt(_by_order(counts.indptr, every[counts.indices], counts.data**2))
    bigrams = np.bincount(rows[orders == 2], minlength=size).astype(np.float64)
    known = counts if width == len(idf.keys) else counts[:, : len(idf.keys)]
    return _Bag(known, norms, bigrams, every)


def _by_order(indptr: Ints, orders: Ints, values: Floats) -> Floats:
    """Sums [S, 4] over the n-grams of each length in each row of a sparse matrix."""
    size = len(indptr) - 1
    cells = np.repeat(np.arange(size), np.diff(indptr)) * ORDERS + orders - 1
    sums = np.bincount(cells, values, minlength=size * ORDERS).astype(np.float64)
    return sums.reshape(size, ORDERS)


def _similarity(a: _Bag, rows_a: Ints, b: _Bag, rows_b: Ints) -> Floats:
    """Clipped cosine of P pairs, damped by their difference in length, mean over n [P]."""
    theirs = b.weights[rows_b]
    common = a.weights[rows_a].minimum(theirs).multiply(theirs).tocsr()
    dots = _by_order(common.indptr, a.orders[common.indices], common.data)
    norms = a.norms[rows_a] * b.norms[rows_b]
    cosine = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    delta = a.bigrams[rows_a] - b.bigrams[rows_b]
    damped: Floats = cosine.mean(axis=1) * np.exp(-(delta**2) / (2 * SIGMA**2))
    return damped
