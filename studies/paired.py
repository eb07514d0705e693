"""Variants trained with paired seeds, compared: means, spreads, and differences seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
NOTE_SEEDS = (
    "A difference is called inconclusive when the 95 % interval of its mean over paired seeds "
    "(Student's t) holds zero, or when there is only one seed."
)


class Seeded(Protocol):
    """One finished run."""

    @property
    def variant(self) -> str: ...

    @property
    def seed(self) -> int: ...


Run = TypeVar("Run", bound=Seeded)
#: Name -> its value for a run; None where the run has no such thing.
Measures = Mapping[str, Callable[[Run], float | None]]


def summary(
    done: Sequence[Run], variants: Sequence[str], measures: Measures[Run]
) -> list[dict[str, Any]]:
    """Mean and spread (sample standard deviation) over the seeds, variant by variant."""
    rows = []
    for variant in variants:
        mine = [one for one in done if one.variant == variant]
        row: dict[str, Any] = {"variant": variant, "seeds": len(mine)}
        for name, value_of in measures.items():
            values = [v for one in mine if (v := value_of(one)) is not None]
            row[name] = float(np.mean(values)) if values else None
            row[f"{name} spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    return rows


def differences(
    done: Sequence[Run],
    variants: Sequence[str],
    measures: Measures[Run],
    pairs: Iterable[tuple[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Pairs of variants (all by default) on the seeds that both were trained with."""
    by_name = {(one.variant, one.seed): one for one in done}
    rows = []
    for better, worse in pairs if pairs is not None else combinations(variants, 2):
        seeds = [one.seed for one in done if one.variant == better]
        both = [(by_name[better, s], by_name[worse, s]) for s in seeds if (worse, s) in by_name]
        for name, value_of in measures.items():
            told = [(value_of(a), value_of(b)) for a, b in both]
            gaps = [a - b for a, b in told if a is not None and b is not None]
            if gaps:
                rows.append({"of": better, "over": worse, "measure": name, **paired(gaps)})
    return rows


def paired(gaps: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences, its interval, and what may be said of it."""
    mean = float(np.mean(gaps))
    if len(gaps) < 2:
        return {"seeds": 1, "difference": mean, "interval": None, "verdict": "inconclusive"}
    half = float(
        student.ppf((1 + LEVEL) / 2, len(gaps) - 1) * np.std(gaps, ddof=1) / np.sqrt(len(gaps))
    )
    interval = (mean - half, mean + half)
    clear = interval[0] > 0 or interval[1] < 0
    verdict = ("higher" if mean > 0 else "lower") if clear else "inconclusive"
    return {"seeds": len(gaps), "difference": mean, "interval": interval, "verdict": verdict}
