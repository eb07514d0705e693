"""Study "scenes": a model that learned from few masks on every split of the rendered world."""

from __future__ import annotations

from refseg.evaluate import Options, evaluate_all
from refseg.models import Model
from studies.base import STYLES, Outcome, learned_from, open_scenes, say
from studies.main_scores import SPLITS
from studies.partial_runs import PROTOCOLS


def run(model: Model, limit: int | None) -> Outcome:
    """Scores on the nine splits; REC@0.5 is that of the answers' own boxes."""
    reports = []
    for style in STYLES:
        for split in SPLITS:
            dataset = open_scenes(style, split)
            found = evaluate_all(model, dataset, PROTOCOLS, options=Options(limit))
            reports += [report.to_json() for report in found]
            say(f"scenes: {style} {split}: mIoU {found[0].metrics['mIoU']:.3f}")
    data = [f"{style} {split}" for style in STYLES for split in SPLITS]
    seeds = {"scenes": 0, "bootstrap": 0}
    return Outcome({"reports": reports}, PROTOCOLS, data, learned_from(model), seeds)
