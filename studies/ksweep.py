"""Study "ksweep" (VEGA's Figure 4 and Table 6): how many pixels each word selects.

Two questions that must not be mixed up:
- "inference": the trained model answers with another k than it was trained with. Cheap, and no
  more than a test of how much the answer hangs on k;
- "train": a model is trained for each k, which is what the paper did. Expensive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from refseg.errors import ModelError
from refseg.evaluate import Options, evaluate_all
from refseg.metrics.meter import bootstrap_interval
from refseg.models import Model
from studies.base import Outcome, Setting, learned_from, open_scenes, say
from studies.paired import NOTE_SEEDS, differences, summary
from studies.trained import MEASURES, train_all

PROTOCOL = "original"
EXPRESSIONS = 1200  # at inference, of scenes val: differences are paired, so fewer will do
SHARES = (10, 20, 30, 40, 50, 60, 70, 80, 100)  # k, % of the pixels


def run(setting: Setting) -> Outcome:
    """The curve: at inference, or by training when `setting.training` says how."""
    return _by_training(setting) if setting.training is not None else _at_inference(setting)


def _at_inference(setting: Setting) -> Outcome:
    model, dataset = setting.loaded, open_scenes("scenes", "val")
    trained = round(100 * _selection(model).config.ratio)
    limit = min(setting.limit or EXPRESSIONS, EXPRESSIONS)
    rows, iou = [], {}
    for share in sorted({*SHARES, trained}):
        with selecting(model, share / 100):
            report = evaluate_all(model, dataset, [PROTOCOL], options=Options(limit))[0]
        iou[share] = np.array(report.samples["iou"])
        names = ("mIoU", "oIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9")
        rows.append({"k": share, **{name: report.metrics[name] for name in names}})
        say(f"ksweep: k = {share} %: mIoU {report.metrics['mIoU']:.3f}")
    images = _images(dataset, report.samples["key"])
    for row in rows:
        change = iou[row["k"]] - iou[trained]
        row["change"] = float(change.mean())
        row["interval"] = bootstrap_interval(change, groups=images)
    numbers = {"mode": "inference", "trained k": trained, "n": report.n, "rows": rows}
    seeds = {"scenes": 0, "bootstrap": 0}
    return Outcome(numbers, [PROTOCOL], ["scenes val"], learned_from(model), seeds)


@contextmanager
def selecting(model: Model, ratio: float) -> Iterator[None]:
    """The model with another share of pixels selected; as before afterwards."""
    select = _selection(model)
    before = select.config
    select.config = before.model_copy(update={"ratio": ratio})
    try:
        yield
    finally:
        select.config = before


def _selection(model: Model) -> Any:
    select = getattr(model.method, "select", None)
    if select is None:
        raise ModelError(
            f"model {model.name} selects no pixels",
            remedy="this study needs VEGA with visual guidance",
        )
    return select


def _images(dataset: Any, keys: list[str]) -> list[int]:
    image_of = {e.key: e.image_id for e in (dataset.entry(i) for i in range(len(dataset)))}
    return [image_of[key] for key in keys]


def _by_training(setting: Setting) -> Outcome:
    training = setting.training
    assert training is not None
    done = train_all(training, setting.limit)
    numbers = {
        "mode": "train",
        "rows": summary(done, training.variants, MEASURES),
        "differences": differences(done, training.variants, MEASURES),
        "runs": [one.to_json() for one in done],
        "note": NOTE_SEEDS,
    }
    first = done[0]
    seeds = {"training": list(training.seeds), "scenes": 0}
    return Outcome(numbers, [first.protocol], first.data, first.labels, seeds)
