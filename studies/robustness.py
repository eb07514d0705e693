"""Study "robustness" (VEGA's Figure 6 b, c): the same questions, badly typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.data.dataset import ReferDataset
from refseg.data.scenes.perturb import perturb
from refseg.evaluate import Options, Perturb, Report, evaluate_all
from refseg.metrics.meter import bootstrap_interval
from refseg.models import Model
from refseg.types import Prediction, Sample
from studies.base import Outcome, Setting, learned_from, open_scenes, say
from studies.plots import Cell, picture_grid
from studies.questions import Objects

PROTOCOL = "original"
# name -> kind and strength of `refseg.data.scenes.perturb`
CHANGES = {
    "typo": ("typo", 1),
    "two typos": ("typo", 2),
    "slang": ("slang", 1),
    "slang twice": ("slang", 2),
    "capitals": ("case", 1),
    "article": ("article", 1),
    "filler words": ("filler", 1),
}
EACH = 2  # survivors and victims shown
SHOWN = ("two typos", "slang")  # in the pictures
KEPT, LOST = 0.8, 0.3  # IoU of the pictures' examples: well answered still, or no more


@dataclass(frozen=True)
class Asked:
    """One pass over the data: the words, the pictures and the masks by the expression's key."""

    texts: dict[str, str]
    samples: dict[str, Sample]
    masks: dict[str, NDArray[np.uint8]]

    def __call__(self, sample: Sample, prediction: Prediction, iou: float) -> None:
        """See `refseg.evaluate.Options.keep`."""
        self.texts[sample.key] = sample.text
        self.samples[sample.key] = sample
        self.masks[sample.key] = np.packbits(prediction.mask)

    def cell(self, key: str, iou: float, objects: Objects) -> Cell:
        """The expression as a picture."""
        sample = self.samples[key]
        height, width = sample.image.shape[:2]
        flat = np.unpackbits(self.masks[key], count=height * width)
        mask = flat.reshape(height, width).astype(np.bool_)
        truth = objects.masks(sample.image_id, (height, width))[objects.target(sample)]
        return Cell(sample.image, f'"{self.texts[key]}"', mask, truth, iou)


Pass = tuple[Report, Asked]


def run(setting: Setting) -> Outcome:
    """Every change of the words on scenes val, each against the words as written."""
    model, dataset = setting.loaded, open_scenes("scenes", "val")
    plain = _scored(model, dataset, setting.limit, None)
    rows: list[dict[str, Any]] = []
    pictures = {}
    for name, (kind, strength) in CHANGES.items():
        changed = _scored(model, dataset, setting.limit, spoiler(kind, strength))
        rows.append({"change": name, **compared(plain, changed)})
        say(f"robustness: {name}: mIoU {changed[0].metrics['mIoU']:.3f}")
        if name in SHOWN:
            examples = survivors_and_victims(plain, changed, Objects(dataset))
            lines = [list(line) for line in zip(*examples, strict=True)]
            if lines:
                file = f"robustness-{name.replace(' ', '-')}.png"
                pictures[file] = picture_grid(lines, ("as written", name))
    numbers = {**plain[0].to_json(), "changes": rows}
    seeds = {"scenes": 0, "bootstrap": 0, "changes": "crc32 of the expression's key"}
    return Outcome(numbers, [PROTOCOL], ["scenes val"], learned_from(model), seeds, pictures)


def spoiler(kind: str, strength: int) -> Perturb:
    """The change as the evaluation takes it."""
    return lambda text, rng: perturb(text, kind, rng, strength)


def _scored(model: Model, dataset: ReferDataset, limit: int | None, change: Perturb | None) -> Pass:
    asked = Asked({}, {}, {})
    options = Options(limit, perturb=change, keep=asked)
    return evaluate_all(model, dataset, [PROTOCOL], options=options)[0], asked


def compared(plain: Pass, changed: Pass) -> dict[str, Any]:
    """How much is lost, over all expressions and over those whose words did change.

    The interval is of the paired differences, pictures drawn as wholes.
    """
    (report, asked), (after, spoiled) = plain, changed
    keys = report.samples["key"]
    assert keys == after.samples["key"]
    lost = np.array(report.samples["iou"]) - np.array(after.samples["iou"])
    touched = np.array([asked.texts[key] != spoiled.texts[key] for key in keys])
    return {
        "mIoU": after.metrics["mIoU"],
        "oIoU": after.metrics["oIoU"],
        "drop": float(lost.mean()),
        "interval": bootstrap_interval(lost, groups=[asked.samples[k].image_id for k in keys]),
        "changed share": float(touched.mean()),
        "drop where changed": float(lost[touched].mean()) if touched.any() else 0.0,
    }


def survivors_and_victims(plain: Pass, changed: Pass, objects: Objects) -> list[tuple[Cell, Cell]]:
    """The first answers that survive the change, and the first that do not, of other pictures.

    All were good as written. Pairs of cells: as written, changed.
    """
    (report, asked), (after, spoiled) = plain, changed
    rows = zip(report.samples["key"], report.samples["iou"], after.samples["iou"], strict=True)
    good = [row for row in rows if row[1] >= KEPT and asked.texts[row[0]] != spoiled.texts[row[0]]]
    found: dict[int, tuple[str, float, float]] = {}
    for low, high in ((KEPT, 2.0), (0.0, LOST)):
        wanted = len(found) + EACH
        for key, before, now in good:
            if len(found) < wanted and low <= now < high:
                found.setdefault(asked.samples[key].image_id, (key, before, now))
    return [
        (asked.cell(key, before, objects), spoiled.cell(key, now, objects))
        for key, before, now in found.values()
    ]
