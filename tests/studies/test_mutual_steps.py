"""What each step of a run was worth, and whether step 2 may be shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from refseg.metrics.meter import bootstrap_interval
from studies import mutual_page, mutual_scenes_tables
from studies.directions import HIGHER, LOWER, UNCLEAR
from studies.mutual_steps import STEPS, Scored, differences
from studies.results import RESULTS

COUNT = 60


def scored(
    stage: str, meanings: Sequence[str], *, beams: int = 1, iou: float = 0.5, data: str = "scenes"
) -> Scored:
    images = [row // 2 for row in range(COUNT)]
    masks = {"image_id": images, "iou": [iou + row / 1000 for row in range(COUNT)]}
    texts = {
        "image_id": images, "ann_id": list(range(COUNT)), "meaning": list(meanings),
        "CIDEr": [1.0] * COUNT, "hit": [True] * COUNT, "runs on": [False] * COUNT,
    }  # fmt: skip
    return Scored(stage, data, beams, {"samples": masks}, {"samples": texts})


def meanings(clear: int) -> list[str]:
    return ["unambiguous"] * clear + ["not understood"] * (COUNT - clear)


def of(rows: list[dict[str, Any]], stage: str, measure: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["stage"], row["measure"]) == (stage, measure)]


def test_steps_are_compared_pair_by_pair_on_the_same_objects() -> None:
    before, after = meanings(40), meanings(10)
    rows = differences([scored("train", before), scored("disambiguate", after)])
    (row,) = of(rows, "disambiguate", "unambiguous")
    gaps = [
        int(a == "unambiguous") - int(b == "unambiguous")
        for a, b in zip(after, before, strict=True)
    ]
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert row["interval"] == bootstrap_interval(gaps, groups=[n // 2 for n in range(COUNT)])
    assert (row["verdict"], row["over"], row["beams"]) == (LOWER, STEPS["train"], 1)
    assert not of(rows, "disambiguate", "mIoU")  # the reader is the same
    assert of(rows, "disambiguate", "CIDEr")[0]["verdict"] == UNCLEAR


def test_reading_is_compared_once_and_writing_by_every_search() -> None:
    done = [
        scored(stage, meanings(30), beams=beams, iou=iou)
        for stage, iou in (("train", 0.5), ("retrain", 0.6), ("disambiguate_again", 0.6))
        for beams in (1, 3)
    ]
    rows = differences(done)
    (read,) = of(rows, "retrain", "mIoU")
    assert (read["difference"], read["verdict"]) == (pytest.approx(0.1), HIGHER)
    assert read["beams"] is None
    assert [row["beams"] for row in of(rows, "retrain", "Rb-Acc")] == [1, 3]
    again = of(rows, "disambiguate_again", "Rb-Acc")
    assert {row["over"] for row in again} == {STEPS["retrain"]}


def test_stages_about_other_objects_are_not_compared() -> None:
    other = scored("disambiguate", meanings(30))
    other.texts["samples"]["ann_id"][0] = 99
    with pytest.raises(ValueError, match="other things"):
        differences([scored("train", meanings(30)), other])


@pytest.mark.parametrize(("after", "ships"), [(10, False), (30, True), (29, True), (50, True)])
def test_the_page_says_that_step_2_costs_unambiguous_sentences(after: int, ships: bool) -> None:
    done = [
        scored(stage, meanings(clear if beams == 3 else 30), beams=beams)
        for stage, clear in (("train", 30), ("disambiguate", after))
        for beams in (1, 3)
    ]
    told = mutual_scenes_tables.gate({"differences": differences(done)})
    assert ("should not be shipped" in told) != ships
    assert ("in 1 of 2 comparisons" in told) != ships
    assert ("step 2: the writer, by reward, scenes val, 3 beams: -33.3 points" in told) != ships
    assert "greedy" not in told
    assert ("none of 2" in told) == ships


def test_the_gate_is_about_step_2_alone() -> None:
    rows = differences([scored("train", meanings(50)), scored("retrain", meanings(5))])
    assert "not measured" in mutual_scenes_tables.gate({"differences": rows})


def test_differences_have_a_row_for_every_pair_data_and_search() -> None:
    done = [scored(stage, meanings(30), beams=n) for stage in STEPS for n in (1, 3)]
    numbers = {"differences": differences(done)}
    lines = mutual_scenes_tables.differences(numbers).splitlines()
    assert len(lines) == 2 + 3 * 2 + 1  # writing by search, and reading once
    assert len({line.count("|") for line in lines}) == 1
    told = mutual_scenes_tables.worth(numbers)
    assert len(told.splitlines()) == 3
    assert "CIDEr inconclusive in 2 of 2" in told


EXPRESSIONS = {
    "data": "scenes", "split": "val", "n": 834, "beams": 3,
    "metrics": {
        "CIDEr": 1.11, "Rb-Acc": 0.787, "unambiguous": 0.124, "means several": 0.011,
        "means another": 0.012, "means none": 0.033, "not understood": 0.82, "words": 5.0,
        "runs on": 0.0625,
    },
    "intervals": {"Rb-Acc": [0.75, 0.8], "unambiguous": [0.1, 0.15]},
}  # fmt: skip


def test_all_that_the_oracle_says_has_a_column() -> None:
    told = mutual_scenes_tables.writing({"expressions": [EXPRESSIONS]})
    head, _, row = ([cell.strip() for cell in line.split("|")] for line in told.splitlines())
    cells = dict(zip(head, row, strict=True))
    assert (cells["means none"], cells["not understood"]) == ("3.3", "82.0")
    assert (cells["means several"], cells["means another"]) == ("1.1", "1.2")
    assert cells["runs on"] == "6.2"


def test_the_summary_tells_what_is_written_and_by_which_model() -> None:
    reports = [{"model": "mutual-scenes"}]
    other = {**EXPRESSIONS, "split": "testA"}
    told = mutual_scenes_tables.summary({"reports": reports, "expressions": [EXPRESSIONS, other]})
    rows = [line for line in told.splitlines() if line.startswith("| scenes")]
    assert rows == [
        "| scenes val (rendered) | mutual-scenes | 834 | 3 beams | 1.110 | "
        "**78.7** (75.0 to 80.0) | 12.4 | 6.2 |"
    ]


def test_records_from_before_these_measures_are_shown_with_dashes() -> None:
    record = json.loads((RESULTS / "mutual_scenes.json").read_text(encoding="utf-8"))["numbers"]
    for row in record["expressions"]:
        row["metrics"].pop("runs on", None)
    record.pop("differences", None)
    for row in record["steps"]:
        for name in ("beams", "runs on", "not understood"):
            row.pop(name, None)
    told = mutual_page.scenes(record)
    assert "not measured" in told["gate"]
    assert "| - |" in told["writing"]
    assert told["differences"] == ""
