"""The selection head: expressions of an image in one pass; batches padded in groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.mutual.measuring import (
    Make,
    Table,
    Task,
    compared,
    measured,
    quietly,
    same,
    weighed,
)
from refseg.data.catalog import open_data
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import MutualConfig, SelectionConfig
from refseg.methods.mutual.model import MutualOutputs
from refseg.methods.mutual.selection import ProposalSelection
from refseg.profile import case
from refseg.recipes.batches import RecipeBatches
from refseg.recipes.building import build
from refseg.recipes.mutual import mutual_refcoco_boxes, mutual_scenes
from refseg.types import Batch

EXPRESSIONS, TOKENS = 8, 21
#: Share of RefCOCO's training images -> objects at most, for where the data are not at hand.
COUNTS = {
    0: 2, 0.1: 3, 0.2: 4, 0.3: 5, 0.4: 6, 0.5: 7, 0.6: 9, 0.7: 12, 0.8: 15, 0.9: 21,
    0.95: 26, 0.99: 39, 1: 75,
}  # fmt: skip


def one_image(quick: bool, runs: int) -> dict[str, Table]:
    """All expressions of an image together and one by one."""
    size = "toy" if quick else "paper size"
    about = f"{EXPRESSIONS} expressions of an image"
    return {
        f"{size}, head alone: {about}": agreeing(
            {name: partial(made_head, quick, name) for name in HEAD}, runs
        ),
        f"scenes, whole model: {about}": agreeing(
            {name: partial(made_model, name) for name in MODEL}, runs
        ),
    }


def agreeing(makes: dict[str, Make], runs: int) -> Table:
    """`measured`, after all were seen to give the same scores."""
    first, *others = (make()() for make in makes.values())
    for other in others:
        same(first, other, "scores")
    return measured(makes, runs)


def made_head(quick: bool, name: str) -> Task:
    config = SelectionConfig(width=64, heads=4, layers=2) if quick else SelectionConfig()
    count = 30 if quick else 100
    torch.manual_seed(0)
    head = ProposalSelection(config, config.width, 768).eval()
    batch = Scored(
        objects=torch.randn(1, count, config.width),
        image_of=torch.zeros(EXPRESSIONS, dtype=torch.int64),
        features=torch.randn(EXPRESSIONS, TOKENS, 768),
        mask=torch.arange(TOKENS) < torch.randint(4, TOKENS, (EXPRESSIONS, 1)),
    )
    return partial(quietly, HEAD[name], head, batch)


def made_model(name: str) -> Task:
    config = mutual_scenes().method
    assert isinstance(config, MutualConfig)
    torch.manual_seed(0)
    model = Mutual(config).eval()
    return partial(quietly, MODEL[name], model, expressions(config.text.vocab_size))


def one_by_one(model: Mutual, batch: Batch) -> Tensor:
    return torch.cat([scored(model(only(batch, row))) for row in range(EXPRESSIONS)])


def image_once(model: Mutual, batch: Batch) -> Tensor:
    state = model.propose(batch)
    return torch.cat([scored(model.answer(state, only(batch, i))) for i in range(EXPRESSIONS)])


def one_pass(model: Mutual, batch: Batch) -> Tensor:
    return scored(model(batch))


MODEL: dict[str, Callable[[Mutual, Batch], Tensor]] = {
    "one by one": one_by_one,
    "one by one, image looked at once": image_once,
    "ours: one pass": one_pass,
}


def scored(outputs: MutualOutputs) -> Tensor:
    assert outputs.scores is not None
    return outputs.scores


def expressions(vocabulary: int) -> Batch:
    """Noise of 128 px and random words about it."""
    base = case(128, 1)
    return replace(
        base,
        image_of=torch.zeros(EXPRESSIONS, dtype=torch.int64),
        words=torch.randint(5, vocabulary, (EXPRESSIONS, 12)),
        word_mask=torch.arange(12) < torch.randint(4, 12, (EXPRESSIONS, 1)),
        geometry=base.geometry * EXPRESSIONS,
        keys=tuple(map(str, range(EXPRESSIONS))),
        texts=("noise",) * EXPRESSIONS,
        weights=torch.ones(EXPRESSIONS),
    )


def only(batch: Batch, row: int) -> Batch:
    return replace(
        batch,
        image_of=batch.image_of[:1],
        words=batch.words[row : row + 1],
        word_mask=batch.word_mask[row : row + 1],
        geometry=batch.geometry[:1],
        keys=batch.keys[row : row + 1],
        texts=batch.texts[:1],
        weights=batch.weights[:1],
    )


# -- the head alone --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """The arguments of `ProposalSelection.forward`."""

    objects: Tensor
    image_of: Tensor
    features: Tensor
    mask: Tensor
    there: Tensor | None = None


Form = Callable[[ProposalSelection, Scored], Tensor]


def pieces(head: ProposalSelection, batch: Scored) -> Tensor:
    rows = torch.arange(len(batch.image_of))[:, None]
    return torch.cat(
        [head(batch.objects, batch.image_of[r], batch.features[r], batch.mask[r]) for r in rows]
    )


def whole(head: ProposalSelection, batch: Scored) -> Tensor:
    return head._scores(batch.objects, batch.image_of, batch.features, batch.mask, batch.there)


def grouped(head: ProposalSelection, batch: Scored) -> Tensor:
    scores: Tensor = head(batch.objects, batch.image_of, batch.features, batch.mask, batch.there)
    return scores


HEAD: dict[str, Form] = {"one by one": pieces, "ours: one pass": grouped}
PADDED: dict[str, Form] = {"padded to the richest image": whole, "ours: padded in groups": grouped}


# -- groups ----------------------------------------------------------------------------------


def padding(boxes: Path | None, runs: int) -> dict[str, Table]:
    """Training batches of mutual_refcoco_boxes; boxes: RefCOCO's folder, None for drawn counts."""
    head = padded_head()
    size = mutual_refcoco_boxes().train.batch_size
    batches = drawn(size, head) if boxes is None else real(boxes, size)
    for batch in batches:
        agree(head, batch)
    source = "RefCOCO" if boxes is not None else "counts drawn like RefCOCO's"
    rows = sum(len(batch.image_of) for batch in batches)
    about = f"{source}, {len(batches)} batches of {size} images, {rows} rows"
    forward, learning = (
        {name: partial(made_padded, way, name, batches) for name in PADDED}
        for way in (quietly, learn)
    )
    return {
        f"{about}, forward": measured(forward, runs),
        f"{about}, forward and backward": weighed(
            compared({name: make() for name, make in learning.items()}, runs), learning
        ),
    }


