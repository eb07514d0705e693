"""Study "figures": answers from best to worst, and what happens inside for a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from refseg import draw
from refseg.evaluate import Options, evaluate_all
from refseg.metrics.meter import bootstrap_interval
from refseg.ops.masks import resize_mask, response_in_px
from refseg.types import Prediction, Sample
from studies.base import STYLES, Outcome, Setting, learned_from, open_scenes, say
from studies.inside import Inside, look_inside
from studies.plots import Cell, bare, draw_plain, new_figure, picture_grid, to_png
from studies.questions import Objects
from studies.trained import ClsMaps

PROTOCOL = "original"
COLUMNS = 5
WORDS = 5  # tokens of an expression shown in the diagnostic picture
EXPRESSIONS = 600


@dataclass
class Cases:
    """Every answer, and the AUC of its CLS map."""

    maps: ClsMaps
    rows: list[tuple[float, Sample, Prediction]] = field(default_factory=list)

    def __call__(self, sample: Sample, prediction: Prediction, iou: float) -> None:
        """See `refseg.evaluate.Options.keep`."""
        self.rows.append((iou, sample, prediction))
        self.maps(sample, prediction, iou)


def run(setting: Setting) -> Outcome:
    """Pictures from the first expressions of the three val splits, and the AUC of the CLS map."""
    model, pictures, rows, everything = setting.loaded, {}, [], []
    limit = min(setting.limit or EXPRESSIONS, EXPRESSIONS)
    for style in STYLES:
        dataset = open_scenes(style, "val")
        cases = Cases(ClsMaps(dataset))
        evaluate_all(model, dataset, [PROTOCOL], options=Options(limit, keep=cases))
        objects = Objects(dataset)
        everything += [(iou, sample, prediction, objects) for iou, sample, prediction in cases.rows]
        if cases.maps.values:
            interval = bootstrap_interval(cases.maps.values, groups=cases.maps.images)
            mean = float(np.mean(cases.maps.values))
            rows.append({"data": style, "n": len(cases.maps.values), "AUC": mean})
            rows[-1]["interval"] = interval
            say(f"figures: {style}: AUC of the CLS map {mean:.3f}")
    told = ranked(everything)
    pictures["gallery.png"] = picture_grid(
        [[_cell(*row) for row in told[name]] for name in told], list(told)
    )
    if rows:
        chosen = [told["best"][0], told["middle"][0], told["worst"][0]]
        samples = [row[1] for row in chosen]
        pictures["inside.png"] = inside_picture(samples, look_inside(model, samples))
    data = [f"{style} val" for style in STYLES]
    numbers = {"CLS AUC": rows, "n": len(everything)}
    seeds = {"scenes": 0, "bootstrap": 0}
    return Outcome(numbers, [PROTOCOL], data, learned_from(model), seeds, pictures)


Row = tuple[float, Sample, Prediction, Objects]


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The best, the middle and the worst answers, of a picture one at most in each."""
    order = sorted(rows, key=lambda row: (-row[0], row[1].key))
    middle = max(len(order) // 2 - COLUMNS // 2, 0)
    return {
        "best": _distinct(order),
        "middle": _distinct(order[middle:]),
        "worst": _distinct(order[::-1]),
    }


def _distinct(order: Sequence[Row]) -> list[Row]:
    first: dict[int, Row] = {}
    for row in order:
        first.setdefault(row[1].image_id, row)
    return list(first.values())[:COLUMNS]


def _cell(iou: float, sample: Sample, prediction: Prediction, objects: Objects) -> Cell:
    masks = objects.masks(sample.image_id, prediction.mask.shape)  # type: ignore[arg-type]
    truth = masks[objects.target(sample)]
    return Cell(sample.image, f'"{sample.text}"', prediction.mask, truth, iou)


def inside_picture(samples: Sequence[Sample], told: Sequence[Inside]) -> bytes:
    """A row for every expression: its mask, the CLS token's similarity, each word's pixels."""
    columns = 2 + WORDS
    figure = new_figure(columns * 1.5, len(samples) * 1.85)
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for row, (sample, inside) in enumerate(zip(samples, told, strict=True)):
        answer = Cell(sample.image, f'"{sample.text}"', inside.prediction.mask)
        grid[row, 0].imshow(answer.pixels())
        grid[row, 0].set_xlabel(answer.caption(), fontsize=7)
        scores = inside.scores[0].reshape(inside.hw)
        in_px = response_in_px(scores, inside.prediction.geometry)
        span = max(float(np.ptp(in_px)), 1e-6)
        grid[row, 1].imshow(draw.heat(sample.image, (in_px - in_px.min()) / span))
        grid[row, 1].set_xlabel("CLS similarity", fontsize=7)
        for place, (piece, cells) in enumerate(words_of(inside)):
            axes = grid[row, 2 + place]
            chosen = resize_mask(cells.reshape(inside.hw), sample.image.shape[:2])
            axes.imshow(dimmed(sample.image, chosen))
            axes.set_xlabel(draw_plain(f"selected by\n{piece}"), fontsize=7)
    return to_png(figure)


def words_of(inside: Inside) -> list[tuple[str, np.ndarray]]:
    """The first word pieces after [CLS], without [SEP], each with its selected cells [N]."""
    pairs = zip(inside.pieces, inside.selected, strict=True)
    return [(f'"{piece}"', cells) for piece, cells in pairs if not piece.startswith("[")][:WORDS]


def dimmed(image: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The image, pale where nothing was chosen."""
    pale = (0.25 * image.astype(np.float32) + 0.75 * 245).astype(np.uint8)
    return np.where(chosen[..., None], image, pale)
