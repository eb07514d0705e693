"""METEOR 1.5 through its jar, and a smaller relative of our own that needs no Java.

`meteor` is the number that papers print. `meteor_es` knows exact words and stems only: no
synonyms, no paraphrases, and function words from a list of ours, not the jar's. It is never to
be compared with a published METEOR; it is for following a training where there is no Java.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from refseg.errors import RefsegError
from refseg.metrics.words import check_references, check_same, stem, tokenise

# Denkowski and Lavie 2014, English.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75
STEM_WEIGHT = 0.6

# States kept while aligning: enough to be exact unless one word fills much of both sentences.
_WIDTH = 100

# Words that hold a sentence together rather than say what is meant. Ours, not the jar's list.
_FUNCTION = """
    a an the this that these those some any no each every all both other another such
    i you he she it we they me him her us them my your his its our their who whom whose which what
    and or but nor so if than then as because while when where how there here
    of in on at to from by with for into onto over under about after before between through
    up down out off near
    be is are was were been being am has have had having do does did will would can could may
    might must shall should not n't 's 're 've 'll 'd 'm
    one two more most very just also only
    """
FUNCTION_WORDS = frozenset(_FUNCTION.split())


class CaptionScores(NamedTuple):
    """corpus: of all objects together (not the mean). each: object -> its own; both in 0..1."""

    corpus: float
    each: dict[Any, float]


def why_no_meteor() -> str:
    """What METEOR 1.5 lacks on this machine; "" if nothing."""
    lacks = []
    if shutil.which("java") is None:
        lacks.append("java is not on the PATH")
    try:
        importlib.import_module("pycocoevalcap.meteor.meteor")
    except ImportError:
        lacks.append("pycocoevalcap is not installed")
    return " and ".join(lacks)


def meteor(hypotheses: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> CaptionScores:
    """METEOR 1.5, as papers print it: object -> sentence against object -> its sentences.

    Runs the jar inside pycocoevalcap (2 GB of memory, some 15 s to start); words are those of
    `tokenise`. Raises RefsegError without Java or pycocoevalcap, or when the jar stops;
    DataError if the objects of both differ or a value is not text.
    """
    check_references(references)
    check_same(hypotheses, references)
    lacking = why_no_meteor()
    if lacking:
        raise RefsegError(f"METEOR 1.5 cannot run: {lacking}", remedy=_REMEDY)
    keys = sorted(references, key=str)
    texts = {key: [" ".join(tokenise(text)) for text in references[key]] for key in keys}
    answers = {key: [" ".join(tokenise(hypotheses[key]))] for key in keys}
    scorer = importlib.import_module("pycocoevalcap.meteor.meteor").Meteor()
    try:
        corpus, scores = scorer.compute_score(texts, answers)
    except (OSError, ValueError) as error:
        raise RefsegError(f"METEOR's jar stopped: {error}", remedy=_REMEDY) from error
    finally:
        if scorer.lock.locked():  # else its destructor waits for ever
            scorer.lock.release()
        for pipe in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
    return CaptionScores(float(corpus), dict(zip(keys, map(float, scores), strict=True)))


_REMEDY = (
    'pip install "refseg[caption]" and a Java runtime (11 or later); '
    "meteor_es needs neither, but is another metric"
)


# -- Ours ----------------------------------------------------------------------------------------


class _Counts(NamedTuple):
    """What a pair of sentences adds up to: weights of words and of matches, matches, chunks."""

    hypothesis: float
    reference: float
    matched_hypothesis: float
    matched_reference: float
    matches: int
    chunks: int


def meteor_es(
    hypotheses: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> CaptionScores:
    """METEOR's formula and 1.5 parameters on exact words and stems. NOT comparable with METEOR.

    Each object counts with its best reference; the corpus' score is that of the summed counts,
    as in METEOR. Besides synonyms and paraphrases the jar also differs where it leaves out a
    stem that stands alone ("zebra" against "zebras" is 0 there, 0.6 here). Arguments and
    errors as `meteor`.
    """
    check_references(references)
    check_same(hypotheses, references)
    best = {}
    for key in sorted(references, key=str):
        words = tokenise(hypotheses[key])
        pairs = [_count(words, tokenise(text)) for text in references[key]]
        best[key] = max(pairs, key=_score)
    total = _Counts(*map(sum, zip(*best.values(), strict=True)))
    return CaptionScores(_score(total), {key: _score(counts) for key, counts in best.items()})


def _score(counts: _Counts) -> float:
    if counts.matches == 0:
        return 0.0
    precision = counts.matched_hypothesis / counts.hypothesis
    recall = counts.matched_reference / counts.reference
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    return mean * (1 - GAMMA * float((counts.chunks / counts.matches) ** BETA))


def _count(hypothesis: list[str], reference: list[str]) -> _Counts:
    pairs = align(hypothesis, reference)
    ours, theirs = 0.0, 0.0
    for i, j in pairs:
        weight = 1.0 if hypothesis[i] == reference[j] else STEM_WEIGHT
        ours += weight * _weight(hypothesis[i])
        theirs += weight * _weight(reference[j])
    linked = set(pairs)
    chunks = sum((i - 1, j - 1) not in linked for i, j in pairs)
    if chunks == 1 and len(pairs) == len(hypothesis) == len(reference):
        chunks = 0  # one sentence is the other: no penalty, nor any to a corpus' sum
    return _Counts(
        sum(map(_weight, hypothesis)),
        sum(map(_weight, reference)),
        ours,
        theirs,
        len(pairs),
        chunks,
    )


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (word of the hypothesis, word of the reference), each word in one pair at most.

    As many pairs as possible; among those as many exact ones as possible; among those as few
    chunks (runs that are adjacent in both) as possible; then the earliest.
    """
    ours, theirs = [stem(word) for word in hypothesis], [stem(word) for word in reference]
    places = {name: [j for j, other in enumerate(theirs) if other == name] for name in set(ours)}
    ahead = Counter(ours)
    # (taken places of the reference, place of the previous pair) -> best way to get there
    states: dict[tuple[int, int], _Way] = {(0, -2): (0, 0, ())}
    for i, name in enumerate(ours):
        ahead[name] -= 1
        found: dict[tuple[int, int], _Way] = {}
        for (taken, last), (stems, chunks, pairs) in states.items():
            free = [j for j in places[name] if not taken >> j & 1]
            for j in free:
                way = (
                    stems + (hypothesis[i] != reference[j]),
                    chunks + (j != last + 1),
                    (*pairs, (i, j)),
                )
                _keep(found, (taken | 1 << j, j), way)
            if ahead[name] >= len(free):  # the words to come can still fill all places
                _keep(found, (taken, -2), (stems, chunks, pairs))
        states = found
        if len(states) > _WIDTH:
            states = dict(sorted(states.items(), key=lambda item: item[1])[:_WIDTH])
    return list(min(states.values())[2])


_Way = tuple[int, int, tuple[tuple[int, int], ...]]


def _keep(ways: dict[tuple[int, int], _Way], state: tuple[int, int], way: _Way) -> None:
    if state not in ways or way < ways[state]:
        ways[state] = way
