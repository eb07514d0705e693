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
FEW = 3  # words that make a selection worth looking at
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
        chosen = [_long_enough(told[name]) for name in told]
        inside = look_inside(model, [row[1] for row in chosen])
        pictures["inside.png"] = inside_picture([_cell(*row) for row in chosen], inside)
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


def _long_enough(rows: Sequence[Row]) -> Row:
    """The first row with an expression of a few words, or the first of all."""
    return next((row for row in rows if len(row[1].text.split()) >= FEW), rows[0])


def _cell(iou: float, sample: Sample, prediction: Prediction, objects: Objects) -> Cell:
    masks = objects.masks(sample.image_id, prediction.mask.shape)
    truth = masks[objects.target(sample)]
    return Cell(sample.image, f'"{sample.text}"', prediction.mask, truth, iou)


def inside_picture(answers: Sequence[Cell], told: Sequence[Inside]) -> bytes:
    """A row for every expression: its mask, the CLS token's similarity, each word's pixels."""
    columns = 2 + WORDS
    figure = new_figure(columns * 1.5, len(answers) * 2.0)
    grid = figure.subplots(len(answers), columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
        axes.set_anchor("S")
    for row, answer, inside in zip(grid, answers, told, strict=True):
        assert answer.truth is not None
        row[0].imshow(answer.pixels())
        row[0].set_xlabel(answer.caption(), fontsize=7)
        scores = inside.scores[0].reshape(inside.hw)
        in_px = response_in_px(scores, inside.prediction.geometry)
        level = (in_px - in_px.min()) / max(float(np.ptp(in_px)), 1e-6)
        similar = Cell(draw.heat(answer.image, level), "CLS similarity", truth=answer.truth)
        row[1].imshow(similar.pixels())
        row[1].set_xlabel(similar.caption(), fontsize=7)
        for axes, (piece, cells) in zip(row[2:], words_of(inside), strict=False):
            chosen = resize_mask(cells.reshape(inside.hw), answer.image.shape[:2])
            axes.imshow(dimmed(answer.image, chosen))
            axes.set_xlabel(draw_plain(f"selected by\n{piece}"), fontsize=7)
    return to_png(figure, colours=256)


def words_of(inside: Inside) -> list[tuple[str, np.ndarray]]:
    """The first word pieces after [CLS], without [SEP], each with its selected cells [N]."""
    pairs = zip(inside.pieces, inside.selected, strict=True)
    return [(f'"{piece}"', cells) for piece, cells in pairs if not piece.startswith("[")][:WORDS]


def dimmed(image: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The image, pale where nothing was chosen."""
    pale = (0.25 * image.astype(np.float32) + 0.75 * 245).astype(np.uint8)
    return np.where(chosen[..., None], image, pale)
