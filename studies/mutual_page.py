"""What fills the sections of docs/results.md on mutual supervision; see `studies.results`."""

from __future__ import annotations

from collections.abc import Mapping

from studies import mutual_scenes_tables, mutual_tables, mutual_why
from studies.tables import Numbers, percent

Values = Mapping[str, str]


def boxes(numbers: Numbers) -> Values:
    """Of `studies/text/mutual_boxes.md`."""
    return {
        "comprehension": mutual_tables.comprehension(numbers),
        "expressions": mutual_tables.expressions(numbers),
        "directions": mutual_tables.directions(numbers),
        "verdicts": mutual_tables.verdicts(numbers),
        "examples": mutual_tables.examples(numbers),
        "never": f"{numbers['never']:,}",
        "runs": mutual_tables.runs(numbers),
        "rivals": mutual_tables.rivals(numbers),
        "meteor": mutual_tables.meteor_of(numbers),
        "about_meteor": mutual_tables.about_meteor(numbers),
        "runs_on": mutual_why.runs_on(numbers),
        "lengths": mutual_why.lengths(numbers),
        "searches": mutual_why.searches(numbers),
        "rewards": mutual_why.rewards(numbers),
    }


def scenes(numbers: Numbers) -> Values:
    """Of `studies/text/mutual_scenes.md`."""
    return {
        "reading": mutual_scenes_tables.reading(numbers),
        "writing": mutual_scenes_tables.writing(numbers),
        "gate": mutual_scenes_tables.gate(numbers),
        "steps": mutual_scenes_tables.steps(numbers),
        "worth": mutual_scenes_tables.worth(numbers),
        "differences": mutual_scenes_tables.differences(numbers),
        "judge": mutual_tables.identity(numbers["judge"]),
    }


def ablation(numbers: Numbers) -> Values:
    """Of `studies/text/mutual_ablation-*.md`."""
    told = {
        "table": mutual_tables.variants(numbers),
        "pairs": mutual_tables.pairs(numbers),
        "note": numbers["note"],
        "steps": f"{numbers['steps']:,}",
        "world": str(numbers["world"]),
        "judge": mutual_tables.identity(numbers["judge"]),
    }
    if numbers["table"] == "written":
        told |= {"share": percent(numbers["share"], 0), "known": mutual_tables.known(numbers)}
    return told
