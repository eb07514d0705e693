"""What fills the sections of docs/results.md on photographs; see `studies.results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studies.tables import Numbers, between, percent, table

Values = Mapping[str, str]
ANNOTATED, DETECTED = "annotated objects", "simulated detections"


def detections(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_detections.md`."""
    head = (
        "least probability", "told by", "detections a photograph", "found", "class right", "IoU",
        "probability", "detections of it",
    )  # fmt: skip
    rows = [
        (
            f"{row['least']:g}",
            str(row["source"]),
            f"{row['detections a photo']:.1f}",
            *(percent(row[name]) for name in ("found", "class right", "IoU", "probability")),
            f"{row['detections of it']:.2f}",
        )
        for row in numbers["rows"]
    ]
    return {
        "table": table(head, rows),
        "learned": _learned(numbers["held out"]),
        "photographs": f"{numbers['photographs']:,}",
        "objects": f"{numbers['objects']:,}",
    }


def _learned(rows: Sequence[Numbers]) -> str:
    """What the detector finds in photographs that it learned from, and in others."""
    head = (
        "least probability", "photographs", "n", "objects", "found", "95 % interval", "class right",
        "IoU", "probability",
    )  # fmt: skip
    return table(
        head,
        (
            (
                f"{row['least']:g}", row["photographs"], f"{row['n']:,}", f"{row['objects']:,}",
                f"**{percent(row['found'])}**", between(row["interval"]),
                *(percent(row[name]) for name in ("class right", "IoU", "probability")),
            )
            for row in rows
        ),
    )  # fmt: skip


def choice(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_choice.md`."""
    by = {(row["among"], row["data"], row["split"]): row for row in numbers["rows"]}
    rows = []
    for among, data, split in by:
        if among != ANNOTATED:
            continue
        own, other = (by[kind, data, split] for kind in (ANNOTATED, DETECTED))
        cells = [f"{data} {split}", f"{own['n']:,}"]
        for one in (own, other):
            accuracy = percent(one["metrics"]["accuracy"])
            cells += [f"**{accuracy}**", between(one["intervals"]["accuracy"])]
        rows.append([*cells, percent(own["metrics"]["chance"])])
    head = (
        "data", "n", "annotated objects", "95 % interval", "detections", "95 % interval", "chance"
    )  # fmt: skip
    return {"table": table(head, rows), "never": f"{numbers['never']:,}"}


def nothing(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_nothing.md`."""
    head = (
        "data", "own", "refused", "foreign", "refused", "area under the curve",
        "without that answer",
    )  # fmt: skip
    rows = [
        (
            row["data"],
            f"{row['n']:,}",
            percent(row["own refused"]),
            f"{row['foreign']:,}",
            f"**{percent(row['foreign refused'])}**",
            percent(row["AUC"]),
            percent(row["AUC without"]),
        )
        for row in numbers["rows"]
    ]
    return {
        "table": table(head, rows),
        "least": f"{numbers['least']:.2f}",
        "spared": f"{100 * numbers['spared']:.0f} %",
    }


def small(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_small.md`."""
    head = ("data", "n", "sides", "covers, %", "right choice", "refused")
    rows = [
        (
            row["data"], f"{row['n']:,}", f"x {row['side']:g}", percent(row["share"]),
            f"**{percent(row['accuracy'])}**", percent(row["refused"]),
        )
        for row in numbers["rows"]
    ]  # fmt: skip
    return {"table": table(head, rows), "least": f"{numbers['least']:.2f}"}


def written(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_written.md`."""
    head = (
        "objects", "who wrote", "n", "understood", "95 % interval", "CIDEr", "words", "runs on",
    )  # fmt: skip
    names = {
        "people": "people",
        "greedy": "photos, greedy",
        "beams": f"photos, best of {numbers['beams']} beams",
        "checked": "photos, the first of these that it finds again",
    }
    rows = []
    for row in numbers["rows"]:
        told = [f"{row[name]:.{digits}f}" if name in row else "-" for name, digits in _WORDED]
        runs = percent(row["runs on"]) if "runs on" in row else "-"
        own = [row["data"], names[row["writer"]], f"{row['n']:,}", f"**{percent(row['hit'])}**"]
        rows.append([*own, between(row["interval"]), *told, runs])
    seen = next(row["seen"] for row in numbers["rows"] if row["data"].endswith("photographs"))
    examples = [
        ["; ".join(one["people"]), one["written"] or "-", _found(one)]
        for one in numbers["examples"]
    ]
    judge = numbers["judge"]
    return {
        "table": table(head, rows),
        "examples": table(("people", "photos", "understood"), examples),
        "seen": percent(seen),
        "judge": f"{judge['name']}, seed {judge.get('seed', 'unknown')}, "
        f"{judge.get('steps', 'unknown')} steps, weights sha256 {judge['sha256']}",
    }


#: Of what is written: measure, digits.
_WORDED = (("CIDEr", 3), ("words", 1))


def _found(one: Mapping[str, object]) -> str:
    return ("yes" if one["hit"] else "no") + (", detected badly" if not one["seen"] else "")


def chain(numbers: Numbers) -> Values:
    """Of `studies/text/photographs_chain.md`."""
    head = (
        "data", "proposals and choice", "mIoU", "95 % interval", "oIoU", "95 % interval", "Pr@0.5",
        "best choice",
    )  # fmt: skip
    rows = []
    for row in numbers["rows"]:
        metrics, intervals = row["metrics"], row["intervals"]
        rows.append(
            (
                row["data"],
                row["variant"].removeprefix("baseline:").replace("-", " "),
                f"**{percent(metrics['mIoU'])}**",
                between(intervals["mIoU"]),
                percent(metrics["oIoU"]),
                between(intervals["oIoU"]),
                percent(metrics["Pr@0.5"]),
                percent(metrics.get("oracle")),
            )
        )
    seconds = numbers["seconds"]
    return {
        "table": table(head, rows),
        "photographs": f"{numbers['photographs']:,}",
        "first": f"{seconds['first']:.2f} s",
        "further": "-" if seconds["further"] is None else f"{1000 * seconds['further']:.1f} ms",
    }


def headline(numbers: Numbers) -> Numbers:
    """Of the study "chain" what the summary tells: the model as it is, and the baselines."""
    rows = numbers["rows"]
    told = [one for one in rows if one["variant"] == "photos" or "baseline:" in one["variant"]]
    return {"reports": told}
