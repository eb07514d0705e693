"""Expressions for regions: written by a generation head, judged by a selection head.

    load("mutual-scenes").describe("photo.jpg", box)      # [Expression("red mug left", ...), ...]
    describe(model, pictures, asked)                      # many regions of many pictures
    refer_back(judge, pictures, asked, texts)             # does a text point at its region again?

A region is an annotated object of a `Picture`; a person's mask or box becomes a picture with one
object. With a method that finds its own proposals, the region is matched to one of them, and how
well it fits is told: on the grid of the proposals' masks, which is coarser than the picture. A box
that somebody drew is compared with boxes (by_box), anything else as the method was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from refseg.data.collate import collate_pictures
from refseg.errors import ConfigError, NoProposal
from refseg.methods import method_types
from refseg.methods.mutual.proposals import MATCHED as MATCHED
from refseg.models import Model, find_model, list_bundled, read_model_file
from refseg.types import Batch, Expression, Picture


@dataclass(frozen=True)
class Described:
    """expressions: best first, distinct texts; fewer than asked for if no more were found.

    iou: of the region and the proposal that stands for it, in cells of the grid on which the
    method draws its masks (`Predictor.describe_region` tells it in px), by_box that of their
    boxes; None when proposals are the annotated objects. proposal: its number. Where none stands
    for the region: no expressions, 0 or None, -1.
    """

    expressions: tuple[Expression, ...]
    iou: float | None
    proposal: int


@dataclass(frozen=True)
class Verdict:
    """hit: the judge's best proposal is the region's, or of detections another of the same thing.
    margin: probability of the region's proposal (of all these) minus that of the best other one,
    -1..1. matched: False where no proposal of the judge stands for the region, which is no hit by
    a margin of -1.
    """

    hit: bool
    margin: float
    matched: bool = True


Asked = Sequence[tuple[int, int]]
#: Expressions given back where nobody says how many, if so many are searched for.
KEEP = 3
MOST = 100  # beams, and expressions kept


@torch.inference_mode()
def describe(
    model: Model,
    pictures: Sequence[Picture],
    asked: Asked,
    *,
    beams: int = 3,
    keep: int | None = 1,
    verify: bool = False,
    proposals: Any = None,
    by_box: bool = False,
    strict: bool = True,
) -> list[Described]:
    """Expressions for regions.

    pictures: with their objects, [H, W, 3] or, for methods that see no pixels, [H, W, 0].
    asked: (picture, row of its object) of each region. beams: 1 is greedy. keep: at most so many
    expressions of each region, and no more than beams (greedy, there is one); None: `KEEP`, or
    beams. verify: let the model's own selection head say whether each refers back. proposals: of
    the pictures, where they are known already (`method.propose`); then no pixels are looked at, and
    pictures [H, W, 0] will do. by_box: the regions are boxes that people drew; for each stands the
    proposal whose own box comes nearest, however far that is (`Mutual.nearest`), and masks are not
    looked at. strict: False lets regions that no proposal stands for go without, as if only the
    others had been asked for.
    Returns one `Described` for each of `asked`, in order.
    Raises ConfigError for a model that does not write (or, to verify, read) and for numbers out
    of range (`check_search`), DataError for pictures without objects or without the pixels that are
    needed; if strict, NoProposal for a region without an extent or one too many.
    """
    check_writes(model, verify=verify)
    check_search(beams, keep)
    keep = min(KEEP, beams) if keep is None else keep
    if not asked:
        return []
    seen = _look(model, pictures, asked, proposals, strict, by_box)
    told = _written(model, seen, beams, keep)
    if verify:
        told = _verified(model, seen, told)
    found = map(Described, map(tuple, told), seen.iou, seen.target.tolist())
    nothing = Described((), None if model.method.reads_objects else 0.0, -1)
    return [next(found) if there else nothing for there in seen.matched]


@torch.inference_mode()
def refer_back(
    judge: Model,
    pictures: Sequence[Picture],
    asked: Asked,
    texts: Sequence[str],
    *,
    strict: bool = True,
) -> list[Verdict]:
    """Whether each text means its region to `judge`.

    texts[i] is about the region asked[i]; a region may be asked about many times. Returns one
    `Verdict` for each. strict and errors: as for `describe`; ConfigError for a model that does
    not choose among proposals.
    """
    if not getattr(getattr(judge.method, "config", None), "select", False):
        raise ConfigError(
            f"{judge.name}: method {judge.method_name} does not choose among proposals",
            remedy="judge with a model of the method mutual",
        )
    if not asked:
        return []
    seen = _look(judge, pictures, asked, None, strict)
    kept = [text for text, there in zip(texts, seen.matched, strict=True) if there]
    told = iter(_judge(judge, seen, kept))
    return [next(told) if there else Verdict(False, -1.0, False) for there in seen.matched]


def same_reader(model: Model, other: Model) -> bool:
    """Whether both read by the same selection head and text encoder, to the bit of a float16.

    Step 2 leaves them as they are, and a bundled model is a float16 copy: neither its file nor
    its name tells who gave the reward. False where either does not read.
    """
    ours, theirs = (_reader(one) for one in (model, other))
    if not ours or ours.keys() != theirs.keys():
        return False
    return all(
        ours[name].shape == theirs[name].shape
        and torch.equal(ours[name].cpu().half(), theirs[name].cpu().half())
        for name in ours
    )


def _reader(model: Model) -> dict[str, Tensor]:
    """The tensors by which a model reads expressions; none for one that does not."""
    if not isinstance(getattr(model.method, "selection", None), nn.Module):
        return {}
    state: dict[str, Tensor] = model.method.state_dict()
    return {name: v for name, v in state.items() if name.startswith(("text.", "selection."))}


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


def check_search(beams: int, keep: int | None) -> None:
    """Raise ConfigError for numbers that nobody can search for: whole, 1 to `MOST`, and keep at
    most beams, as what a search gives beyond its beams are sentences that it broke off.

    A greedy search (beams 1) gives one sentence, whatever keep.
    """
    for name, value in (("beams", beams), ("keep", 1 if keep is None else keep)):
        if not isinstance(value, Integral):
            raise ConfigError(f"{name} {value!r} is no whole number", remedy=f"give 1 to {MOST}")
        if not 1 <= value <= MOST:
            raise ConfigError(f"{name} {value} is out of range", remedy=f"give 1 to {MOST}")
    if keep is not None and keep > beams > 1:
        raise ConfigError(
            f"keep is {keep}, but only {beams} beams are searched",
            remedy=f"search more (--beams {keep}) or keep fewer (--keep)",
        )


@dataclass(frozen=True)
class _Seen:
    """proposals of the pictures. matched: whether one stands for each region asked for.

    image_of, target: [E] int64 of the E regions that one stands for; iou: theirs.
    """

    proposals: Any
    matched: list[bool]
    image_of: Tensor
    target: Tensor
    iou: list[float | None]


def _look(
    model: Model,
    pictures: Sequence[Picture],
    asked: Asked,
    proposals: Any,
    strict: bool,
    by_box: bool = False,
) -> _Seen:
    model.method.eval()
    batch: Batch = collate_pictures(pictures, model.preprocess).to(model.device)
    if proposals is None:
        proposals = model.method.propose(batch)
    if by_box:
        matching = model.method.nearest(proposals, batch)
    else:
        # A region has no category here: a person's has none, and a model may not know the data's.
        matching = model.method.match(proposals, batch, by_class=False)
    images, rows = torch.tensor(asked, device=model.device).view(-1, 2).unbind(dim=1)
    there = matching.proposal[images, rows] >= 0
    matched = there.tolist()
    if strict and not all(matched):
        image, row = asked[matched.index(False)]
        raise NoProposal(pictures[image].image_id, row)
    images, rows = images[there], rows[there]
    iou = [None if model.method.reads_objects else v for v in matching.iou[images, rows].tolist()]
    return _Seen(proposals, matched, images, matching.proposal[images, rows], iou)


def _written(model: Model, seen: _Seen, beams: int, keep: int) -> list[list[Expression]]:
    if not any(seen.matched):
        return []
    found = model.method.write(
        seen.proposals,
        seen.image_of,
        seen.target,
        beams=beams,
        keep=beams,  # some may turn out to be the same text
    )
    return [
        _distinct(model, words, mask, scores, keep)
        for words, mask, scores in zip(
            found.words.tolist(), found.mask.tolist(), found.log_p.tolist(), strict=True
        )
    ]


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
    chosen = replace(seen, image_of=seen.image_of[owner], target=seen.target[owner])
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
    same = judge.method.alike(seen.proposals, seen.image_of, seen.target)
    own = (chance * same).sum(dim=1)
    # A lone proposal has no rival; its margin is its own probability.
    best = chance.masked_fill(same, 0.0).amax(dim=1)
    hits = same.gather(1, scores.argmax(dim=1)[:, None])[:, 0].tolist()
    margins = (own - best).tolist()
    return [Verdict(hit, margin) for hit, margin in zip(hits, margins, strict=True)]
