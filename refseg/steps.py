"""A training expression on its way through the stages of TRIS, as far as a run has come.

parts = Parts.read(Path("runs/tris_scenes"), recipe)
row = steps_of(parts, data, data.groups_by_image()[0])
row.panels()      # picture, step 1, PRMS, edges, walked, pseudo mask, step 2, truth

The truth is opened to be drawn, and for the IoU beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from refseg import draw, models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import PreprocessConfig
from refseg.methods.tris.instances import instance_map
from refseg.methods.tris.refine import RefineSettings
from refseg.methods.tris.seeds import STRIDE
from refseg.metrics.iou import mask_counts
from refseg.models import Model
from refseg.ops.masks import resize_response
from refseg.ops.random_walk import walk
from refseg.recipes.base import Recipe
from refseg.recipes.opening import open_to_show
from refseg.recipes.stages import read_manifest
from refseg.recipes.tris_data import part_of
from refseg.recipes.tris_edges import Refiner, read_refiner
from refseg.recipes.tris_select import Selected, normalised
from refseg.types import Labels, Sample

AMONG = 60  # pictures that rows are drawn of, evenly
SIDE = 240  # px of a cell's longer side
Maps = NDArray[np.float32]
Mask = NDArray[np.bool_]
One = TypeVar("One")


@dataclass(frozen=True)
class Panel:
    """A picture of a row. image: [H, W, 3] px, under a map where there is one. mask: [H, W], to be
    drawn on it. iou: with the truth.
    """

    text: str
    image: draw.Pixels
    mask: Mask | None = None
    iou: float | None = None

    def cell(self) -> tuple[bytes, str]:
        """A small PNG, the mask tinted, and its caption."""
        masks = [] if self.mask is None else [self.mask]
        told = self.text if self.iou is None else f"{self.text} (IoU {100 * self.iou:.1f})"
        return draw.small_png(draw.overlay(self.image, masks, []), SIDE), told


@dataclass(frozen=True)
class Steps:
    """An expression on its way, all [H, W] px. Maps lie in 0..1. kept: the sentence of its ref that
    PRMS took the map from. None is what a run has not made yet.
    """

    sample: Sample
    own: Maps | None
    kept: str
    prms: Maps | None
    edges: Maps | None
    walked: Maps | None
    pseudo: Mask | None
    answer: Mask | None

    def panels(self) -> list[Panel]:
        """The row, left to right."""
        image, truth = self.sample.image, self.sample.mask
        maps = {
            "step 1, this sentence": self.own,
            f"PRMS: {self.kept}": self.prms,
            "edges": self.edges,
            "walked": self.walked,
        }
        masks = {"pseudo mask": self.pseudo, "step 2": self.answer}
        return [
            Panel(self.sample.text, image),
            *(Panel(name, draw.heat(image, one)) for name, one in maps.items() if one is not None),
            *(
                Panel(name, image, one, None if truth is None else iou(one, truth))
                for name, one in masks.items()
                if one is not None
            ),
            *([] if truth is None else [Panel("truth", image, truth)]),
        ]


@dataclass(frozen=True)
class PseudoMasks:
    """The masks of a data set that the stage "refine" left. row_of: ref id -> row of `made`."""

    made: ReferDataset
    row_of: dict[int, int]

    @classmethod
    def read(cls, folder: Path, split: str) -> Self:
        """The data set in `folder`. Raises DataError where it is absent or broken."""
        made = open_data(folder, split, Labels.parse("text+mask"), view="ref")
        refs = [made.entry(row).ref_row for row in range(len(made))]
        told = [made.records.extra("refs", ref) for ref in refs]
        return cls(made, {int(one["source_ref_id"]): row for row, one in enumerate(told)})

    def mask(self, sample: Sample) -> Mask:
        """[H, W] px; empty for a ref that nothing was found for."""
        row = self.row_of.get(sample.ref_id)
        found = None if row is None else self.made[row].mask
        return np.zeros(hw_of(sample), bool) if found is None else found


@dataclass(frozen=True)
class Parts:
    """What the finished stages of a run have left: step 1, the kept maps, edges, pseudo masks, step
    2. None is what no finished stage has left. preprocess: of both steps.
    """

    first: Model | None
    selected: Selected | None
    refiner: Refiner | None
    made: PseudoMasks | None
    second: Model | None
    preprocess: PreprocessConfig

    @classmethod
    def read(cls, folder: Path, recipe: Recipe, device: str = "cpu") -> Parts:
        """Of a run's folder. Raises RunError, ModelError, DataError where a finished stage's files
        are broken, ConfigError for a recipe of another method.
        """
        part, split = part_of(recipe), recipe.data.train

        def done(name: str) -> bool:
            return name in recipe.stages and read_manifest(folder / name) is not None

        selected = Selected.read(folder / "select") if done("select") else None
        refiner = None
        if selected is not None and done("edges"):
            refiner = read_refiner(folder / "edges", recipe, part, selected, device)
        return cls(
            models.load(folder / "respond" / "model", device) if done("respond") else None,
            selected,
            refiner,
            PseudoMasks.read(folder / "refine" / "data", split) if done("refine") else None,
            models.load(folder / "segment" / "model", device) if done("segment") else None,
            recipe.preprocess,
        )

    def know(self, ref_id: int) -> bool:
        """Whether a ref was learned from, as far as can be told: `data.limit` leaves some out."""
        return self.selected is None or ref_id in self.selected.row_of


def steps_of_run(folder: Path, recipe: Recipe, count: int, device: str = "cpu") -> list[Steps]:
    """So many expressions of the training split; none before the first stage is finished. Errors:
    as for `Parts.read`, and of the data.
    """
    parts = Parts.read(folder, recipe, device)
    if parts.first is None:
        return []
    data = open_to_show(recipe, recipe.data.train, view="sentence")
    known = (group for group in map(partial(_known, parts, data), data.groups_by_image()) if group)
    return [steps_of(parts, data, group) for group in spread(list(islice(known, AMONG)), count)]


def _known(parts: Parts, data: ReferDataset, group: Sequence[int]) -> list[int]:
    """Of the sentences about an image those whose refs were learned from."""
    return [row for row in group if parts.know(data.entry(row).ref_id)]


def spread(groups: Sequence[One], count: int) -> list[One]:
    """So many of them, evenly: no eye has chosen."""
    return list(groups[:: max(len(groups) // count, 1)])[:count]


def steps_of(parts: Parts, data: ReferDataset, group: Sequence[int]) -> Steps:
    """The first sentence of the first ref about an image. group: the image's sentences."""
    entries = [data.entry(row) for row in group]
    texts = [one.text for one in entries if one.ref_id == entries[0].ref_id]
    sample, selected, refiner = data[group[0]], parts.selected, parts.refiner
    geometry, kept = parts.preprocess.geometry(hw_of(sample)), ""
    prms = edges = walked = None
    if selected is not None:
        kept = texts[selected.sentence[selected.row_of[sample.ref_id]]]
        prms = selected.in_px(sample.ref_id, geometry)
    if refiner is not None and prms is not None:
        edge, displacement = refiner.look(sample.image)
        edges = in_px(edge, hw_of(sample))
        walked = walked_map(prms, edge, displacement, refiner.settings)
    return Steps(
        sample,
        None if parts.first is None else own_map(parts.first, sample),
        kept,
        prms,
        edges,
        walked,
        None if parts.made is None else parts.made.mask(sample),
        None if parts.second is None else parts.second.predict([sample])[0].mask,
    )


