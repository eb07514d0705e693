"""What fills the sections of docs/results.md on TRIS; see `studies.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from studies.tables import Numbers, claims, percent, spread, table

Values = Mapping[str, str]
NAMES = {
    "whole-image": "the whole picture",
    "centre-disc": "a disc in the middle",
    "saliency": "saliency of the encoder, no text",
    "maskclip": "MaskCLIP-style map of the encoder",
    "step 1": "step 1",
    "step 2": "step 2",
    "student": "`vega` on the pseudo masks",
    "first": "before PRMS, any response",
    "first sure": "before PRMS, response of the seeds",
    "prms": "after PRMS, any response",
    "prms sure": "after PRMS, response of the seeds",
    "refined": "after refinement",
}
#: Rows of a table of steps are in this order, within each place that is measured.
ORDER = {name: number for number, name in enumerate(NAMES)}
ON = {"val": "scenes val", "train": "training pictures"}
MEASURES = ("PointIt", "PointM", "mIoU", "oIoU")


def steps(numbers: Numbers) -> Values:
    """Of `studies/text/tris_steps.md`."""
    lengths = (f"{name} {count:,}" for name, count in numbers["steps"].items() if count)
    return {
        "world": str(numbers["world"]),
        "steps": ", ".join(lengths),
        "shown": f"{numbers['pictures']:,}",
        "table": _steps(numbers["summary"]),
        "differences": claims(numbers["differences"], _named, ON),
        "note": str(numbers["note"]),
    }


def _steps(rows: Iterable[Mapping[str, Any]]) -> str:
    head = ("", "measured on", "preset", "seeds", "expressions", *MEASURES, "mIoU, `tris`")
    ordered = sorted(rows, key=lambda row: (list(ON).index(row["on"]), ORDER[row["step"]]))
    return table(
        head,
        (
            (
                NAMES[row["step"]],
                ON[row["on"]],
                "-" if row["preset"] is None else f"`{row['preset']}`",
                "-" if row["preset"] is None else str(row["seeds"]),
                f"{row['n']:,}",
                *(spread(row, name) for name in MEASURES),
                percent(row.get("mIoU tris")),
            )
            for row in ordered
        ),
    )


def _named(side: str) -> str:
    """ "refseg: prms sure" -> "after PRMS, response of the seeds (`refseg`)"."""
    preset, colon, step = side.partition(": ")
    return f"{NAMES[step]} (`{preset}`)" if colon else NAMES.get(side, side)


def ablations(numbers: Numbers) -> Values:
    """Of `studies/text/tris_ablations.md`."""
    rows = (
        (row["variant"], str(row["seeds"]), *(spread(row, name) for name in MEASURES))
        for row in numbers["summary"]
    )
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "n": f"{numbers['n']:,}",
        "table": table(("step 1 with", "seeds", *MEASURES), rows),
        "differences": claims(numbers["differences"]),
        "note": str(numbers["note"]),
    }


def pictures(numbers: Numbers) -> Values:
    """Of `studies/text/tris_pictures.md`."""
    return {"n": str(numbers["n"]), "among": str(numbers["among"])}
