"""Study "pictures": a training expression through all steps, one row each.

Picture, step 1's map of this sentence, the map that PRMS keeps for the ref, edges, the map after
the random walk, the pseudo mask, step 2's answer, the truth, which is opened here to be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refseg import draw
from refseg.data.dataset import ReferDataset
from refseg.methods.tris.instances import instance_map
from refseg.methods.tris.refine import RefineSettings
from refseg.methods.tris.seeds import STRIDE
from refseg.models import Model
from refseg.ops.masks import resize_response
from refseg.ops.random_walk import walk
from refseg.recipes.base import Recipe
from refseg.recipes.tris_edges import Refiner, read_refiner
from refseg.recipes.tris_select import Selected, normalised
from refseg.types import Sample
from studies.base import Outcome, say
from studies.plots import Cell, iou, picture_grid, spread, true_mask
from studies.tris_labels import MaskAnswers, hw_of, training_pictures
from studies.tris_runs import (
    REFSEG,
    Asked,
    part_of,
    told_labels,
    trained,
    whole_recipe,
)
from studies.weak import stage

PICTURE = "tris-steps.png"
ROWS, AMONG = 6, 60  # expressions that are drawn, evenly among so many pictures
Maps = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """An expression on its way, all [H, W] px. Maps lie in 0..1. kept: the sentence of its ref that
    PRMS took the map from.
    """

    sample: Sample
    kept: str
    own: Maps
    prms: Maps
    edges: Maps
    walked: Maps
    pseudo: Mask
    answer: Mask

    def cells(self) -> list[Cell]:
        """The row, left to right."""
        image, truth = self.sample.image, true_mask(self.sample)
        maps = [
            ("step 1, this sentence", self.own),
            (f"PRMS: {self.kept}", self.prms),
            ("edges", self.edges),
            ("walked", self.walked),
        ]
        masks = [("pseudo mask", self.pseudo), ("step 2", self.answer)]
        return [
            Cell(image, self.sample.text),
            *(Cell(draw.heat(image, one), name) for name, one in maps),
            *(Cell(image, name, one, iou=iou(one, truth)) for name, one in masks),
            Cell(image, "truth", truth),
        ]

    def told(self) -> dict[str, Any]:
        """For the record."""
        sample, truth = self.sample, true_mask(self.sample)
        about = {"image": sample.image_id, "text": sample.text, "PRMS": self.kept}
        return {**about, "pseudo": iou(self.pseudo, truth), "step 2": iou(self.answer, truth)}


@dataclass(frozen=True)
class Parts:
    """What a run has left: step 1, the kept maps, edges, pseudo masks, step 2."""

    first: Model
    selected: Selected
    refiner: Refiner
    made: MaskAnswers
    second: Model

    @classmethod
    def read(cls, folder: Path, recipe: Recipe) -> Parts:
        """Of a finished run."""
        selected = Selected.read(folder / "select")
        return cls(
            stage(folder, "respond").load(),
            selected,
            read_refiner(folder / "edges", recipe, part_of(recipe), selected),
            MaskAnswers.read(folder / "refine" / "data", recipe.data.train),
            stage(folder, "segment").load(),
        )


def run(asked: Asked) -> Outcome:
    """Of the preset `refseg`, the first seed; trains what is not trained yet."""
    seed = asked.seeds[0]
    folder, recipe = trained(asked, REFSEG, seed), whole_recipe(asked, REFSEG, seed)
    data = training_pictures(recipe, AMONG)
    parts = Parts.read(folder, recipe)
    say(f"pictures of {folder.name}")
    rows = [steps_of(parts, data, group) for group in spread(data.groups_by_image(), ROWS)]
    png = picture_grid([row.cells() for row in rows], [str(n) for n in range(1, len(rows) + 1)])
    numbers = {"n": len(rows), "among": AMONG, "rows": [row.told() for row in rows]}
    labels = told_labels(asked, stage(folder, "segment"))
    where = [f"{Path(recipe.data.name).name} {recipe.data.train}"]
    return Outcome(numbers, ["original"], where, labels, {"training": seed}, {PICTURE: png})


def steps_of(parts: Parts, data: ReferDataset, group: Sequence[int]) -> Steps:
    """The first sentence of the first ref about an image. group: the image's sentences."""
    entries = [data.entry(row) for row in group]
    texts = [one.text for one in entries if one.ref_id == entries[0].ref_id]
    sample, selected = data[group[0]], parts.selected
    prms = selected.in_px(sample.ref_id, parts.refiner.preprocess.geometry(hw_of(sample)))
    edge, walked = refined(parts.refiner, sample.image, prms)
    return Steps(
        sample,
        texts[selected.sentence[selected.row_of[sample.ref_id]]],
        own_map(parts.first, sample),
        prms,
        in_px(edge, hw_of(sample)),
        walked,
        parts.made.mask(sample),
        parts.second.predict([sample])[0].mask,
    )


@torch.inference_mode()
def own_map(model: Model, sample: Sample) -> Maps:
    """Step 1's map of a sentence, as PRMS keeps one."""
    batch = model.batch([sample])
    logits = model.method.own(model.method(batch))[0].numpy()
    return normalised(logits, batch.geometry[0])


def refined(refiner: Refiner, image: NDArray[np.uint8], response: Maps) -> tuple[Maps, Maps]:
    """Edges [h, w], and the map [H, W] after the walk."""
    edge, displacement = refiner.look(image)
    return edge, walked_map(response, edge, displacement, refiner.settings)


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
