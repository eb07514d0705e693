"""Study "ablation" (VEGA's Tables 2 to 4): what each part is worth, with paired seeds.

    python -m studies.vega ablation --guidance language enhanced enhanced+visual --seeds 0 1 2
    python -m studies.vega ablation --table contrastive --seeds 0 1 2 --steps 4000

With language-only guidance VEGA selects no pixels, so its contrastive loss is gone too: Table 2
compares whole systems. The AUC of the CLS token's similarity map tells what that loss teaches.
"""

from __future__ import annotations

from studies.base import Outcome, Setting
from studies.paired import NOTE_SEEDS, differences, summary
from studies.trained import MEASURES, train_all


def run(setting: Setting) -> Outcome:
    """Train what is not trained yet, score, compare."""
    training = setting.training
    assert training is not None
    done = train_all(training, setting.limit)
    numbers = {
        "table": training.table,
        "steps": done[0].steps,
        "n": done[0].n,
        "rows": summary(done, training.variants, MEASURES),
        "differences": differences(done, training.variants, MEASURES),
        "runs": [one.to_json() for one in done],
        "note": NOTE_SEEDS,
    }
    seeds = {"training": list(training.seeds), "scenes": 0}
    return Outcome(numbers, [done[0].protocol], done[0].data, done[0].labels, seeds)
