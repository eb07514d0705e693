"""Expressions for regions: written by a generation head, judged by a selection head.

    load("mutual-scenes").describe("photo.jpg", box)      # [Expression("red mug left", ...), ...]
    describe(model, pictures, asked)                      # many regions of many pictures
    refer_back(judge, pictures, asked, texts)             # does a text point at its region again?

A region is an annotated object of a `Picture`; a person's mask or box becomes a picture with one
object. With a method that finds its own proposals, the region is matched to one of them, and how
well it fits is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from refseg.data.collate import collate_pictures
from refseg.errors import ConfigError, DataError
from refseg.methods import method_types
from refseg.models import Model, find_model, list_bundled, read_model_file
from refseg.types import Batch, Expression, Picture


@dataclass(frozen=True)
class Described:
    """expressions: best first, distinct texts; fewer than asked for if no more were found.

    iou: of the region and the proposal that stands for it, None when proposals are the annotated
    objects. proposal: its number.
    """

    expressions: tuple[Expression, ...]
    iou: float | None
    proposal: int


@dataclass(frozen=True)
class Verdict:
    """hit: the judge's best proposal is the region's. margin: probability of the region's proposal
    minus that of the best other one, -1..1.
    """

    hit: bool
    margin: float


Asked = Sequence[tuple[int, int]]
MOST = 100  # beams, and expressions kept


@torch.inference_mode()
def describe(
    model: Model,
    pictures: Sequence[Picture],
    asked: Asked,
    *,
    beams: int = 3,
    keep: int = 1,
    verify: bool = False,
    proposals: Any = None,
) -> list[Described]:
    """Expressions for regions.

    asked: (picture, row of its object) of each region. beams: 1 is greedy. keep: expressions of
    each region. verify: let the model's own selection head say whether each refers back.
    proposals: of the pictures, where they are known already (`method.propose`); then no pixels
    are looked at, and pictures [H, W, 0] will do.
    Raises ConfigError for a model that does not write (or, to verify, read) and for numbers out
    of range, DataError for a region without an extent or one that no proposal stands for.
    """
    check_writes(model, verify=verify)
    check_search(beams, keep)
    if not asked:
        return []
    seen = _look(model, pictures, asked, proposals)
    found = model.method.write(
        seen.proposals,
        seen.image_of,
        seen.target,
        beams=beams,
        keep=1 if beams == 1 else max(beams, keep),  # some may turn out to be the same text
    )
    told = [
        _distinct(model, words, mask, scores, keep)
        for words, mask, scores in zip(
            found.words.tolist(), found.mask.tolist(), found.log_p.tolist(), strict=True
        )
    ]
    if verify:
        told = _verified(model, seen, told)
    return [
        Described(tuple(texts), iou, k)
        for texts, iou, k in zip(told, seen.iou, seen.target.tolist(), strict=True)
    ]


@torch.inference_mode()
def refer_back(
    judge: Model, pictures: Sequence[Picture], asked: Asked, texts: Sequence[str]
) -> list[Verdict]:
    """Whether each text means its region to `judge`. Raises ConfigError, DataError (see above)."""
    if not getattr(judge.method, "config", None) or not getattr(
        judge.method.config, "select", False
    ):
        raise ConfigError(
            f"{judge.name}: method {judge.method_name} does not choose among proposals",
            remedy="judge with a model of the method mutual",
        )
    return _judge(judge, _look(judge, pictures, asked), texts) if asked else []


def writes(model: Model) -> bool:
    """Whether a model can be asked for expressions."""
    return hasattr(model.method, "write") and bool(model.method.config.generate)


def writers() -> list[str]:
    """Names of the bundled models that can be asked for expressions."""
    files = {name: read_model_file(find_model(name)) for name in list_bundled()}
    return [
        name
        for name, file in files.items()
        if hasattr(method_types(file.method)[0], "write") and file.method_config.get("generate")
    ]


def check_writes(model: Model, *, verify: bool = False) -> None:
    """Raise ConfigError for a model that cannot write expressions or, to verify, read them."""
    if not writes(model):
        able = ", ".join(writers())
        raise ConfigError(
            f"{model.name} (method {model.method_name}) cannot write expressions",
            remedy=f"these can: {able}" if able else "use a model of the method mutual",
        )
    if verify and not model.method.config.select:
        raise ConfigError(
            f"{model.name} writes expressions and was not taught to read them",
            remedy="verify with another model, or use one with method.select=true",
        )


def check_search(beams: int, keep: int) -> None:
    """Raise ConfigError for numbers that nobody can search for."""
    for name, value in (("beams", beams), ("keep", keep)):
        if not 1 <= value <= MOST:
            raise ConfigError(f"{name} {value} is out of range", remedy=f"give 1 to {MOST}")


@dataclass(frozen=True)
class _Seen:
    """proposals of the pictures; image_of, target: [E] int64 of the regions asked for."""

    proposals: Any
    image_of: Tensor
    target: Tensor
    iou: list[float | None]


def _look(model: Model, pictures: Sequence[Picture], asked: Asked, proposals: Any = None) -> _Seen:
    model.method.eval()
    batch: Batch = collate_pictures(pictures, model.preprocess).to(model.device)
    if proposals is None:
        proposals = model.method.propose(batch)
    matching = model.method.match(proposals, batch)
    images, rows = torch.tensor(asked, device=model.device).view(-1, 2).unbind(dim=1)
    target = matching.proposal[images, rows]
    if bool((target < 0).any()):
        image, row = asked[int((target < 0).nonzero()[0, 0])]
        raise DataError(
            f"image {pictures[image].image_id}: no proposal stands for object {row}",
            remedy="it has no extent, or the image has more objects than the model has proposals",
        )
    iou = [None if model.method.reads_objects else v for v in matching.iou[images, rows].tolist()]
    return _Seen(proposals, images, target, iou)


def _distinct(
    model: Model, words: list[list[int]], mask: list[list[bool]], scores: list[float], keep: int
) -> list[Expression]:
    """The first `keep` different texts; the empty one is none."""
    texts: dict[str, float] = {}
    for ids, there, score in zip(words, mask, scores, strict=True):
        if any(there):
            text = model.tokenizer.decode(i for i, real in zip(ids, there, strict=True) if real)
            if any(character.isalnum() for character in text):
                texts.setdefault(text, score)
    return [Expression(text, score) for text, score in list(texts.items())[:keep]]


def _verified(
    model: Model, seen: _Seen, told: Sequence[Sequence[Expression]]
) -> list[list[Expression]]:
    """The expressions with the verdict of the model's own selection head."""
    owner = torch.tensor([e for e, texts in enumerate(told) for _ in texts], dtype=torch.int64)
    owner = owner.to(seen.target.device)
    every = [expression for texts in told for expression in texts]
    chosen = _Seen(seen.proposals, seen.image_of[owner], seen.target[owner], [])
    verdicts = iter(_judge(model, chosen, [expression.text for expression in every]))
    return [
        [replace(one, refers_back=v.hit, margin=v.margin) for one, v in zip(texts, verdicts)]  # noqa: B905
        for texts in told
    ]


def _judge(judge: Model, seen: _Seen, texts: Sequence[str]) -> list[Verdict]:
    if not texts:
        return []
    encoded = judge.tokenizer.encode(texts)
    words = torch.from_numpy(encoded.words).to(judge.device)
    mask = torch.from_numpy(encoded.mask).to(judge.device)
    scores = judge.method.score(seen.proposals, seen.image_of, words, mask)
    chance = scores.float().softmax(dim=1)
    own = chance.gather(1, seen.target[:, None])[:, 0]
    others = chance.scatter(1, seen.target[:, None], -1.0)
    # A lone proposal has no rival; its margin is its own probability.
    best = others.amax(dim=1).clamp(min=0.0)
    hits = (scores.argmax(dim=1) == seen.target).tolist()
    margins = (own - best).tolist()
    return [Verdict(hit, margin) for hit, margin in zip(hits, margins, strict=True)]
