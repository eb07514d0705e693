"""Study "main": the model on every style and split of the rendered world, beside what needs no
words, and broken down by what limits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refseg.baselines import NAMES, make_baseline
from refseg.data.dataset import ReferDataset
from refseg.evaluate import Options, Report, evaluate_all
from refseg.models import Model
from studies.base import STYLES, Outcome, Setting, learned_from, open_scenes, say
from studies.questions import KINDS, Answer, Answers, grouped, kind_of, scores, thirds

SPLITS = ("val", "testA", "testB")
PROTOCOLS = ("original", "lavt-480")


def run(setting: Setting) -> Outcome:
    """Scores on the nine splits; breakdowns over the three val splits together."""
    model, reports, answers = setting.loaded, [], []
    for style in STYLES:
        for split in SPLITS:
            dataset = open_scenes(style, split)
            keep = Answers(dataset) if split == "val" else None
            reports += _scored(model, dataset, setting.limit, keep)
            if keep is not None:
                answers.append((style, keep.rows))
            say(f"main: {style} {split}: mIoU {reports[-2 - len(NAMES)].metrics['mIoU']:.3f}")
    numbers = {"reports": [_told(report) for report in reports], **_breakdowns(answers)}
    data = [f"{style} {split}" for style in STYLES for split in SPLITS]
    seeds = {"scenes": 0, "bootstrap": 0}
    return Outcome(numbers, PROTOCOLS, data, learned_from(model), seeds)


def _scored(
    model: Model, dataset: ReferDataset, limit: int | None, keep: Answers | None
) -> list[Report]:
    """The model under both protocols, then the baselines under the first."""
    reports = evaluate_all(model, dataset, PROTOCOLS, options=Options(limit, keep=keep))
    for name in NAMES:
        baseline = make_baseline(name, dataset)
        reports += evaluate_all(baseline, dataset, PROTOCOLS[:1], options=Options(limit))
    return reports


def _told(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.to_json().items() if key != "text"}


def _breakdowns(answers: Sequence[tuple[str, Sequence[Answer]]]) -> dict[str, Any]:
    together = [row for _, rows in answers for row in rows]
    sizes, bounds = thirds([row.area_share for row in together])
    kinds = [kind_of(row.text) for row in together]
    return {
        "by size": grouped(together, sizes.__getitem__, ("small", "medium", "large")),
        "size bounds": bounds,
        "by kind": grouped(together, kinds.__getitem__, (*KINDS, "unknown")),
        "by style": [{"group": style, **scores(rows)} for style, rows in answers],
    }
