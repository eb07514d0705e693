"""Markdown tables and sentences from the numbers of a study's file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]
PR = ("Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9")
TOKENS = {
    "language": "language tokens",
    "visual": "visual expression",
    "CLS similarity": "CLS similarity (supervised)",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all but the first column right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash for what was not measured."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{100 * value:+.1f}"


def spread(row: Mapping[str, Any], name: str) -> str:
    """The mean of a measure and, of several seeds, its spread; see `studies.paired.summary`."""
    deviation = row[f"{name} spread"]
    return percent(row[name]) + ("" if deviation is None else f" ± {percent(deviation)}")


def between(interval: Sequence[float] | None) -> str:
    """An interval in percent."""
    return "-" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def signed_between(interval: Sequence[float] | None) -> str:
    """An interval of differences in points."""
    return "-" if interval is None else f"{points(interval[0])} to {points(interval[1])}"


# -- the summary, main -------------------------------------------------------------------------


def summary(measured: Sequence[tuple[str, Numbers]]) -> str:
    """Each model on every val split under `original`, beside the best baseline of each.

    measured: (kind of pictures, the numbers of a study with reports). A baseline that one study
    has measured stands beside the models of all. Models that choose among proposals have the bound
    that these set.
    """
    head = (
        "data, under `original`", "model", "expressions", "mIoU, % (95 % interval)", "oIoU, %",
        "oracle choice among its proposals, mIoU, %", "best trivial baseline, mIoU, %",
    )  # fmt: skip
    every = [report for _, numbers in measured for report in _reports(numbers, "original")]
    rows = []
    for kind, numbers in measured:
        for ours in _reports(numbers, "original"):
            if _is_baseline(ours) or ours["split"] != "val":
                continue
            best = _best_baseline(every, ours)
            mean, overall = (percent(ours["metrics"][name]) for name in ("mIoU", "oIoU"))
            beside = "-"
            if best is not None:
                beside = f"{model_name(best)}, {percent(best['metrics']['mIoU'])}"
            rows.append(
                (
                    f"{ours['data']} val ({kind})",
                    model_name(ours),
                    f"{ours['n']:,}",
                    f"**{mean}** ({between(ours['intervals']['mIoU'])})",
                    overall,
                    percent(ours["metrics"].get("oracle")),
                    beside,
                )
            )
    return table(head, rows)


def _best_baseline(reports: Sequence[Any], ours: Any) -> Any:
    """The report of the best baseline (mIoU) on the data and split of `ours`; None if none."""
    rest = [
        report
        for report in reports
        if _is_baseline(report)
        and (report["data"], report["split"]) == (ours["data"], ours["split"])
    ]
    return max(rest, key=lambda report: report["metrics"]["mIoU"], default=None)


def beside_best(numbers: Numbers, data: str, split: str) -> tuple[Any, Any]:
    """The model's report under `original` on a split, and that of the best baseline (mIoU)."""
    reports = _reports(numbers, "original")
    (ours,) = (
        report
        for report in reports
        if not _is_baseline(report) and (report["data"], report["split"]) == (data, split)
    )
    return ours, _best_baseline(reports, ours)


def model_name(report: Mapping[str, Any]) -> str:
    """A report's model, baselines in words."""
    name = str(report["model"])
    return name.removeprefix("baseline:").replace("-", " ") if _is_baseline(report) else name


def main_scores(numbers: Numbers, protocol: str) -> str:
    """The model on every split under one protocol."""
    head = ("data", "n", "mIoU", "95 % interval", "oIoU", *PR, "REC@0.5")
    return table(
        head,
        (
            (
                f"{r['data']} {r['split']}",
                f"{r['n']:,}",
                f"**{percent(r['metrics']['mIoU'])}**",
                between(r["intervals"]["mIoU"]),
                *(percent(r["metrics"].get(name)) for name in ("oIoU", *PR, "REC@0.5")),
            )
            for r in _reports(numbers, protocol)
            if not _is_baseline(r)
        ),
    )


def baselines(numbers: Numbers) -> str:
    """mIoU of the model beside each baseline, split by split, under `original`."""
    told: dict[str, dict[str, str]] = {}
    for report in _reports(numbers, "original"):
        name = model_name(report) if _is_baseline(report) else "this model"
        row = told.setdefault(f"{report['data']} {report['split']}", {})
        both = (report["metrics"]["mIoU"], report["metrics"]["oIoU"])
        row[name] = " / ".join(percent(value) for value in both)
    names = list(dict.fromkeys(name for row in told.values() for name in row))
    rows = ((data, *(row[name] for name in names)) for data, row in told.items())
    return table(("mIoU / oIoU", *names), rows)


def _reports(numbers: Numbers, protocol: str) -> list[Any]:
    return [report for report in numbers["reports"] if report["protocol"] == protocol]


def _is_baseline(report: Mapping[str, Any]) -> bool:
    return bool(report["model"].startswith("baseline:"))


