"""Markdown of the study "scenes" from its file: reading, writing, and what each step was worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refseg.evaluate_text import HUMAN, MISSED, OWN, RB_ACC, RUNS_ON
from refseg.meaning import MEANINGS, UNAMBIGUOUS
from studies.directions import LOWER
from studies.mutual_steps import BY_REWARD, READING, WRITING
from studies.mutual_tables import (
    READ,
    WRITE,
    change,
    changes,
    counted,
    difference,
    meteor_among,
    search,
    value,
)
from studies.tables import Numbers, between, main_scores, percent, table

UNMEASURED = "The scores by steps were not measured (`--run`)."
OTHERS = tuple(name for name in MEANINGS if name != UNAMBIGUOUS)


def reading(numbers: Numbers) -> str:
    """RES on every split under `original`, with the bound."""
    scored = main_scores(numbers, "original").splitlines()
    bounds = [row["metrics"].get("oracle") for row in numbers["reports"]]
    ends = ["oracle", "---:", *(percent(bound) for bound in bounds)]
    return "\n".join(f"{line} {end} |" for line, end in zip(scored, ends, strict=True))


def writing(numbers: Numbers) -> str:
    """REG on every split, with everything that the oracle says of the sentences."""
    meteor = meteor_among(numbers["expressions"])
    head = ("data", "objects", "without a proposal", "search", "CIDEr", meteor, RB_ACC,
            "95 % interval", "by its own head", "of people's sentences", "unambiguous (oracle)",
            "95 % interval", *OTHERS, "runs on", "words")  # fmt: skip
    rows = []
    for row in numbers["expressions"]:
        scores, spans = row["metrics"], row["intervals"]
        rows.append(
            (
                f"{row['data']} {row['split']}", f"{row['n']:,}", percent(scores.get(MISSED)),
                search(row["beams"]), value("CIDEr", scores["CIDEr"]),
                value(meteor, scores.get(meteor)),
                f"**{percent(scores[RB_ACC])}**", between(spans[RB_ACC]),
                percent(scores.get(OWN)), percent(scores.get(HUMAN)),
                f"**{percent(scores.get(UNAMBIGUOUS))}**", between(spans.get(UNAMBIGUOUS)),
                *(percent(scores.get(name)) for name in OTHERS),
                percent(scores.get(RUNS_ON)), f"{scores['words']:.1f}",
            )
        )  # fmt: skip
    return table(head, rows)


def summary(numbers: Numbers) -> str:
    """REG on the val splits, in a table and with a sentence on its columns."""
    head = ("data", "model", "objects", "search", "CIDEr", f"{RB_ACC}, % (95 % interval)",
            "unambiguous, %", "runs on, %")  # fmt: skip
    model = numbers["reports"][0]["model"]
    rows = [
        (
            f"{row['data']} val (rendered)", model, f"{row['n']:,}", search(row["beams"]),
            value("CIDEr", row["metrics"]["CIDEr"]),
            f"**{percent(row['metrics'][RB_ACC])}** ({between(row['intervals'][RB_ACC])})",
            percent(row["metrics"].get(UNAMBIGUOUS)), percent(row["metrics"].get(RUNS_ON)),
        )
        for row in numbers["expressions"]
        if row["split"] == "val"
    ]  # fmt: skip
    return (
        f"What {model} writes, a sentence an object. Rb-Acc: another model, trained with another "
        "seed, finds the object by it. Unambiguous: to the world's oracle it means exactly that "
        "object. Runs on: it repeats itself or is as long as the model can write."
        f"\n\n{table(head, rows)}"
    )


# -- step by step ----------------------------------------------------------------------------------


def gate(numbers: Numbers) -> str:
    """Whether step 2 leaves the share of unambiguous sentences where it was, in a sentence.

    A writer that it makes worse there, by more than the interval, is none to ship.
    """
    rows = [
        row
        for row in numbers.get("differences", ())
        if row["stage"] in BY_REWARD and row["measure"] == UNAMBIGUOUS
    ]
    if not rows:
        return "Whether step 2 leaves sentences as unambiguous as before was not measured."
    worse = [row for row in rows if row["verdict"] == LOWER]
    if not worse:
        return (
            f"Step 2 leaves the share of sentences that are unambiguous to the oracle where it was "
            f"or raises it: in none of {len(rows)} comparisons (step, data, search) it is lower "
            "by more than the interval."
        )
    told = "; ".join(
        f"{row['of']}, {row['data']} val, {search(row['beams'])}: "
        f"{change(UNAMBIGUOUS, row['difference'])} points "
        f"({changes(UNAMBIGUOUS, row['interval'])})"
        for row in worse
    )
    return (
        f"**Step 2 costs unambiguous sentences**: by the oracle fewer mean exactly their object "
        f"after it than before in {len(worse)} of {len(rows)} comparisons (step, data, search), "
        f"by more than the interval. {told}. A writer should not be shipped after such a step."
    )


def steps(numbers: Numbers) -> str:
    """The scores after each step, reading, then writing by search; a sentence without any."""
    rows = numbers["steps"]
    if not rows:
        return UNMEASURED
    # Older files know one search and do not say which.
    main = rows[0].get("beams")
    read = [(*_after(row), *_cells(row, READ)) for row in rows if row.get("beams") == main]
    wrote = [(*_after(row), _search(row.get("beams")), *_cells(row, WRITE)) for row in rows]
    parts = [
        table(("after", "data", *READ), read),
        table(("after", "data", "search", *WRITE), wrote),
    ]
    return "\n\n".join(parts)


def _after(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["step"], f"{row['data']} val"


def _cells(row: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [value(name, row.get(name)) for name in names]


def _search(beams: int | None) -> str:
    return "-" if beams is None else search(beams)


def worth(numbers: Numbers) -> str:
    """What may be said of each step, measure by measure, in a list."""
    by: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in numbers.get("differences", ()):
        by.setdefault(_pair(row), {}).setdefault(row["measure"], []).append(row)
    lines = []
    for pair, measures in by.items():
        told = [
            f"{measure} {', '.join(f'{name} in {number}' for name, number in counted(rows))}"
            f" of {len(rows)}"
            for measure, rows in measures.items()
        ]
        lines.append(f"- {pair}: {'; '.join(told)}")
    return "\n".join(lines) or "Differences between the steps were not measured."


def differences(numbers: Numbers) -> str:
    """The differences between the steps with verdicts and intervals."""
    columns = (READING, *WRITING)
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in numbers.get("differences", ()):
        key = (_pair(row), f"{row['data']} val", _search(row["beams"]))
        cells.setdefault(key, {})[row["measure"]] = difference(row)
    rows = [(*key, *(of.get(name, "-") for name in columns)) for key, of in cells.items()]
    return table(("difference", "data", "search", *columns), rows) if rows else ""


def _pair(row: Mapping[str, Any]) -> str:
    return f"{row['of']}, over {row['over']}"
