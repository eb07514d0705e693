"""What fills the sections of docs/results.md on photographs; see `studies.results`."""

from __future__ import annotations

from collections.abc import Mapping

from studies.tables import Numbers, percent, table

Values = Mapping[str, str]


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
