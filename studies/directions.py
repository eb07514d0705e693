"""Which way a paper says that something goes, and whether it goes that way here.

Two models write about the same objects; their difference is taken object by object, and its
interval drawn over pictures. It tells how much the choice of test pictures matters; another seed
of the training may matter as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refseg.metrics.meter import bootstrap_interval

SHOWS, REVERSED, UNCLEAR = "shows", "the other way round", "inconclusive"
HIGHER, LOWER = "higher", "lower"
RB_ACC, CIDER, METEOR = "Rb-Acc", "CIDEr", "METEOR"
#: Measure -> the metrics that stand for it, the best first. meteor_es is another than METEOR: a
#: direction that is judged by it says so.
METRICS = {
    RB_ACC: (RB_ACC,),
    CIDER: ("CIDEr merged", "CIDEr"),
    METEOR: ("METEOR merged", "METEOR", "meteor_es merged", "meteor_es"),
}


@dataclass(frozen=True)
class Direction:
    """`of` is higher ("+") or lower ("-") than `over` in `measure`, says a paper.

    measure: one of `METRICS`.
    """

    claim: str
    of: str
    over: str
    measure: str
    sign: Literal["+", "-"]


def judged(
    directions: Sequence[Direction], reports: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What each direction comes to. reports: variant -> its report with samples, of one split.

    "measure" is the metric that the reports have of the direction's (`METRICS`). Raises ValueError
    for reports about different objects.
    """
    return [_judged(one, reports[one.of], reports[one.over]) for one in directions]


def _judged(direction: Direction, of: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    mine, theirs = of["samples"], over["samples"]
    if mine["ann_id"] != theirs["ann_id"]:
        raise ValueError("the two models wrote about other objects")
    measure = next(name for name in METRICS[direction.measure] if name in of["metrics"])
    name = "hit" if measure == RB_ACC else measure
    mean, interval = difference(mine[name], theirs[name], mine["image_id"])
    # The score of a corpus is no mean over its objects for every metric (METEOR sums counts).
    whole = of["metrics"][measure] - over["metrics"][measure]
    agree = whole * mean >= 0
    return {
        "claim": direction.claim,
        "of": direction.of,
        "over": direction.over,
        "measure": measure,
        "expected": direction.sign,
        "difference": mean,
        "corpus difference": float(whole),
        "interval": interval,
        "verdict": verdict(interval, direction.sign) if agree else UNCLEAR,
    }


def difference(
    of: Sequence[float], over: Sequence[float], images: Sequence[int]
) -> tuple[float, tuple[float, float]]:
    """The mean of paired differences and its interval, pictures drawn as wholes."""
    gaps = np.array(of, np.float64) - np.array(over, np.float64)
    return float(gaps.mean()), bootstrap_interval(gaps, groups=images)


def change(interval: Sequence[float]) -> str:
    """What may be said of a difference with this interval when nothing was expected."""
    told = verdict(interval, "+")
    return {SHOWS: HIGHER, REVERSED: LOWER}.get(told, told)


def verdict(interval: Sequence[float], sign: Literal["+", "-"]) -> str:
    """What may be said of a difference with this interval when `sign` was expected."""
    low, high = interval
    if low <= 0 <= high:
        return UNCLEAR
    return SHOWS if (low > 0) == (sign == "+") else REVERSED
