"""How good the labels are that step 2 learns from, before PRMS, after it, and after refinement.

For this one place the true masks of the training split are opened, to measure; what is trained
never sees them. All sentences of a ref share one label, and each of them counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.transforms import PreprocessConfig
from refseg.evaluate import Answers
from refseg.metrics.protocols import get_protocol
from refseg.ops.files import sha256_file
from refseg.recipes.base import Recipe
from refseg.recipes.tris_select import MAPS, REFS, Selected, select_maps
from refseg.steps import PseudoMasks, hw_of
from refseg.types import Geometry, Prediction, Sample
from studies import kept
from studies.base import LABELS
from studies.kept import Scores
from studies.tris_runs import part_of
from studies.weak import scored, stage

#: Pictures that are looked at, the first of the split.
PICTURES = 1_000
FIRST, FIRST_SURE = "first", "first sure"
PRMS, PRMS_SURE, REFINED = "prms", "prms sure", "refined"
PROTOCOLS = ("original",)


@dataclass(frozen=True)
class MapAnswers:
    """`predict(samples)`: each ref's map in px, and a mask of what exceeds `above` in it."""

    name: str
    selected: Selected
    preprocess: PreprocessConfig
    above: float
    card: dict[str, Any] = field(default_factory=lambda: {"labels used": "text"})

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample; it points at its map's highest place."""
        return [self._of(sample) for sample in samples]

    def _of(self, sample: Sample) -> Prediction:
        hw = hw_of(sample)
        response = self.selected.in_px(sample.ref_id, self.preprocess.geometry(hw))
        return Prediction(response > self.above, 1.0, in_place(hw), response)


@dataclass(frozen=True)
class MaskAnswers(PseudoMasks):
    """`predict(samples)`: the masks of a data set that the stage "refine" left.

    A ref that it found nothing for has an empty mask, which counts as wrong.
    """

    name: str = REFINED
    card: dict[str, Any] = field(default_factory=lambda: {"labels used": "text"})

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample."""
        return [Prediction(self.mask(one), 1.0, in_place(hw_of(one))) for one in samples]


def training_pictures(recipe: Recipe, pictures: int = PICTURES) -> ReferDataset:
    """All sentences about the first training pictures, with all labels, to measure."""
    data = recipe.data
    whole = open_data(data.name, data.train, LABELS, text_field=data.text_field)
    rest = (whole.entry(group[0]).image_id for group in whole.groups_by_image()[pictures:])
    return whole.with_options(exclude_images=frozenset(rest))


def measure(folder: Path, recipe: Recipe, pictures: int = PICTURES) -> dict[str, Scores]:
    """Step -> scores of the labels that a run made of the first training pictures; kept beside its
    step 1.
    """
    run, data = stage(folder, "respond"), training_pictures(recipe, pictures)

    def make() -> Scores:
        return {one.name: scored(one, data, PROTOCOLS) for one in answers(folder, recipe, data)}

    made = [folder / "select" / MAPS, folder / "select" / REFS]
    made += [folder / "refine" / "data" / "labels.json"]
    key = {"weights": run.weights, "made": [sha256_file(path) for path in made]}
    key |= {"data": data.hash, "pictures": pictures, "above": list(bounds(recipe))}
    key |= {"version": kept.SCORES_VERSION}
    return kept.kept(run, f"tris-labels-{pictures}", key, make)


def answers(folder: Path, recipe: Recipe, data: ReferDataset) -> list[Answers]:
    """What is measured: maps before and after PRMS, each cut in two ways, and refined masks."""
    model = stage(folder, "respond").load()
    maps = {
        FIRST: select_maps(model, None, data, lambda _done, _all: None),
        PRMS: Selected.read(folder / "select"),
    }
    any_response, sure = bounds(recipe)
    found: list[Answers] = []
    for name, selected in maps.items():
        found += [MapAnswers(name, selected, recipe.preprocess, any_response)]
        found += [MapAnswers(f"{name} sure", selected, recipe.preprocess, sure)]
    return [*found, MaskAnswers.read(folder / "refine" / "data", recipe.data.train)]


def bounds(recipe: Recipe) -> tuple[float, float]:
    """What a map must exceed: as the protocol `tris` cuts it (any positive response), and as the
    seeds do that edges are learned from.
    """
    return get_protocol("tris").threshold, part_of(recipe).seeds.foreground


def in_place(hw: tuple[int, int]) -> Geometry:
    """Of what is in px already."""
    return Geometry(hw, hw, (1.0, 1.0))
