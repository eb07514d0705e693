"""Study "pictures": outlines point by point, where points look (Figure 2), resampling (Figure 3).

Figure 2 says that with CCTF and PMCA the cross-attention lies more on the object that is meant;
here its share there is measured, too, and Figure 3's evenness of points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refseg import draw
from refseg.data.dataset import ReferDataset
from refseg.models import Model
from refseg.ops.masks import response_in_px
from refseg.recipes.opening import open_split
from refseg.types import Prediction, Sample
from studies.base import Outcome, open_scenes, say
from studies.partial_pseudo import resampled, spacing
from studies.partial_runs import (
    FULL,
    NAIVE,
    PARTS,
    Few,
    labels_of,
    shares_recipe,
    trained,
)
from studies.plots import Cell, picture_grid

SHARE = 0.01
EXPRESSIONS, BATCH, COLUMNS = 600, 60, 5
SHOWN = (0, 3, 6, 9)  # points whose attention is drawn


@dataclass(frozen=True)
class Answered:
    """One answer. attention: [N, H, W] px of each point, mean over heads; looks: its share on the
    true mask.
    """

    sample: Sample
    prediction: Prediction
    attention: NDArray[np.float32]
    iou: float

    @property
    def looks(self) -> float:
        """How much of the attention, of all points, lies on the object that is meant."""
        mask = self.sample.mask
        assert mask is not None
        total = float(self.attention.sum())
        return float(self.attention[:, mask].sum()) / total if total else 0.0

    @property
    def at_border(self) -> float:
        """How much of it lies at the picture's border."""
        return at_border(self.attention)


def run(asked: Few) -> Outcome:
    """With 1 % of the masks; trains what is not trained yet."""
    seed, data = asked.seeds[0], open_scenes("scenes", "val")
    limit = min(asked.limit or EXPRESSIONS, EXPRESSIONS)
    models = {kind: trained(asked, kind, SHARE, seed).load() for kind in (NAIVE, PARTS, FULL)}
    done = {kind: answer(model, data, limit) for kind, model in models.items()}
    recipe = shares_recipe(asked, FULL, SHARE, seed).model_copy(update={"select": None})
    learned = open_split(_unmasked(recipe), recipe.data.train)
    pseudo = answer(models[PARTS], learned, limit)
    numbers = {
        "n": limit,
        "share": SHARE,
        **attention(done),
        "unevenness": unevenness(pseudo, models[PARTS].method.config.sequence.points),
    }
    drawn = {
        "partial-points.png": points_picture(done[FULL]),
        "partial-attention.png": attention_picture(done[NAIVE], done[PARTS]),
        "partial-resampling.png": resampling_picture(pseudo),
    }
    pictures = {name: png for name, png in drawn.items() if png is not None}
    labels = labels_of(trained(asked, FULL, SHARE, seed))
    return Outcome(numbers, ["original"], ["scenes val"], labels, {"training": seed}, pictures)


def _unmasked(recipe: Any) -> Any:
    """The training split with all masks, to look at what is labelled; nothing learns from it."""
    data = recipe.data.model_copy(update={"mask_share": None})
    return recipe.model_copy(update={"data": data})


@torch.inference_mode()
def answer(model: Model, data: ReferDataset, limit: int) -> list[Answered]:
    """The first expressions, with where each of their points looked."""
    say(f"pictures: {model.name} on {data.name} {data.split}")
    found, method = [], model.method
    for start in range(0, min(limit, len(data)), BATCH):
        samples = data.samples(range(start, min(start + BATCH, limit, len(data))))
        batch = model.batch(samples, share_images=True)
        outputs = method(batch)
        written = method.coordinates(outputs)
        looked = written.attention[..., : outputs.grid.hw[0] * outputs.grid.hw[1]].mean(dim=1)
        looked = looked.unflatten(1, (-1, 2)).mean(dim=2).unflatten(-1, outputs.grid.hw).numpy()
        for sample, one, maps in zip(samples, method.decode(outputs, batch), looked, strict=True):
            found.append(_answered(sample, one, maps))
    return found


def _answered(sample: Sample, prediction: Prediction, maps: NDArray[np.float32]) -> Answered:
    assert sample.mask is not None
    both = (prediction.mask & sample.mask).sum()
    either = (prediction.mask | sample.mask).sum()
    in_px = np.stack([response_in_px(one, prediction.geometry) for one in maps])
    return Answered(sample, prediction, in_px, float(both / either) if either else 1.0)


