"""From coordinates to outlines and masks in px."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.methods.partial_res.config import PartialResConfig
from refseg.methods.partial_res.generate import Written
from refseg.methods.partial_res.loss import surest
from refseg.ops.contours import dequantise, fill_polygon
from refseg.types import Geometry, Prediction


def predictions(
    written: Written,
    config: PartialResConfig,
    geometry: Sequence[Geometry],
    hw: tuple[int, int],
) -> list[Prediction]:
    """One answer an expression. hw: the grid, whose attention is shown.

    score: the geometric mean of the coordinates' probabilities. polygons: the outline, or the
    box's; none where less than three points were written, and then the mask is empty: two points
    are no box. maps: "attention", the last layer's, over all heads and points.
    """
    tokens = written.tokens.cpu().numpy()
    looked = written.attention[..., : hw[0] * hw[1]].float().mean(dim=(1, 2))
    maps = looked.reshape(-1, *hw).cpu().numpy()
    scores = scores_of(written, config)
    return [
        _prediction(row, config, one, float(score), shown)
        for row, one, score, shown in zip(tokens, geometry, scores, maps, strict=True)
    ]


def scores_of(written: Written, config: PartialResConfig) -> NDArray[np.float64]:
    """[B] geometric mean of the probabilities of what was written, END apart; 0 for nothing.

    With `loss.spread` the true coordinate is asked to share its mass with its neighbours; the mean
    is then told as a share of the most that can be learned, 1 at most.
    """
    coordinate = written.tokens < config.sequence.bins
    logs = written.chances.double().clamp(min=1e-12).log() * coordinate
    count = coordinate.sum(dim=1)
    mean = (logs.sum(dim=1) / count.clamp(min=1)).exp()
    if config.loss.spread:
        mean = (mean / surest(config.loss, config.sequence.bins + 1)).clamp(max=1.0)
    scores: NDArray[np.float64] = torch.where(count > 0, mean, 0.0).cpu().numpy()
    return scores


def points_of(
    tokens: NDArray[np.int64], config: PartialResConfig, geometry: Geometry
) -> NDArray[np.float64]:
    """The points [P, 2] px (x, y) of a row [L]: up to its first END, without an x that has no y.

    Of "multi" those of the contour; of "rec" the two corners.
    """
    if config.task == "multi":
        tokens = tokens[4:]
    ends = np.flatnonzero(tokens >= config.sequence.bins)
    pairs = tokens[: ends[0] if len(ends) else len(tokens)]
    pairs = pairs[: len(pairs) // 2 * 2].reshape(-1, 2)
    net = np.array([geometry.net_hw[1], geometry.net_hw[0]])
    centre = config.sequence.bin_centre
    placed = dequantise(pairs, net, config.sequence.bins, centre=centre)
    points = (placed - np.array(geometry.offset_xy)) / np.array(geometry.scale_xy)
    height, width = geometry.original_hw
    clipped: NDArray[np.float64] = points.clip(0, np.array([width, height]))
    return clipped


def _prediction(
    tokens: NDArray[np.int64],
    config: PartialResConfig,
    geometry: Geometry,
    score: float,
    shown: NDArray[np.float32],
) -> Prediction:
    points = points_of(tokens, config, geometry)
    if config.task == "rec":
        points = _rectangle(points)
    outline = points.astype(np.float32)  # as it is handed out: the mask is that of the polygon
    mask = fill_polygon(outline, geometry.original_hw)
    some = bool(mask.any())  # three points on a line enclose nothing either
    return Prediction(
        mask,
        score if some else 0.0,
        geometry,
        polygons=(outline,) if some else (),
        maps={"attention": shown},
    )


def _rectangle(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two opposite corners -> the rectangle's four."""
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]])