def groups(rows: Sequence[Mapping[str, Any]], what: str) -> str:
    """Scores of groups of answers; see `studies.questions.scores`."""
    head = (
        what, "n", "mIoU", "95 % interval", "Pr@0.5",
        "right object", "wrong object", "no object", "mIoU where right",
    )  # fmt: skip
    return table(
        head,
        (
            (
                str(r.get("group", r.get("data"))),
                f"{r['n']:,}",
                percent(r["mIoU"]),
                between(r["interval"]),
                *(percent(r[name]) for name in ("Pr@0.5", "right", "wrong", "nothing")),
                percent(r["mIoU where right"]),
            )
            for r in rows
        ),
    )


# -- the other studies -------------------------------------------------------------------------


def robustness(numbers: Numbers) -> str:
    """What every change of the words costs."""
    head = ("words", "expressions changed", "mIoU", "oIoU", "mIoU lost", "95 % interval",
            "lost where changed")  # fmt: skip
    plain = numbers["metrics"]
    rows = [("as written", "-", percent(plain["mIoU"]), percent(plain["oIoU"]), "-", "-", "-")]
    for r in numbers["changes"]:
        rows.append(
            (
                r["change"],
                percent(r["changed share"], 0),
                percent(r["mIoU"]),
                percent(r["oIoU"]),
                percent(r["drop"]),
                between(r["interval"]),
                percent(r["drop where changed"]),
            )
        )
    return table(head, rows)


def consistency(numbers: Numbers) -> str:
    """Agreement beside truth and beside other objects."""
    head = ("data", "objects", "same object: mean pairwise IoU", "95 % interval",
            "mIoU with the truth", "different objects: mean IoU")  # fmt: skip
    return table(
        head,
        (
            (
                f"{r['data']} val",
                f"{r['objects']:,}",
                percent(r["agreement"]),
                between(r["agreement interval"]),
                percent(r["mIoU"]),
                percent(r["other objects"]),
            )
            for r in numbers["rows"]
        ),
    )


def ksweep(numbers: Numbers) -> str:
    """The curve as a table."""
    if numbers["mode"] == "train":
        return variants(numbers)
    names = ("mIoU", "oIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9")
    head = ("k, %", *names, "mIoU against the trained k", "95 % interval")
    return table(
        head,
        (
            (
                f"{r['k']}{' (trained)' if r['k'] == numbers['trained k'] else ''}",
                *(percent(r[name], 2) for name in names),
                f"{100 * r['change']:+.2f}",
                " to ".join(f"{100 * bound:+.2f}" for bound in r["interval"]),
            )
            for r in numbers["rows"]
        ),
    )


def tokens(numbers: Numbers) -> str:
    """How well each kind of token tells the target's pixels."""
    head = ("tokens", "AUC against the target's pixels, %", "95 % interval")
    rows = ((TOKENS[r["tokens"]], percent(r["AUC"]), between(r["interval"]))
            for r in numbers["rows"])  # fmt: skip
    return table(head, rows)


def cls_maps(numbers: Numbers) -> str:
    """AUC of the CLS token's similarity map against the mask."""
    head = ("data", "n", "AUC, %", "95 % interval")
    rows = ((f"{r['data']} val", f"{r['n']:,}", percent(r["AUC"]), between(r["interval"]))
            for r in numbers["CLS AUC"])  # fmt: skip
    return table(head, rows)


def variants(numbers: Numbers) -> str:
    """Means and spreads of trained variants."""
    head = ("variant", "seeds", "mIoU", "oIoU", "AUC of the CLS map")
    names = ("mIoU", "oIoU", "CLS AUC")
    return table(
        head,
        (
            (row["variant"], str(row["seeds"]), *(spread(row, name) for name in names))
            for row in numbers["rows"]
        ),
    )


def claims(
    rows: Iterable[Mapping[str, Any]],
    named: Callable[[str], str] = str,
    on: Mapping[str, str] | None = None,
) -> str:
    """Paired differences, each with what a paper claims of it. named: a variant in words.

    on: the words for where a row's "on" says that it was measured; None: all in one place.
    """
    where = () if on is None else ("measured on",)
    head = ("claim", "of", "over", *where, "measure", "seeds", "points", "95 % interval", "")
    return table(
        head,
        (
            (
                row["claim"] or "-",
                named(row["of"]),
                named(row["over"]),
                *(() if on is None else (on[row["on"]],)),
                row["measure"],
                str(row["seeds"]),
                points(row["difference"]),
                signed_between(row["interval"]),
                row["verdict"],
            )
            for row in rows
        ),
    )


def pairs(numbers: Numbers) -> str:
    """Paired differences between variants and what may be said of them."""
    head = ("difference", "measure", "points", "95 % interval", "verdict")
    return table(
        head,
        (
            (
                f"{r['of']} over {r['over']}",
                r["measure"],
                points(r["difference"]),
                signed_between(r["interval"]),
                r["verdict"],
            )
            for r in numbers["differences"]
        ),
    )
