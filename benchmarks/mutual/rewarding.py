"""Step 2 with the proposals of a frozen extractor kept, against an extractor asked every step."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.mutual.measuring import Make, Table, Task, compared, fix_length, same, weighed
from refseg import models
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.scenes.build import ensure_scenes
from refseg.methods.mutual.disambiguation import Disambiguation
from refseg.recipes.base import Recipe, TokenConfig, WeightsConfig
from refseg.recipes.batches import RecipeBatches
from refseg.recipes.building import build
from refseg.recipes.mutual import mutual_scenes
from refseg.recipes.proposal_cache import CachedProposals, keep_proposals, open_proposals
from refseg.recipes.rewarding import texts_of
from refseg.train.precision import multiplies_bfloat16
from refseg.types import Batch, Labels

IDS = 8  # of a written sentence: about what a trained model writes about the world
ANEW, KEPT = "extractor asked at every step", "ours: proposals kept"


@contextmanager
def own_cache() -> Iterator[Path]:
    """A cache folder that is gone afterwards."""
    before = os.environ.get("REFSEG_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REFSEG_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("REFSEG_CACHE")
            if before is not None:
                os.environ["REFSEG_CACHE"] = before


@dataclass
class Learning:
    """One way to step: its batches and its learner."""

    batches: RecipeBatches
    learner: Disambiguation
    optimiser: torch.optim.Optimizer

    def make(self, indices: list[int]) -> Batch:
        return self.batches(indices, 0)

    def step(self, batch: Batch) -> None:
        self.optimiser.zero_grad()
        half = multiplies_bfloat16(torch.device("cpu"))  # as the recipe trains
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = self.learner(batch)
            total = self.learner.loss(outputs, batch)["total"]
        torch.autograd.backward(total)
        self.optimiser.step()


def rewards(quick: bool, runs: int) -> tuple[dict[str, Table], dict[str, float]]:
    """Tables, and what keeping the proposals costs once: images, seconds, bytes."""
    learns = recipe().disambiguation
    assert learns is not None
    size = 4 if quick else learns.train.batch_size
    with own_cache() as cache:
        world = ensure_scenes(cache, images=40 if quick else 120, workers=1) / "scenes-all"
        folder = cache / "proposals"
        seen = opened(world, pixels=True)
        model = untrained(seen)
        start = time.perf_counter()
        rows = seen.picture_rows()
        kept = keep_proposals(model, seen, rows, folder, lambda done, of: None)
        once = {
            "images": float(len(rows)),
            "seconds": time.perf_counter() - start,
            "bytes": float(sum(file.stat().st_size for file in folder.iterdir())),
            "bytes_an_image": kept.features[0].nbytes,
        }
        ways = {ANEW: learning(model, world, None), KEPT: learning(model, world, kept)}
        indices = list(range(size))
        agree(*ways.values(), indices)
        makes = {name: partial(made_step, world, folder, name, indices) for name in ways}
        return tables(ways, makes, indices, runs), once


def made_step(world: Path, folder: Path, name: str, indices: list[int]) -> Task:
    """The first step of all, so that gradients and the optimiser's state count as added."""
    kept = open_proposals(folder) if name == KEPT else None
    model = untrained(opened(world, pixels=True))
    return partial(whole, learning(model, world, kept), indices)


def recipe() -> Recipe:
    """Of `mutual-scenes`, with random weights."""
    tokens = TokenConfig(vocabulary=600, max_words=24)
    return mutual_scenes().model_copy(update={"weights": WeightsConfig(), "tokens": tokens})


def untrained(data: ReferDataset) -> models.Model:
    """With sentences of IDS ids."""
    torch.manual_seed(0)
    model = build(recipe(), (data.entry(row).text for row in range(len(data))))
    model.method.eval()
    fix_length(model.method.generator, IDS)
    return model


def opened(world: Path, *, pixels: bool) -> ReferDataset:
    """As stage "disambiguate" opens it: without pixels, with no more than who the objects are."""
    labels = recipe().labels() if pixels else Labels(frozenset({"category"}))
    return open_data(world, "train", labels, view="ref", objects=True, pixels=pixels)


def learning(model: models.Model, world: Path, kept: CachedProposals | None) -> Learning:
    learns = recipe().disambiguation
    assert learns is not None
    data = opened(world, pixels=kept is None)
    texts = texts_of(model, data, list(range(len(data))), learns)
    learner = Disambiguation(model.method, learns.policy, texts, kept)
    # So small a rate that the two ways, which share their weights, stay comparable.
    optimiser = torch.optim.AdamW(model.method.generator.parameters(), lr=1e-12)
    batches = RecipeBatches(
        data, model.tokenizer, model.preprocess, recipe().data.augment, 0,
        list(range(len(data))), recipe().data.per_image,
    )  # fmt: skip
    return Learning(batches, learner, optimiser)


@torch.no_grad()
def agree(anew: Learning, cached: Learning, indices: list[int]) -> None:
    """The same proposals, but for float16 on disk, and the same objects matched to them."""
    one, matched = anew.learner.source(anew.make(indices))
    other, found = cached.learner.source(cached.make(indices))
    assert torch.equal(matched.proposal, found.proposal), "other proposals stand for the objects"
    same(one.features.half().float(), other.features, "proposals")


def tables(
    ways: dict[str, Learning], makes: dict[str, Make], indices: list[int], runs: int
) -> dict[str, Table]:
    ready = {name: way.make(indices) for name, way in ways.items()}
    objects = len(ready[ANEW])
    policy = ways[ANEW].learner.config
    searched = f"{policy.beams} beams{' and the greedy sentence' * policy.with_greedy}"
    about = f"{len(indices)} images, {objects} objects, {searched} of {IDS} ids"
    return {
        f"a step of {about}: batch made and learnt from": weighed(
            compared({name: partial(whole, way, indices) for name, way in ways.items()}, runs),
            makes,
        ),
        "of it, making the batch (hidden by a loader worker)": compared(
            {name: partial(way.make, indices) for name, way in ways.items()}, runs
        ),
        "of it, the step": compared(
            {name: partial(way.step, ready[name]) for name, way in ways.items()}, runs
        ),
    }


def whole(way: Learning, indices: list[int]) -> None:
    way.step(way.make(indices))