@torch.inference_mode()
def own_map(model: Model, sample: Sample) -> Maps:
    """Step 1's map of a sentence, as PRMS keeps one."""
    batch = model.batch([sample]).to(model.device)
    logits = model.method.own(model.method.eval()(batch))[0].cpu().numpy()
    return normalised(logits, batch.geometry[0])


def walked_map(response: Maps, edge: Maps, displacement: Maps, settings: RefineSettings) -> Maps:
    """What the pseudo mask is cut from, [H, W] of a response [H, W]: its instances walked, the
    highest at each place, the highest of all being 1. See `refseg.methods.tris.refine`.
    """
    instances = np.zeros(edge.shape, np.int64)
    if settings.split:
        instances = instance_map(displacement, steps=settings.follow, weak=settings.weak)
    small = resize_response(response, edge.shape, "bilinear-corners")
    live = np.unique(instances[small > 0])
    if not len(live):
        return np.zeros_like(response)
    parts = np.stack([small * (instances == one) for one in live])
    walked = walk(
        parts.astype(np.float32),
        edge.astype(np.float32),
        radius=settings.radius,
        beta=settings.beta,
        steps=settings.steps,
    )
    values = np.max([in_px(one.astype(np.float32), response.shape) for one in walked], axis=0)
    return np.asarray(values / max(float(values.max()), 1e-12), np.float32)


def in_px(cells: Maps, hw: tuple[int, ...]) -> Maps:
    """A map on cells of 4 px, [h, w] -> [H, W]."""
    size = (STRIDE * cells.shape[0], STRIDE * cells.shape[1])
    return resize_response(cells, size, "bilinear")[: hw[0], : hw[1]]


def hw_of(sample: Sample) -> tuple[int, int]:
    """The picture's size."""
    return sample.image.shape[0], sample.image.shape[1]


def iou(mask: Mask, truth: Mask) -> float:
    """Of two masks."""
    both, either = mask_counts(mask, truth)
    return both / either if either else 1.0
