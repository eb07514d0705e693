"""What each step of a run was worth: differences between its stages on the same pictures.

Expression by expression, or object by object, with intervals over pictures; one training each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refseg.evaluate_text import RUNS_ON
from refseg.meaning import UNAMBIGUOUS
from studies.directions import CIDER, RB_ACC, change, difference

#: Stages that leave a model -> what has been done by then.
STEPS = {
    "train": "step 1: both heads together",
    "disambiguate": "step 2: the writer, by reward",
    "retrain": "step 3: again, with written expressions",
    "disambiguate_again": "step 2 once more",
}
#: Stage -> the one that it is held against.
OVER = {"disambiguate": "train", "retrain": "train", "disambiguate_again": "retrain"}
#: Stages that teach the writer by reward and leave the reader as it is.
BY_REWARD = ("disambiguate", "disambiguate_again")
READING = "mIoU"
WRITING = (CIDER, RB_ACC, UNAMBIGUOUS, RUNS_ON)


@dataclass(frozen=True)
class Scored:
    """A stage's reports with samples on one data set; texts: by one search."""

    stage: str
    data: str
    beams: int
    masks: Mapping[str, Any]
    texts: Mapping[str, Any]


def differences(done: Sequence[Scored]) -> list[dict[str, Any]]:
    """Each stage against the one in `OVER`, data set by data set; reading once, writing by search.

    "beams" is None where it was about reading, which step 2 does not change. Raises ValueError for
    stages that were asked about other expressions or objects.
    """
    by = {(one.stage, one.data, one.beams): one for one in done}
    rows = []
    for of in done:
        over = by.get((OVER.get(of.stage, ""), of.data, of.beams))
        if over is None:
            continue
        if of.stage not in BY_REWARD and of.beams == done[0].beams:
            rows.append(_row(of, over, None, READING))
        rows += [_row(of, over, of.beams, measure) for measure in WRITING]
    return rows


def _row(of: Scored, over: Scored, beams: int | None, measure: str) -> dict[str, Any]:
    mine, theirs = ((one.masks if beams is None else one.texts)["samples"] for one in (of, over))
    images = mine["image_id"]
    if images != theirs["image_id"] or mine.get("ann_id") != theirs.get("ann_id"):
        raise ValueError("the two stages were asked about other things")
    mean, interval = difference(_each(mine, measure), _each(theirs, measure), images)
    return {
        "stage": of.stage,
        "of": STEPS[of.stage],
        "over": STEPS[over.stage],
        "data": of.data,
        "beams": beams,
        "measure": measure,
        "difference": mean,
        "interval": interval,
        "verdict": change(interval),
    }


def _each(samples: Mapping[str, Any], measure: str) -> list[float]:
    """The measure of every expression or object."""
    if measure == UNAMBIGUOUS:
        return [float(meaning == UNAMBIGUOUS) for meaning in samples["meaning"]]
    name = {READING: "iou", RB_ACC: "hit"}.get(measure, measure)
    return [float(value) for value in samples[name]]
