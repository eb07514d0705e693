"""Which of a teacher's masks are kept, where they have to agree with the boxes that are known.

The selection of pseudo labels of Partial-RES (CVPR 2023). What is not kept is not written at all,
lest a student take what the teacher missed for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from refseg.data.dataset import Entry
from refseg.errors import RunError
from refseg.label.job import Line
from refseg.ops.projection import projection_score
from refseg.types import Prediction

#: Why a mask is left out; the first that is true counts.
NO_BOX, NOTHING, DISAGREES = "no box known", "nothing found", "box disagrees"
REASONS = (NO_BOX, NOTHING, DISAGREES)
SCORE_DIGITS = 6
SHARE_DIGITS = 4


def compared(entry: Entry, prediction: Prediction) -> Line:
    """The part "projection" of a line: `projection_score`, None where no box is known."""
    if entry.box_xyxy is None:
        return {"projection": None}
    return {"projection": round(projection_score(prediction.mask, entry.box_xyxy), SCORE_DIGITS)}


def why_not(line: Line, agree: float | None) -> str | None:
    """Why an answer is left out, one of `REASONS`; None for one that is kept, as all are where
    nothing has to `agree`.
    """
    if agree is None:
        return None
    if line["projection"] is None:
        return NO_BOX
    if line["counts"] is None:
        return NOTHING
    return None if line["projection"] < agree else DISAGREES


def tally(line: Line, agree: float) -> dict[str, int]:
    """What a line adds to the summary: refs and reasons sum to what was asked."""
    why = why_not(line, agree)
    reasons = {reason: int(reason == why) for reason in REASONS}
    return {"refs": int(why is None), "expressions": int(why is None), **reasons}


def kept_share(counts: Mapping[str, int], asked: int) -> dict[str, float]:
    """ "kept share", 0..1."""
    return {"kept share": round(counts["refs"] / asked, SHARE_DIGITS)}


class NoneKept(RunError):
    """No mask fits its known box."""


def none_kept(counts: Mapping[str, int], agree: float | None) -> NoneKept:
    """The error of a job that kept no mask."""
    why = ", ".join(f"{reason} {counts[reason]:,}" for reason in REASONS if counts[reason])
    return NoneKept(
        f"no mask agrees with its box better than {agree} ({why})",
        remedy="raise the threshold (--agree; a mask beside its box scores 2) or take a better "
        "teacher, and give another --out",
    )
