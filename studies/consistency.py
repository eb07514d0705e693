"""Study "consistency" (VEGA's Figures 7 and 9): one object, several wordings, one mask?

A model that ignores the words agrees with itself perfectly. So two more numbers stand beside the
agreement: the IoU with the truth, and the agreement of masks for *different* objects of a picture,
which should be near zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refseg.evaluate import Options, evaluate_all
from refseg.metrics.iou import pairwise_iou
from refseg.metrics.meter import bootstrap_interval, pairwise_consistency
from refseg.types import Prediction, Sample
from studies.base import STYLES, Outcome, Setting, learned_from, open_scenes, say
from studies.plots import Cell, picture_grid
from studies.questions import Objects

PROTOCOL = "original"
WORDINGS = 3  # expressions of each object shown
SHOWN = {"consistent": 0.9, "middling": 0.5, "inconsistent": 0.1}  # quantiles of the agreement


@dataclass
class Asked:
    """Masks by object, pictures and words; masks are packed to bits."""

    samples: dict[int, list[Sample]] = field(default_factory=dict)
    masks: dict[int, list[NDArray[np.uint8]]] = field(default_factory=dict)
    iou: dict[int, list[float]] = field(default_factory=dict)

    def __call__(self, sample: Sample, prediction: Prediction, iou: float) -> None:
        """See `refseg.evaluate.Options.keep`."""
        self.samples.setdefault(sample.ref_id, []).append(sample)
        self.masks.setdefault(sample.ref_id, []).append(np.packbits(prediction.mask))
        self.iou.setdefault(sample.ref_id, []).append(iou)

    def unpacked(self, ref_id: int) -> NDArray[np.bool_]:
        """[expressions, H, W], the masks of one object."""
        height, width = self.samples[ref_id][0].image.shape[:2]
        flat = [np.unpackbits(mask, count=height * width) for mask in self.masks[ref_id]]
        return np.stack(flat).reshape(-1, height, width).astype(np.bool_)

    def image_of(self, ref_id: int) -> int:
        """The picture the object is in."""
        return self.samples[ref_id][0].image_id


@dataclass(frozen=True)
class Object:
    """One object with several wordings. agreement: mean pairwise IoU of its masks. iou: mean."""

    ref_id: int
    image_id: int
    agreement: float
    iou: float


def run(setting: Setting) -> Outcome:
    """Agreement on the three val splits, and a picture of three objects of `scenes`."""
    model, rows, pictures = setting.loaded, [], {}
    for style in STYLES:
        asked, dataset = Asked(), open_scenes(style, "val")
        evaluate_all(model, dataset, [PROTOCOL], options=Options(setting.limit, keep=asked))
        found = agreements(asked)
        rows.append({"data": style, **_told(found), **_others(asked)})
        say(f"consistency: {style}: {rows[-1]['agreement']:.3f}")
        if style == STYLES[0]:
            pictures["consistency.png"] = _picture(asked, found, Objects(dataset))
    data = [f"{style} val" for style in STYLES]
    seeds = {"scenes": 0, "bootstrap": 0}
    numbers = {"rows": rows}
    return Outcome(numbers, [PROTOCOL], data, learned_from(model), seeds, pictures)


def agreements(asked: Asked) -> list[Object]:
    """Every object with two wordings or more."""
    return [
        Object(
            ref_id,
            asked.image_of(ref_id),
            pairwise_consistency(list(asked.unpacked(ref_id))),
            float(np.mean(asked.iou[ref_id])),
        )
        for ref_id, masks in asked.masks.items()
        if len(masks) > 1
    ]


def _told(found: Sequence[Object]) -> dict[str, Any]:
    agreement = np.array([one.agreement for one in found])
    iou = np.array([one.iou for one in found])
    images = [one.image_id for one in found]
    return {
        "objects": len(found),
        "agreement": float(agreement.mean()),
        "agreement interval": bootstrap_interval(agreement, groups=images),
        "mIoU": float(iou.mean()),
        "mIoU interval": bootstrap_interval(iou, groups=images),
    }


def _others(asked: Asked) -> dict[str, float]:
    """The mean IoU of masks that were meant for different objects of one picture."""
    refs_of: dict[int, list[int]] = {}
    for ref_id in asked.masks:
        refs_of.setdefault(asked.image_of(ref_id), []).append(ref_id)
    values = [v for refs in refs_of.values() for v in across(map(asked.unpacked, refs))]
    return {"other objects": float(np.mean(values)) if values else 0.0}


def across(groups: Iterable[NDArray[np.bool_]]) -> list[float]:
    """IoU of every mask with every mask of another group; a group is [expressions, H, W]."""
    told = list(groups)
    return [
        float(v)
        for place, one in enumerate(told)
        for other in told[place + 1 :]
        for v in pairwise_iou(one, other).ravel()
    ]


def _picture(asked: Asked, found: Sequence[Object], objects: Objects) -> bytes:
    """Three objects of different pictures: at the 90th, 50th and 10th percentile of agreement."""
    order = sorted(
        (one for one in found if len(asked.masks[one.ref_id]) >= WORDINGS),
        key=lambda one: (one.agreement, one.ref_id),
    )
    rows, labels, used = [], [], set()
    for label, quantile in SHOWN.items():
        place = round(quantile * (len(order) - 1))
        chosen = next((one for one in order[place:] if one.image_id not in used), order[place])
        used.add(chosen.image_id)
        rows.append(_cells(asked, chosen.ref_id, objects))
        labels.append(f"{label}\n{100 * chosen.agreement:.0f} %")
    return picture_grid(rows, labels)


def _cells(asked: Asked, ref_id: int, objects: Objects) -> list[Cell]:
    masks, first = asked.unpacked(ref_id), asked.samples[ref_id][0]
    truth = objects.masks(first.image_id, masks[0].shape)[objects.target(first)]
    told = zip(asked.samples[ref_id], masks, asked.iou[ref_id], strict=True)
    cells = [Cell(s.image, f'"{s.text}"', mask, truth, iou) for s, mask, iou in told]
    return cells[:WORDINGS]
