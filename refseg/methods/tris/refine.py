"""From response maps to pseudo masks: instances, a random walk between edges, a threshold.

Edges and displacements are an image's, computed once for all of its refs; each ref's map is split
and walks by itself, so that no ref changes another's mask. (IRNet's application, as in TRIS; no
CRF at the end, and no component is left out.)
Letters: R refs, n instances, H x W px, h x w cells of 4 px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from refseg.errors import DataError
from refseg.method import MethodConfig
from refseg.methods.tris.instances import STEPS, WEAK, instance_map
from refseg.methods.tris.seeds import STRIDE
from refseg.ops.masks import resize_response
from refseg.ops.random_walk import walk

Floats = NDArray[np.floating[Any]]
Maps = NDArray[np.float32]
Mask = NDArray[np.bool_]
HW = tuple[int, int]


class RefineSettings(MethodConfig):
    """background: what a walked map, its highest value being 1, must exceed.
    radius, beta, steps: of the random walk. split: a map is cut into instances first, which
    compete and each must exceed the background; False walks the map as a whole, and `follow`,
    `weak` (see `instances`) are not used. fragments: share of the image below which a component
    scores 0.
    """

    background: float = Field(default=0.25, ge=0)
    radius: int = Field(default=5, ge=1)
    beta: float = Field(default=10, gt=0)
    steps: int = Field(default=256, ge=0)
    split: bool = True
    follow: int = Field(default=STEPS, ge=0)
    weak: float = Field(default=WEAK, gt=0)
    fragments: float = Field(default=0.01, ge=0, le=1)


@dataclass(frozen=True)
class Component:
    """mask: [H, W] bool, connected by sides. score: the highest walked value in it, 0..1; 0 for
    a fragment.
    """

    mask: Mask
    score: float


@dataclass(frozen=True)
class Refined:
    """A ref's pseudo mask [H, W] bool: the union of its components, fragments among them.

    score: the best component's. Nothing found: an empty mask, score 0, no components.
    """

    mask: Mask
    score: float
    components: tuple[Component, ...]


def refine(
    maps: Floats, edge: Floats, displacement: Floats, settings: RefineSettings, hw: HW
) -> list[Refined]:
    """The pseudo mask of each of R response maps of one image.

    maps: [R, a, b], 0 or more, at any size that shows the whole image. edge: [h, w] probabilities
    and displacement: [2, h, w] (dy, dx) in cells, as `EdgeNet.look` gives them: h, w are a quarter
    of `hw`, rounded up. A map of zeros, or one whose response lies on edges of 1 alone, means
    nothing: its mask is empty (0 / 0 and an exception in the released code).
    Raises DataError for shapes that do not fit and for maps that are negative or not finite.
    """
    _check(maps, edge, displacement, hw)
    instances = np.zeros(edge.shape, np.int64)
    if settings.split:
        instances = instance_map(displacement, steps=settings.follow, weak=settings.weak)
    parts = [_parts(resize_response(m, _hw(edge), "bilinear-corners"), instances) for m in maps]
    starts = np.concatenate([np.zeros((0, *edge.shape), np.float32), *parts])
    walked = walk(
        starts,
        edge.astype(np.float32),
        radius=settings.radius,
        beta=settings.beta,
        steps=settings.steps,
    )
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)[:-1]
    return [_found(own, settings, hw) for own in np.split(walked, ends)] if len(maps) else []


def _parts(response: Maps, instances: NDArray[np.int64]) -> Maps:
    """A map [h, w] cut along instances, [n, h, w]; instances without response, which could win
    no pixel, left out.
    """
    live = np.unique(instances[response > 0])
    parts: Maps = response * (instances == live[:, None, None])
    return parts


def _found(walked: Floats, settings: RefineSettings, hw: HW) -> Refined:
    """A ref's walked instances [n, h, w] -> its mask and the components of each instance."""
    values, winner = _competed(walked.astype(np.float32, copy=False), hw)
    highest = values.max()
    if highest <= 0:
        return Refined(np.zeros(hw, bool), 0.0, ())
    values /= highest
    mask = values > settings.background  # a constant in front of an arg-max wins where equal
    least = settings.fragments * hw[0] * hw[1]
    components = tuple(
        component
        for n in np.unique(winner[mask])
        for component in _components(mask & (winner == n), values, least)
    )
    return Refined(mask, max((one.score for one in components), default=0.0), components)


def _competed(walked: Maps, hw: HW) -> tuple[Maps, NDArray[np.int64]]:
    """The highest value at each pixel [H, W], and the instance that has it, the first of equals.

    Maps are enlarged one by one, four times and what lies beyond the image cut: a noisy field may
    have hundreds.
    """
    height, width = walked.shape[1:]
    size = (STRIDE * height, STRIDE * width)
    values, winner = np.zeros(hw, np.float32), np.zeros(hw, np.int64)
    for n, one in enumerate(walked):
        large = resize_response(one, size, "bilinear")[: hw[0], : hw[1]]
        higher = large > values
        values[higher], winner[higher] = large[higher], n
    return values, winner


def _components(mask: Mask, values: Maps, least: float) -> list[Component]:
    """The connected parts of a mask [H, W]. least: px below which one is a fragment."""
    numbers, count = ndimage.label(mask)
    found = []
    for n in range(1, count + 1):
        part = numbers == n
        score = float(values[part].max()) if part.sum() >= least else 0.0
        found.append(Component(part, score))
    return found


def _hw(edge: Floats) -> HW:
    height, width = edge.shape
    return height, width


def _check(maps: Floats, edge: Floats, displacement: Floats, hw: HW) -> None:
    cells = (-(-hw[0] // STRIDE), -(-hw[1] // STRIDE))
    if edge.shape != cells or displacement.shape != (2, *cells):
        raise DataError(
            f"edges {edge.shape} and displacements {displacement.shape} for an image of {hw} px",
            remedy=f"both on its {cells[0]} x {cells[1]} cells of {STRIDE} px",
        )
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise DataError(f"response maps of shape {maps.shape}", remedy="[R, a, b], a map a ref")
    if maps.size and not (maps.min() >= 0 and np.isfinite(maps.max())):
        raise DataError(
            f"response maps from {maps.min()} to {maps.max()}",
            remedy="finite values of 0 or more: the ReLU of a response",
        )
