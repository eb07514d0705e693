"""t-SNE of a few hundred points, exactly (van der Maaten and Hinton, 2008).

Points [N, D] to places [N, 2] such that near neighbours stay near. No trees and no tricks: at
this size the exact gradient takes a millisecond. It starts from the two main components, so the
same points always give the same picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
EXAGGERATION, EARLY = 12.0, 250  # factor on the affinities, and for how many steps


def embed(points: NDArray[np.float32], *, perplexity: float = 15.0, steps: int = 1000) -> Matrix:
    """Places [N, 2] of `points` [N, D]. perplexity: about how many neighbours count; below N."""
    high = affinities(np.asarray(points, np.float64), perplexity)
    places = _main_components(np.asarray(points, np.float64))
    velocity, gains = np.zeros_like(places), np.ones_like(places)
    rate = max(len(places) / EXAGGERATION / 4, 50.0)
    for step in range(steps):
        early = step < EARLY
        gradient = slope(high * (EXAGGERATION if early else 1.0), places)
        grows = np.sign(gradient) != np.sign(velocity)
        gains = np.where(grows, gains + 0.2, gains * 0.8).clip(0.01)
        velocity = (0.5 if early else 0.8) * velocity - rate * gains * gradient
        places = places + velocity
        places -= places.mean(axis=0)
    return places


def affinities(points: Matrix, perplexity: float) -> Matrix:
    """Symmetric affinities P [N, N] that add up to one: each row's Gaussian has the perplexity."""
    squared = _squared_distances(points)
    rows = np.stack([_row(squared[i], i, np.log(perplexity)) for i in range(len(points))])
    return np.asarray((rows + rows.T) / (2 * len(points)))


def _row(squared: Matrix, self_: int, wanted: float) -> Matrix:
    """One row of conditional affinities, its width found by bisection to the wanted entropy."""
    others = np.delete(squared, self_)
    others = others - others.min()
    low, high, beta = 0.0, np.inf, 1.0 / max(float(others.mean()), 1e-12)
    share = np.full(len(others), 1 / len(others))
    for _ in range(64):
        weight = np.exp(-beta * others)
        share = weight / weight.sum()
        entropy = float(-(share * np.log(share.clip(1e-300))).sum())
        if abs(entropy - wanted) < 1e-7:
            break
        if entropy > wanted:
            low, beta = beta, (beta * 2 if np.isinf(high) else (beta + high) / 2)
        else:
            high, beta = beta, (beta + low) / 2
    return np.insert(share, self_, 0.0)


def slope(high: Matrix, places: Matrix) -> Matrix:
    """The gradient [N, 2] of KL(P || Q) with respect to the places."""
    closeness = 1.0 / (1.0 + _squared_distances(places))
    np.fill_diagonal(closeness, 0.0)
    pull = (high - closeness / closeness.sum()) * closeness
    return np.asarray(4.0 * (pull.sum(axis=1, keepdims=True) * places - pull @ places))


def divergence(high: Matrix, places: Matrix) -> float:
    """KL(P || Q), what the places minimise (for P that adds up to one)."""
    closeness = 1.0 / (1.0 + _squared_distances(places))
    np.fill_diagonal(closeness, 0.0)
    low = closeness / closeness.sum()
    some = high > 0
    return float((high[some] * np.log(high[some] / low[some].clip(1e-300))).sum())


def _squared_distances(points: Matrix) -> Matrix:
    lengths = (points**2).sum(axis=1)
    return np.asarray((lengths[:, None] + lengths[None] - 2 * points @ points.T).clip(0))


def _main_components(points: Matrix) -> Matrix:
    centred = points - points.mean(axis=0)
    left, scale, right = np.linalg.svd(centred, full_matrices=False)
    # A component's sign is the library's choice; its largest entry is made positive here.
    sign = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    places = left[:, :2] * scale[:2] * sign
    return np.asarray(places / places[:, 0].std().clip(1e-12) * 1e-4)