def attention(done: Mapping[str, Sequence[Answered]]) -> dict[str, Any]:
    """Of the expressions that all models answer rightly (IoU above 0.5): the share of attention on
    the object meant and at the picture's border, and what each would be if it lay evenly.
    """
    right = [i for i, rows in enumerate(zip(*done.values(), strict=True)) if _all_right(rows)]
    some = {kind: [rows[i] for i in right] for kind, rows in done.items()}
    one = next(iter(some.values()))
    return {
        "right": len(right),
        "looks": {kind: _mean([row.looks for row in rows]) for kind, rows in some.items()},
        "border": {kind: _mean([row.at_border for row in rows]) for kind, rows in some.items()},
        "even": {
            "looks": _mean([_mask(row).mean() for row in one]),
            "border": _mean([at_border(np.ones((1, *_mask(row).shape))) for row in one]),
        },
    }


def _all_right(rows: Sequence[Answered]) -> bool:
    return min(row.iou for row in rows) > 0.5


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def at_border(maps: NDArray[np.floating]) -> float:
    """The share of maps [N, H, W] in the outermost eighth of either side."""
    height, width = maps.shape[1:]
    y, x = -(-height // 8), -(-width // 8)
    total = float(maps.sum())
    return 1 - float(maps[:, y : height - y, x : width - x].sum()) / total if total else 0.0


def unevenness(rows: Sequence[Answered], points: int) -> dict[str, float]:
    """Spread of the gaps between points over their mean: as written, resampled, of the truth."""
    some = [one for one in rows if one.prediction.polygons and one.prediction.mask.any()]
    return {
        "as written": spacing([one.prediction.polygons[0] for one in some]),
        "resampled": spacing([resampled(one.prediction.mask, points) for one in some]),
        "true masks": spacing([resampled(_mask(one), points) for one in some]),
    }


def _mask(one: Answered) -> NDArray[np.bool_]:
    assert one.sample.mask is not None
    return one.sample.mask


def points_picture(rows: Sequence[Answered]) -> bytes | None:
    """Best, middling and worst answers, their points numbered in order, the truth as a mask."""
    ranked = sorted((one for one in rows if one.prediction.polygons), key=lambda one: -one.iou)
    middle = len(ranked) // 2
    told = {
        "best": _spread(ranked[: len(ranked) // 5]),
        "middle": _spread(ranked[middle - len(ranked) // 10 : middle + len(ranked) // 10]),
        "worst": _spread(ranked[-len(ranked) // 5 :]),
    }
    cells = [
        [
            Cell(draw.pointed(o.sample.image, o.prediction.polygons[0]), o.sample.text, iou=o.iou)
            for o in row
        ]
        for row in told.values()
    ]
    return picture_grid(cells, list(told)) if any(cells) else None


def attention_picture(naive: Sequence[Answered], parts: Sequence[Answered]) -> bytes | None:
    """Where four points look, without CCTF and PMCA above and with them below."""
    places = [
        i for i, (a, b) in enumerate(zip(naive, parts, strict=True)) if min(a.iou, b.iou) > 0.5
    ]
    rows, labels = [], []
    for place in places[:: max(len(places) // 2, 1)][:2]:
        for name, one in (("naive", naive[place]), ("CCTF, PMCA", parts[place])):
            shown = [
                Cell(draw.pointed(one.sample.image, one.prediction.polygons[0]), one.sample.text)
            ]
            for point in SHOWN:
                heat = one.attention[point] / max(float(one.attention[point].max()), 1e-6)
                shown.append(Cell(draw.heat(one.sample.image, heat), f"point {point + 1}"))
            rows.append(shown)
            labels.append(name)
    return picture_grid(rows, labels) if rows else None


def resampling_picture(rows: Sequence[Answered]) -> bytes | None:
    """Pseudo points of training pictures as they were written, and after RPP."""
    some = [one for one in rows if one.prediction.mask.any() and 0.6 < one.iou < 0.95]
    chosen = _spread(some)
    written = [
        Cell(draw.pointed(o.sample.image, o.prediction.polygons[0]), o.sample.text) for o in chosen
    ]
    count = len(chosen[0].prediction.polygons[0]) if chosen else 0
    again = [
        Cell(draw.pointed(o.sample.image, resampled(o.prediction.mask, count)), "") for o in chosen
    ]
    return picture_grid([written, again], ["as written", "resampled"]) if chosen else None


def _spread(rows: Sequence[Answered]) -> list[Answered]:
    """`COLUMNS` of them, evenly, of different pictures."""
    found: list[Answered] = []
    for one in rows[:: max(len(rows) // (4 * COLUMNS), 1)]:
        if one.sample.image_id not in {other.sample.image_id for other in found}:
            found.append(one)
    return found[:: max(len(found) // COLUMNS, 1)][:COLUMNS]
