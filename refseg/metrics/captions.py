"""Metrics of written expressions: one sentence an object against what people wrote about it.

CIDEr-D (`cider`), and METEOR 1.5 or our Java-free relative of it (`meteor`). Words are those of
`tokenise` throughout.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from refseg.errors import DataError
from refseg.metrics.cider import CiderD, DocumentFrequency
from refseg.metrics.meteor import CaptionScores, meteor, meteor_es, why_no_meteor
from refseg.metrics.words import check_references, tokenise

__all__ = [
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
) -> dict[Key, list[str]]:
    """References of several data sets joined per object, such as RefCOCO's and RefCOCO+'s.

    data_sets: each annotation id -> sentences; RefCOCO, RefCOCO+ and RefCOCOg share COCO's ids.
    only: the objects to return, such as those of the evaluated split; all by default.
    Objects come out sorted; their sentences in the order of the data sets, then as given.
    Duplicates stay, as in published scores: CIDEr is a mean over references, so a sentence that
    two people wrote counts twice.
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
    return {key: merged[key] for key in sorted(wanted, key=_natural)}


def _natural(key: Hashable) -> tuple[bool, int, str]:
    return (False, key, "") if isinstance(key, int) else (True, 0, str(key))
