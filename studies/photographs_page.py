"""What fills the sections of docs/results.md on photographs; see `studies.results`."""

from __future__ import annotations

from collections.abc import Mapping

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
        "photographs": f"{numbers['photographs']:,}",
        "objects": f"{numbers['objects']:,}",
    }


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
    return {"table": table(head, rows), "photographs": f"{numbers['photographs']:,}"}
