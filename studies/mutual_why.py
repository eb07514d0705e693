"""Markdown on why the study "boxes" comes out as it does: words, variety, what rewards tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from refseg.evaluate_text import RUNS_ON
from studies.mutual_boxes import BEFORE, MAIN, PRINTED
from studies.mutual_tables import NAMES, search
from studies.tables import Numbers, percent, table


def lengths(numbers: Numbers) -> str:
    """How step 2 changed the main search's sentences, data by data, in words and in a table."""
    told, rows = [], []
    for data, found, split in _splits(numbers):
        by = _main(numbers, found, split)
        people = found.get("people", {}).get(split)
        first, last = by[BEFORE], by[MAIN]
        beside = "" if people is None else f" (people's: {people['words']:.1f})"
        told.append(
            f"- {data}: {first['words']:.1f} words a sentence before step 2, {last['words']:.1f} "
            f"after{beside}; {percent(first['distinct'])} % of the sentences are distinct before, "
            f"{percent(last['distinct'])} % after; {percent(first.get(RUNS_ON))} % run on before, "
            f"{percent(last.get(RUNS_ON))} % after"
        )
        cells = [f"{one['words']:.1f}, {percent(one['distinct'])} %" for one in by.values()]
        own = "-" if people is None else f"{people['words']:.1f}, {percent(people['distinct'])} %"
        rows.append((data, own, *cells))
    head = ("words a sentence, share of distinct ones", "people", *by)
    return "\n".join(told) + f"\n\n{table(head, rows)}"


def runs_on(numbers: Numbers) -> str:
    """The share of sentences that run on, by data, search and reward, beside people's."""
    rows, head = [], ["runs on, %", "search", "people"]
    for data, found, split in _splits(numbers):
        people = found.get("people", {}).get(split, {})
        for beams in numbers["beams"]:
            by = _main(numbers, found, split, beams)
            cells = [percent(one.get(RUNS_ON)) for one in by.values()]
            rows.append((data, search(beams), percent(people.get(RUNS_ON)), *cells))
    return table([*head, *by], rows)


def searches(numbers: Numbers) -> str:
    """CIDEr before and after step 2 by width of the search, and what beams alone would give."""
    rows, widths = [], [search(beams) for beams in numbers["beams"]]
    measures = ("CIDEr", "CIDEr merged")
    for data, found, split in _splits(numbers):
        scores = [_main(numbers, found, split, beams) for beams in numbers["beams"]]
        for variant in (MAIN, PRINTED):
            cells = [
                f"{by[BEFORE][name]:.3f} to {by[variant][name]:.3f}" if name in by[variant] else "-"
                for by in scores
                for name in measures
            ]
            rows.append((data, variant, *cells))
    head = ("CIDEr", "reward", *(f"{width}, {name}" for width in widths for name in measures))
    return table(head, rows)


def rewards(numbers: Numbers) -> str:
    """What each form of the reward gives the writer's sentences, in a table. A sentence where it
    was not measured.
    """
    rows, head = [], None
    for data, found, split in _splits(numbers):
        measured = found.get("rewards", {}).get(split)
        if measured is None:
            return "What the rewards tell apart was not measured."
        forms = measured["forms"]
        told = (f"{name}: mean, spread, order" for name in forms)
        head = ("data", "objects", "sentences", "objects with both", *told)
        cells = [
            f"{one['mean']:.3f}, {one['spread']:.3f}, **{percent(one['order'])}**"
            for one in forms.values()
        ]
        counts = (f"{measured[name]:,}" for name in ("objects", "sentences", "mixed"))
        rows.append((data, *counts, *cells))
    assert head is not None
    return table(head, rows)


def _splits(numbers: Numbers) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(name for people, the data set's numbers, split) of every split that was written about."""
    for name, found in numbers["sets"].items():
        for split in dict.fromkeys(row["split"] for row in found["expressions"]):
            yield f"{NAMES[name]} {split}", found, split


def _main(
    numbers: Numbers, found: Mapping[str, Any], split: str, beams: int | None = None
) -> dict[str, Mapping[str, float]]:
    """Variant -> metrics of the main search, or of that of so many beams."""
    wanted = (split, beams or numbers["beams"][0])
    return {
        row["variant"]: row["metrics"]
        for row in found["expressions"]
        if (row["split"], row["beams"]) == wanted
    }
