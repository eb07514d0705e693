"""The CRF at half of the image's sides, beside the whole image. Their numbers are not the same.

How much they differ is told as IoU of masks: with those of the whole image, and with the true ones.
Pictures are rendered, all things in each are asked for; a map is the share of a thing in each patch
with noise on it, stretched and in px as `decode` makes it. No learned map is as good, so what the
CRF adds to the truth here, or loses of small things, is not what it does to answers. The two ways
to compute it are told apart in `refseg.ops.crf`; pydensecrf2 is left out where it is not installed.
"Lattice" needs no extra.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.mutual.measuring import Table, Task, compared, weighed
from benchmarks.sag.sizes import SIZES, Size
from refseg.data.scenes.render import render
from refseg.data.scenes.sample import sample_scene
from refseg.methods.sag.decode import PROTOCOL
from refseg.ops.crf import MASKS, How, Maps, Rgb, refine
from refseg.ops.images import square_geometry
from refseg.ops.masks import response_in_px, stretched

PICTURES = 3
NOISE = 0.1  # standard deviation, of maps in 0..1
WHOLE, OURS, NONE = "whole image", "half of its sides", "no CRF"
SCALES = {WHOLE: 1.0, OURS: 0.5}
# Of all pixels in masks of either, those that must be in both for the run to go on. Small things
# agree less: a mask of a few px is lost to the CRF in one and not in the other.
LEAST = 0.8
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class Picture:
    """image [H, W, 3], maps [K, H, W] in 0..1, and the true masks [K, H, W]."""

    image: Rgb
    maps: Maps
    true: NDArray[np.bool_]


def outlining(runs: int = 5) -> dict[str, Table]:
    """By size and way: both scales, with "ms" a map, and the IoU of masks."""
    tables = {}
    for size in SIZES:
        pictures = drawn(size)
        count = sum(len(picture.maps) for picture in pictures)
        about = f"{size.hw[0]} x {size.hw[1]} px, {count} maps of {PICTURES} pictures"
        for how in ways():
            tables[f"{how}, {about}"] = measured(size, how, pictures, runs)
    return tables


def ways() -> list[How]:
    """Those that can run here."""
    return ["lattice", "pydensecrf2"] if find_spec("pydensecrf") else ["lattice"]


def measured(size: Size, how: How, pictures: list[Picture], runs: int) -> Table:
    tasks = {name: partial(refined, pictures, how, scale) for name, scale in SCALES.items()}
    masks = {name: task() for name, task in tasks.items()}
    masks[NONE] = [one >= PROTOCOL for picture in pictures for one in picture.maps]
    true = [one for picture in pictures for one in picture.true]
    shared, union = overlaps(masks[OURS], masks[WHOLE])
    assert shared.sum() > LEAST * union.sum(), f"IoU of all pixels: {shared.sum() / union.sum()}"
    table = compared(tasks, runs)
    for row in table.values():
        row["ms"] /= len(true)
    weighed(table, {name: partial(made, size, how, scale) for name, scale in SCALES.items()})
    table[NONE] = {}
    for name, found in masks.items():
        table[name] |= {
            "iou_whole": mean_iou(found, masks[WHOLE]), "iou_true": mean_iou(found, true),
        }  # fmt: skip
    return table


def made(size: Size, how: How, scale: float) -> Task:
    return partial(refined, drawn(size), how, scale)


def refined(pictures: list[Picture], how: How, scale: float) -> Masks:
    settings = replace(MASKS, scale=scale)
    maps = (refine(picture.image, picture.maps, how, settings) for picture in pictures)
    return [one >= PROTOCOL for of_picture in maps for one in of_picture]


def overlaps(masks: Masks, others: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that pairs of masks share, and those of either."""
    pairs = list(zip(masks, others, strict=True))
    shared = [np.count_nonzero(one & other) for one, other in pairs]
    union = [np.count_nonzero(one | other) for one, other in pairs]
    return np.array(shared), np.array(union)


def mean_iou(masks: Masks, others: Masks) -> float:
    """Two empty masks are the same."""
    shared, union = overlaps(masks, others)
    return float(np.mean(np.where(union, shared / np.maximum(union, 1), 1)))


def drawn(size: Size) -> list[Picture]:
    rng = np.random.default_rng(0)
    return [picture(size, rng) for _ in range(PICTURES)]


def picture(size: Size, rng: np.random.Generator) -> Picture:
    staged = sample_scene(rng, size_hw=size.hw)
    shown = render(staged.scene, staged.stage)
    true = np.stack([shown.owner == item.object_id for item in shown.scene.objects])
    place = square_geometry(size.hw, (size.side, size.side))
    maps = []
    for mask in true:
        share = cv2.resize(mask.astype(np.float32), size.grid[::-1], interpolation=cv2.INTER_AREA)
        unsure = share + rng.normal(0, NOISE, share.shape).astype(np.float32)
        maps.append(stretched(response_in_px(stretched(unsure), place)))
    return Picture(shown.image, np.stack(maps), true)
