"""What fills the sections of docs/results.md on Partial-RES; see `studies.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from studies.tables import Numbers, main_scores, percent, points, signed_between, spread, table

Values = Mapping[str, str]
NAMES = {
    "scratch": "naive, without REC before it",
    "naive": "naive: REC, then RES on the few masks",
    "parts": "with [TASK], CCTF, PMCA",
    "full": "and RPP (the full method)",
    "dense": "`vega`, a dense mask head",
}
RULES = {"uniform": "ours (`uniform`)", "stride": "the papers' rule, in our frame (`stride`)"}


def scenes(numbers: Numbers) -> Values:
    """Of `studies/text/partial_scenes.md`."""
    return {
        "original": main_scores(numbers, "original"),
        "crowd": main_scores(numbers, "seqtr-crowd"),
    }


def bounds(numbers: Numbers) -> Values:
    """Of `studies/text/partial_bounds.md`."""
    rec, largest = numbers["rec"], numbers["largest"]
    by = {(row["rule"], row["N"]): row["mIoU"] for row in numbers["res"]}
    return {
        "boxes": f"{rec['n']:,}",
        "masks": f"{numbers['parts']['n']:,}",
        "rec": _rec(rec["rows"]),
        "res": _res(numbers["res"]),
        "several": percent(numbers["parts"]["several"]),
        "plain": percent(largest["original, of several"]),
        "crowd": percent(largest["seqtr-crowd, of several"]),
        "over": points(largest["seqtr-crowd, all"] - largest["original, all"]),
        "ours12": percent(by["uniform", 12]),
        "theirs12": percent(by["stride", 12]),
    }


def _rec(rows: Mapping[str, Any]) -> str:
    head = ("bins, a bin means its", "mean IoU", "REC@0.5", "REC@0.9")
    names = ("mean IoU", "REC@0.5", "REC@0.9")
    return table(
        head, ((name, *(percent(row[key], 2) for key in names)) for name, row in rows.items())
    )


def _res(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row["N"] for row in rows})
    by = {(row["rule"], row["N"]): row["mIoU"] for row in rows}
    head = ("rule", *(f"N = {count}" for count in counts))
    return table(
        head,
        ((name, *(percent(by[rule, count]) for count in counts)) for rule, name in RULES.items()),
    )


def shares(numbers: Numbers) -> Values:
    """Of `studies/text/partial_shares.md`."""
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "table": _shares(numbers),
        "rec": _started(numbers["rec"]),
        "differences": _differences(numbers["differences"]),
        "pseudo": _pseudo(numbers["pseudo"]),
        "note": str(numbers["note"]),
    }


def _shares(numbers: Numbers) -> str:
    head = (
        "", "masks", "seeds", "mIoU", "of its own with all masks", "of the full method's with all",
        "mIoU, `seqtr-crowd`", "REC@0.5 of its masks",
    )  # fmt: skip
    rows = [_boxes(numbers["boxes"])]
    for row in numbers["summary"]:
        count = numbers["masks"].get(f"{row['share']:g}")
        given = f"{percent(row['share'], 0)} %" + ("" if count is None else f" ({count:,})")
        deviation = row["mIoU spread"]
        rows.append(
            (
                NAMES[row["variant"]],
                given,
                str(row["seeds"]),
                f"**{percent(row['mIoU'])}**"
                + ("" if deviation is None else f" ± {percent(deviation)}"),
                percent(row["recovery"], 0),
                percent(row["of the full method"], 0),
                percent(row["mIoU seqtr-crowd"]),
                percent(row["REC@0.5"]),
            )
        )
    return table(head, rows)


def _boxes(boxes: Mapping[str, Any]) -> tuple[str, ...]:
    plain, crowd = boxes["original"], boxes["seqtr-crowd"]
    mean, rec = percent(plain["mIoU"]), percent(plain["REC@0.5"])
    return ("boxes of the REC model, filled", "0 %", "-", f"**{mean}**", "-", "-",
            percent(crowd["mIoU"]), rec)  # fmt: skip


def _started(rec: Mapping[str, Any]) -> str:
    told = (f"{percent(one['REC@0.5'])} % on {style} val" for style, one in rec.items())
    return ", ".join(told)


def _differences(rows: Iterable[Mapping[str, Any]]) -> str:
    head = ("masks", "of", "over", "seeds", "mIoU, points", "95 % interval", "")
    return table(
        head,
        (
            (
                f"{percent(row['share'], 0)} %", NAMES[row["of"]], NAMES[row["over"]],
                str(row["seeds"]), points(row["difference"]), signed_between(row["interval"]),
                row["verdict"],
            )
            for row in rows
        ),
    )  # fmt: skip


def _pseudo(rows: Iterable[Mapping[str, Any]]) -> str:
    head = (
        "masks given", "seed", "kept where the score is", "kept", "mIoU", "Pr@0.5", "Pr@0.8",
        "true area, median px", "of its box",
    )  # fmt: skip
    told = []
    for one in rows:
        for row in one["rows"]:
            below = "any (before the filter)" if row["agree"] is None else f"below {row['agree']:g}"
            told.append(
                (
                    f"{percent(one['share'], 0)} %", str(one["seed"]), below,
                    f"{percent(row['kept share'], 0)} %",
                    *(percent(row[name]) for name in ("mIoU", "Pr@0.5", "Pr@0.8")),
                    "-" if row["median area"] is None else f"{row['median area']:,.0f}",
                    "-" if row["fill"] is None else f"{percent(row['fill'], 0)} %",
                )
            )  # fmt: skip
    return table(head, told)


def task(numbers: Numbers) -> Values:
    """Of `studies/text/partial_task.md`."""
    names = ("mIoU", "Pr@0.5", "Pr@0.9", "REC@0.5")
    head = ("[TASK]", "seeds", *names)
    rows = []
    for row in numbers["rows"]:
        rows.append((row["variant"], str(row["seeds"]), *(spread(row, name) for name in names)))
    pairs = table(
        ("of", "over", "measure", "seeds", "points", "95 % interval", ""),
        (
            (
                row["of"], row["over"], row["measure"], str(row["seeds"]),
                points(row["difference"]), signed_between(row["interval"]), row["verdict"],
            )
            for row in numbers["differences"]
        ),
    )  # fmt: skip
    return {
        "world": str(numbers["world"]),
        "steps": f"{numbers['steps']:,}",
        "table": table(head, rows),
        "pairs": pairs,
        "note": str(numbers["note"]),
    }


def pictures(numbers: Numbers) -> Values:
    """Of `studies/text/partial_pictures.md`."""
    looks, border, uneven = numbers["looks"], numbers["border"], numbers["unevenness"]
    even = numbers["even"]
    return {
        "n": f"{numbers['n']:,}",
        "share": percent(numbers["share"], 0),
        "looks": table(
            ("", "attention on the object meant, %", "at the border, %"),
            [
                ("spread evenly", percent(even["looks"]), percent(even["border"])),
                *((NAMES[kind], percent(looks[kind]), percent(border[kind])) for kind in looks),
            ],
        ),
        "right": f"{numbers['right']:,}",
        "uneven": table(
            ("points", "spread of the gaps over their mean"),
            ((name, f"{value:.2f}") for name, value in uneven.items()),
        ),
    }