def padded_head() -> ProposalSelection:
    config = mutual_refcoco_boxes().method
    assert isinstance(config, MutualConfig)
    torch.manual_seed(0)
    return ProposalSelection(config.selection, config.selection.width, config.text.width).eval()


def made_padded(way: Callable[..., object], name: str, batches: list[Scored]) -> Task:
    own = copy.deepcopy(batches)  # another process shares their memory, which would count as added
    return partial(each, partial(way, PADDED[name], padded_head()), own)


def learn(form: Form, head: ProposalSelection, batch: Scored) -> None:
    head.zero_grad()
    torch.autograd.backward(form(head, batch).logsumexp(dim=1).sum())


def each(task: Callable[[Scored], object], batches: list[Scored]) -> None:
    for batch in batches:
        task(batch)


def agree(head: ProposalSelection, batch: Scored) -> None:
    """Scores and every gradient, in float64."""
    exact = copy.deepcopy(head).double()
    wide = replace(batch, objects=batch.objects.double(), features=batch.features.double())
    with torch.no_grad():
        same(whole(exact, wide), grouped(exact, wide), "scores")
    found = []
    for form in (whole, grouped):
        learn(form, exact, wide)
        found.append([p.grad for p in exact.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        same(one, other, "gradients")


def drawn(images: int, head: ProposalSelection, batches: int = 3) -> list[Scored]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(batches):
        many = np.interp(rng.random(images), list(COUNTS), list(COUNTS.values()))
        counts = torch.from_numpy(many.round().astype(np.int64))
        there = torch.arange(int(counts.max())) < counts[:, None]
        image_of = torch.arange(images).repeat_interleave(torch.randint(2, 5, (images,)))
        rows = len(image_of)
        mask = torch.arange(TOKENS) < torch.randint(3, 12, (rows, 1))
        width = head.config.width
        made.append(
            Scored(
                torch.randn(*there.shape, width),
                image_of,
                torch.randn(rows, TOKENS, head.text.in_features),
                mask,
                there,
            )
        )
    return made


def real(boxes: Path, images: int, batches: int = 3) -> list[Scored]:
    recipe = mutual_refcoco_boxes()
    data = open_data(
        boxes, "train", recipe.labels(), split_by=recipe.data.split_by, view=recipe.data.view,
        objects=True, pixels=False,
    )  # fmt: skip
    model = build(recipe, (data.entry(row).text for row in range(5_000)))
    model.method.eval()
    make = RecipeBatches(
        data, model.tokenizer, model.preprocess, recipe.data.augment, 0,
        list(range(len(data))), recipe.data.per_image,
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(make)).tolist()
    found = []
    for start in range(0, batches * images, images):
        batch = make(order[start : start + images], 0)
        with torch.no_grad():
            seen = model.method.propose(batch)
            features = model.method.text(batch.words, batch.word_mask)
        assert seen.there is not None
        found.append(Scored(seen.features, batch.image_of, features, batch.word_mask, seen.there))
    return found
