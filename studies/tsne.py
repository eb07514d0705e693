"""Study "tsne" (VEGA's Figure 5): where words, visual expressions and pixels lie in one space.

The picture shows a few expressions. Beside it stands a number over many: the AUC with which the
mean token of each kind, by its cosine with the pixels, tells the target's pixels from the rest.
The paper's claim is that visual expressions do so better than words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refseg.evaluate import packed
from refseg.metrics.meter import bootstrap_interval
from refseg.types import Sample
from studies.auc import auc
from studies.base import Outcome, Setting, learned_from, open_scenes, say
from studies.embedding import embed
from studies.inside import Inside, cells_of, look_inside, unit
from studies.plots import (
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Cell,
    bare,
    new_figure,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 4
EXPRESSIONS, BATCH = 600, 32
FILLED = 0.5  # share of a cell that must be the target's for the cell to count as target
FEWEST_CELLS, GOOD = 5, 0.6  # of the expressions shown: target's cells, IoU
PERPLEXITY = 12.0
KINDS = ("language", "visual", "CLS similarity")


def run(setting: Setting) -> Outcome:
    """AUC over scenes val, and t-SNE pictures of the first few large targets answered well."""
    model, dataset = setting.loaded, open_scenes("scenes", "val")
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    images: list[int] = []
    shown: list[tuple[Sample, Inside]] = []
    for rows in packed(
        dataset.groups_by_image(), 32, min(setting.limit or EXPRESSIONS, EXPRESSIONS)
    ):
        samples = dataset.samples(rows)
        for sample, inside in zip(samples, look_inside(model, samples), strict=True):
            assert sample.mask is not None
            target = cells_of(sample.mask, inside.hw) >= FILLED
            found = telling(inside, target)
            if found is None:
                continue
            images.append(sample.image_id)
            for kind in KINDS:
                values[kind].append(found[kind])
            if _worth_showing(sample, inside, target, shown):
                shown.append((sample, inside))
    told = [_row(kind, values[kind], images) for kind in KINDS]
    numbers = {"n": len(images), "rows": told, "shown": [sample.text for sample, _ in shown]}
    say("tsne: " + ", ".join(f"{row['tokens']} {row['AUC']:.3f}" for row in told))
    pictures = {"tsne.png": picture(shown)} if shown else {}
    seeds = {"scenes": 0, "bootstrap": 0, "t-SNE": "none: it starts from the main components"}
    return Outcome(numbers, [], ["scenes val"], learned_from(model), seeds, pictures)


def _row(kind: str, values: Sequence[float], images: Sequence[int]) -> dict[str, Any]:
    interval = bootstrap_interval(list(values), groups=images)
    return {"tokens": kind, "AUC": float(np.mean(values)), "interval": interval}


def telling(inside: Inside, target: NDArray[np.bool_]) -> dict[str, float] | None:
    """AUC against the target's cells [N] by kind of token; None when no cell, or all, are its."""
    pixels = unit(inside.pixels)
    maps = {
        "language": pixels @ unit(inside.language).mean(axis=0),
        "visual": pixels @ unit(inside.visual).mean(axis=0),
        "CLS similarity": inside.scores[0],
    }
    told = {kind: auc(scores, target) for kind, scores in maps.items()}
    return {kind: v for kind, v in told.items() if v is not None} if all_told(told) else None


def all_told(values: dict[str, float | None]) -> bool:
    """Whether no value is missing."""
    return None not in values.values()


def _worth_showing(
    sample: Sample,
    inside: Inside,
    target: NDArray[np.bool_],
    shown: Sequence[tuple[Sample, Inside]],
) -> bool:
    if len(shown) == SHOWN or any(sample.image_id == other.image_id for other, _ in shown):
        return False
    mask, truth = inside.prediction.mask, sample.mask
    assert truth is not None
    iou = (mask & truth).sum() / max((mask | truth).sum(), 1)
    return bool(target.sum() >= FEWEST_CELLS and iou >= GOOD)


def picture(shown: Sequence[tuple[Sample, Inside]]) -> bytes:
    """Above, the pictures; below, the places of their tokens."""
    figure = new_figure(2.35 * len(shown), 4.9)
    grid = figure.subplots(2, len(shown), squeeze=False)
    for column, (sample, inside) in enumerate(shown):
        above, below = grid[0, column], grid[1, column]
        bare(above)
        cell = Cell(sample.image, f'"{sample.text}"', inside.prediction.mask, sample.mask)
        above.imshow(cell.pixels())
        above.set_xlabel(cell.caption(), fontsize=8)
        assert sample.mask is not None
        scatter(below, sample, inside)
    handles, labels = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return to_png(figure)


def scatter(axes: Axes, sample: Sample, inside: Inside) -> None:
    """The tokens of one expression, placed by t-SNE over their directions."""
    assert sample.mask is not None
    target = cells_of(sample.mask, inside.hw) >= FILLED
    wrong = (cells_of(inside.prediction.mask, inside.hw) >= FILLED) & ~target
    groups = (inside.pixels, inside.language, inside.visual)
    places = embed(unit(np.concatenate(groups)), perplexity=PERPLEXITY)
    first, second = len(inside.pixels), len(inside.pixels) + len(inside.language)
    pixels, language, visual = np.split(places, [first, second])
    for name, points, colour, marker in (
        ("other pixels", pixels[~target & ~wrong], GREY, "o"),
        ("target's pixels", pixels[target], ORANGE, "o"),
        ("wrongly predicted", pixels[wrong], GREEN, "o"),
        ("language tokens", language, PURPLE, "^"),
        ("visual expression", visual, RED, "*"),
    ):
        size = 42 if marker == "*" else 20
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=colour,
            marker=marker,
            label=name,
            linewidths=0,
        )
    bare(axes)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GREY)
    axes.margins(0.08)
    axes.set_box_aspect(1)
