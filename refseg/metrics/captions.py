"""Metrics of written expressions: one sentence an object against what people wrote about it.

CIDEr-D (`cider`), METEOR 1.5 or our Java-free relative of it (`meteor`), and the accumulator
that an evaluation feeds. Words are those of `tokenise` throughout.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from refseg.errors import DataError
from refseg.metrics.cider import CiderD, DocumentFrequency
from refseg.metrics.iou import Repeats
from refseg.metrics.meteor import CaptionScores, meteor, meteor_es, why_no_meteor
from refseg.metrics.words import check_hypothesis, check_references, tokenise

__all__ = [
    "CaptionMeter",
    "CaptionScores",
    "CiderD",
    "DocumentFrequency",
    "merge_references",
    "meteor",
    "meteor_es",
    "tokenise",
    "why_no_meteor",
]

Key = TypeVar("Key", bound=Hashable)


def merge_references(
    *data_sets: Mapping[Key, Sequence[str]],
    only: Iterable[Key] | None = None,
    drop_duplicates: bool = False,
) -> dict[Key, list[str]]:
    """References of several data sets joined per object, such as RefCOCO's and RefCOCO+'s.

    data_sets: each annotation id -> sentences; RefCOCO, RefCOCO+ and RefCOCOg share COCO's ids.
    only: the objects to return, such as those of the evaluated split; all by default.
    Objects come out sorted; their sentences in the order of the data sets, then as given.
    Duplicates stay, as in published scores: CIDEr is a mean over references, so a sentence that
    two people wrote counts twice. drop_duplicates keeps the first of equal word sequences.
    Raises DataError if one of `only` is in no data set, or an object has no references.
    """
    merged: dict[Key, list[str]] = {}
    for references in data_sets:
        check_references(references)
        for key, sentences in references.items():
            merged.setdefault(key, []).extend(sentences)
    wanted = merged.keys() if only is None else set(only)
    unknown = wanted - merged.keys()
    if unknown:
        raise DataError(
            f'{len(unknown)} objects are in no data set, such as "{min(unknown, key=str)}"',
            remedy="annotation ids are integers in REFER files; are these of the same type?",
        )
    ordered = {key: merged[key] for key in sorted(wanted, key=_natural)}
    return {key: _distinct(found) for key, found in ordered.items()} if drop_duplicates else ordered


def _natural(key: Hashable) -> tuple[bool, int, str]:
    return (False, key, "") if isinstance(key, int) else (True, 0, str(key))


def _distinct(sentences: Sequence[str]) -> list[str]:
    first: dict[tuple[str, ...], str] = {}
    for text in sentences:
        first.setdefault(tuple(tokenise(text)), text)
    return list(first.values())


class CaptionMeter:
    """Collects one sentence an object; meters of several processes merge exactly.

    frequency: a fixed idf for CIDEr-D; by default that of the collected references, as in
    published scores. repeats: a second `add` of an object is an error ("refuse"), or the
    alphabetically first sentence stays ("once", for samplers that pad by repeating).
    """

    def __init__(
        self, frequency: DocumentFrequency | None = None, *, repeats: Repeats = "refuse"
    ) -> None:
        self.frequency = frequency
        self.repeats = repeats
        self._rows: dict[str, tuple[str, tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, hypothesis: str, references: Sequence[str]) -> None:
        """Count one object. An empty hypothesis is allowed and scores 0.

        Raises DataError if there are no references, a value is not text, the object was added
        before and that is refused, or it was added with other references.
        """
        if not isinstance(key, str):
            raise DataError(f"the object's key {key!r} is no string", remedy="use str(ann_id)")
        check_hypothesis(key, hypothesis)
        check_references({key: references})
        if key in self._rows and self.repeats == "refuse":
            raise DataError(
                f'object "{key}" was scored twice',
                remedy='keys must be unique in a split; for padded samplers use repeats="once"',
            )
        self._keep(key, hypothesis, tuple(references))

    def _keep(self, key: str, hypothesis: str, references: tuple[str, ...]) -> None:
        mine = self._rows.get(key, (hypothesis, references))
        if sorted(mine[1]) != sorted(references):
            raise DataError(
                f'object "{key}" was scored with two different sets of references',
                remedy="merge the references of the data sets first (merge_references)",
            )
        self._rows[key] = min(mine, (hypothesis, references))

    def result(
        self, *, with_meteor: Literal["if possible", "yes", "no"] = "if possible"
    ) -> dict[str, float]:
        """CIDEr (mean, 0..10), meteor_es and METEOR (of the corpus, 0..1), objects.

        METEOR is left out without Java and pycocoevalcap, unless with_meteor is "yes", which
        raises RefsegError then. Raises DataError if nothing was counted.
        """
        hypotheses, references = self._collected()
        cider = CiderD(references, self.frequency).scores(hypotheses)
        metrics = {
            "CIDEr": math.fsum(cider.values()) / len(cider),
            "meteor_es": meteor_es(hypotheses, references).corpus,
        }
        if with_meteor == "yes" or (with_meteor == "if possible" and not why_no_meteor()):
            metrics["METEOR"] = meteor(hypotheses, references).corpus
        return metrics | {"objects": float(len(cider))}

    def samples(self) -> dict[str, list[Any]]:
        """Per object, sorted by key: key, hypothesis, CIDEr, meteor_es."""
        hypotheses, references = self._collected()
        cider = CiderD(references, self.frequency).scores(hypotheses)
        similar = meteor_es(hypotheses, references).each
        return {
            "key": list(hypotheses),
            "hypothesis": list(hypotheses.values()),
            "CIDEr": [cider[key] for key in hypotheses],
            "meteor_es": [similar[key] for key in hypotheses],
        }

    def _collected(self) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        if not self._rows:
            raise DataError("no expression was scored", remedy="is the split empty?")
        keys = sorted(self._rows)
        return {k: self._rows[k][0] for k in keys}, {k: self._rows[k][1] for k in keys}

    def state(self) -> list[list[Any]]:
        """Everything collected, as lists that JSON and pickle carry: [key, text, references]."""
        return [[key, text, list(refs)] for key, (text, refs) in sorted(self._rows.items())]

    def merge(self, state: Sequence[Sequence[Any]]) -> None:
        """Add another meter's `state`; objects in both are counted once.

        Where two processes wrote differently, the alphabetically first sentence stays, so that
        the order of merging does not matter. Raises DataError if their references differ.
        """
        for key, text, references in state:
            self._keep(key, text, tuple(references))
