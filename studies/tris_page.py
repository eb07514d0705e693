"""What fills the sections of docs/results.md on TRIS; see `studies.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from studies.tables import Numbers, percent, points, signed_between, table

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
        "differences": _differences(numbers["differences"], where=True),
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
                *(_spread(row, name) for name in MEASURES),
                percent(row.get("mIoU tris")),
            )
            for row in ordered
        ),
    )


def _spread(row: Mapping[str, Any], name: str) -> str:
    spread = row[f"{name} spread"]
    mean = percent(row[name])
    return (
        mean if spread is None or row.get("preset", "") is None else f"{mean} ± {percent(spread)}"
    )


def _differences(rows: Iterable[Mapping[str, Any]], where: bool = False) -> str:
    head = ("claim", "of", "over", *(("measured on",) if where else ()), "measure", "seeds",
            "points", "95 % interval", "")  # fmt: skip
    return table(
        head,
        (
            (
                row["claim"] or "-", _named(row["of"]), _named(row["over"]),
                *((ON[row["on"]],) if where else ()), row["measure"], str(row["seeds"]),
                points(row["difference"]), signed_between(row["interval"]), row["verdict"],
            )
            for row in rows
        ),
    )  # fmt: skip


def _named(side: str) -> str:
    """ "refseg: prms sure" -> "after PRMS, response of the seeds (`refseg`)"."""
    preset, colon, step = side.partition(": ")
    return f"{NAMES[step]} (`{preset}`)" if colon else NAMES.get(side, side)


def ablations(numbers: Numbers) -> Values:
    """Of `studies/text/tris_ablations.md`."""
    rows = (
        (row["variant"], str(row["seeds"]), *(_spread(row, name) for name in MEASURES))
        for row in numbers["summary"]
    )
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "n": f"{numbers['n']:,}",
        "table": table(("step 1 with", "seeds", *MEASURES), rows),
        "differences": _differences(numbers["differences"]),
        "note": str(numbers["note"]),
    }


def pictures(numbers: Numbers) -> Values:
    """Of `studies/text/tris_pictures.md`."""
    return {"n": str(numbers["n"]), "among": str(numbers["among"])}
