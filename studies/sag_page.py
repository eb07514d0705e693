"""What fills the sections of docs/results.md on Shatter and Gather; see `studies.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from studies.tables import (
    Numbers,
    between,
    claims,
    percent,
    points,
    signed_between,
    spread,
    table,
)

Values = Mapping[str, str]
#: Measures as `studies.sag_runs.COLUMNS` has them -> heads of their columns.
HEADS = {
    "mIoU": "mIoU",
    "oIoU": "oIoU",
    "A@0.5": "A@0.5",
    "A@0.7": "A@0.7",
    "mIoU, sag": "mIoU, `sag`",
    "oIoU, sag": "oIoU, `sag`",
    "A@0.3, sag": "A@0.3, `sag`",
    "A@0.5, sag": "A@0.5, `sag`",
    "A@0.7, sag": "A@0.7, `sag`",
}
GIVEN = {"nothing": "nothing", "words": "words", "boxes": "words and boxes", None: "-"}
GROUPS = {
    "": "-",
    "scheme": "scheme",
    "tau": "tau",
    "draws": "draws of the noise",
    "CRF": "CRF",
}


def methods(numbers: Numbers) -> Values:
    """Of `studies/text/sag_table.md`."""
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "pair": str(numbers["pair"]),
        "vit": str(numbers["vit"]),
        "n": f"{numbers['n']:,}",
        "missing": _missing(numbers["missing"], "and so not in the table"),
        "table": _methods(numbers["summary"]),
        "differences": claims(numbers["differences"]),
        "note": str(numbers["note"]),
    }


def _methods(rows: Iterable[Mapping[str, Any]]) -> str:
    head = ("", "method", "learned from", "an expression came with", "seeds", "mIoU",
            "95 % interval", *(HEADS[name] for name in HEADS if name != "mIoU"))  # fmt: skip
    rest = [name for name in HEADS if name != "mIoU"]
    return table(
        head,
        (
            (
                row["name"],
                row["method"] if row["method"] == "-" else f"`{row['method']}`",
                row["labels"],
                _given(row["given"]),
                str(row["seeds"]),
                f"**{spread(row, 'mIoU')}**",
                between(row["interval"]),
                *(spread(row, name) for name in rest),
            )
            for row in rows
        ),
    )


def _given(came: str | float | None) -> str:
    if isinstance(came, float | int):
        return "words and a mask" if came >= 1 else f"words, {percent(came, 0)} % with a mask"
    return GIVEN[came]


def _missing(names: Sequence[str], so: str) -> str:
    if not names:
        return "None is missing."
    return f"Not in this installation, {so}: {', '.join(f'`{name}`' for name in names)}."


def ablations(numbers: Numbers) -> Values:
    """Of `studies/text/sag_ablations.md`."""
    rows = (
        (row["variant"], str(row["seeds"]), *(spread(row, name) for name in HEADS))
        for row in numbers["summary"]
    )
    slots, left = numbers["slots"], numbers["left out"]
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "n": f"{numbers['n']:,}",
        "slots": f"{slots['groups']} x {slots['per group']} slots, T = {slots['T']}",
        "left": f"Not trained: {', '.join(left)}." if left else "All variants were trained.",
        "table": table(("", "seeds", *HEADS.values()), rows),
        "differences": claims(numbers["differences"]),
        "note": str(numbers["note"]),
    }


def answers(numbers: Numbers) -> Values:
    """Of `studies/text/sag_answers.md`."""
    noise = numbers["noise"]
    left = numbers["left out"]
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "n": f"{numbers['n']:,}",
        "left": f"Not installed where this ran: {', '.join(left)}." if left else "",
        "table": _answers(numbers["rows"]),
        "spread": f"{100 * noise['spread']:.2f}",
        "moved": percent(noise["moved"]),
    }


def _answers(rows: Iterable[Mapping[str, Any]]) -> str:
    names = ("mIoU", "oIoU", "A@0.5", "A@0.7", "A@0.3, sag")
    head = ("answer", "what changes", "seeds", *(HEADS[name] for name in names),
            "mIoU against the first row, points", "95 % interval",
            "the paper's mIoU, RefCOCO val")  # fmt: skip
    return table(
        head,
        (
            (
                row["answer"],
                GROUPS[row["group"]],
                str(row["seeds"]),
                *(spread(row, name) for name in names),
                points(row["change"]) if row["group"] else "-",
                signed_between(row["interval"] if row["group"] else None),
                "-" if row["paper"] is None else f"{row['paper']:.2f}",
            )
            for row in rows
        ),
    )


def pictures(numbers: Numbers) -> Values:
    """Of `studies/text/sag_pictures.md`."""
    return {"n": str(numbers["n"]), "among": f"{numbers['among']:,}"}
