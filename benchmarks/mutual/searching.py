"""Beam search with a cache and shared projections against one that reads everything anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import (
    FixedLength,
    Table,
    Task,
    fix_length,
    kept_mib,
    measured,
    quietly,
    same,
)
from refseg.methods.mutual.config import GeneratorConfig, MutualConfig
from refseg.methods.mutual.generator import Generator, Memory
from refseg.nn.beam import Found, Rules, beam_search
from refseg.recipes.mutual import mutual_scenes

PLAIN = "words read anew, projected at every step"
ANEW = "words read anew, projected once"
OURS = "ours: words kept, projected once an image"


@dataclass(frozen=True)
class Size:
    """E objects, `each` of every image, with N proposals that are `channels` wide; B beams."""

    name: str
    config: GeneratorConfig
    channels: int
    proposals: int
    images: int
    each: int
    ids: tuple[int, ...]
    beams: int = 5

    @property
    def title(self) -> str:
        return (
            f"{self.name}: {self.images * self.each} objects of {self.images} images, "
            f"N = {self.proposals}, V = {self.config.vocab_size}, {self.beams} beams"
        )


def sizes(quick: bool) -> list[Size]:
    method = mutual_scenes().method
    assert isinstance(method, MutualConfig)
    scenes = Size("scenes", method.generator, 64, 12, 8, 4, ids=(8, 23))
    if quick:
        toy = GeneratorConfig(width=64, heads=4, layers=2, mlp_width=256, vocab_size=2_000)
        return [Size("toy", toy, 64, 30, 4, 2, ids=(8,)), scenes]
    return [Size("paper size", GeneratorConfig(), 256, 100, 4, 2, ids=(6, 20)), scenes]


@dataclass(frozen=True)
class Asked:
    """objects O [I, N, C]; image_of, target [E]."""

    objects: Tensor
    image_of: Tensor
    target: Tensor


def made(size: Size, ids: int, dtype: torch.dtype = torch.float32) -> tuple[FixedLength, Asked]:
    torch.manual_seed(0)
    generator = FixedLength(size.config, size.channels).eval().to(dtype)
    fix_length(generator, ids)
    objects = torch.randn(size.images, size.proposals, size.channels, dtype=dtype)
    image_of = torch.arange(size.images).repeat_interleave(size.each)
    target = torch.randint(size.proposals, (len(image_of),))
    return generator, Asked(objects, image_of, target)


# -- forms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prefix:
    """The state without a cache: objects still searched [E], their words so far [E, W, t]."""

    objects: Tensor
    words: Tensor | None = None

    def select(self, items: Tensor, beams: Tensor) -> Prefix:
        assert self.words is not None
        return Prefix(self.objects[items], self.words[items[:, None], beams])


def ours(generator: Generator, asked: Asked, beams: int) -> Found:
    with torch.no_grad():
        return generator.write(
            generator.remember(asked.objects, asked.image_of, asked.target), beams=beams
        )


def anew(generator: FixedLength, asked: Asked, beams: int, *, once: bool) -> Found:
    """The plain search. once: the proposals are projected before the first step, not in each."""
    config = generator.config
    known = projected(generator, asked) if once else None

    def step(last: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        parts = [] if state.words is None else [state.words]
        words = torch.cat([*parts, last[..., None]], dim=-1)
        rows = state.objects
        left = Asked(asked.objects, asked.image_of[rows], asked.target[rows])
        memory = projected(generator, left) if known is None else known[rows]
        logits = last_logits(generator, words, memory)
        return generator.without_end(logits, words.shape[-1]), Prefix(rows, words)

    rules = Rules(end=config.end, max_steps=config.max_words - 1, beams=beams, never=config.never)
    start = torch.full((len(asked.target),), config.start)
    return beam_search(step, Prefix(torch.arange(len(start))), start, rules)


@torch.no_grad()
def projected(generator: Generator, asked: Asked) -> Memory:
    """Each object's own copy of its image's proposals, marked and projected: the paper's way."""
    marked = generator.indicator.mark(asked.objects, asked.image_of, asked.target)
    return generator._project(marked)


@torch.no_grad()
def last_logits(generator: Generator, words: Tensor, memory: Memory) -> Tensor:
    """words [E, W, t] -> logits [E, W, V] after the last; those of the others are not asked."""
    length = words.shape[-1]
    x = generator._embed(words.flatten(0, 1), 0)
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None]
    for layer, heard in zip(generator._decoder(), memory.layers, strict=True):
        x, _ = layer.look(x, allowed=causal)
        x = layer.hear(x, heard)
    return generator._logits(x[:, -1]).view(*words.shape[:-1], -1)


SEARCHES: dict[str, Callable[[FixedLength, Asked, int], Found]] = {
    PLAIN: partial(anew, once=False),
    ANEW: partial(anew, once=True),
    OURS: ours,
}

# -- measuring -------------------------------------------------------------------------------


def check(size: Size, ids: int) -> None:
    """All forms find the same sentences, in float64, where no two beams tie by rounding."""
    generator, asked = made(size, ids, torch.float64)
    fast = ours(generator, asked, size.beams)
    assert (fast.lengths == ids).all(), "sentences of another length"
    for name in (PLAIN, ANEW):
        slow = SEARCHES[name](generator, asked, size.beams)
        assert torch.equal(fast.words, slow.words), "the two searches find different sentences"
        same(fast.log_p, slow.log_p, "log p")


def made_search(size: Size, ids: int, name: str) -> Task:
    generator, asked = made(size, ids)
    return partial(SEARCHES[name], generator, asked, size.beams)


def searches(quick: bool, runs: int) -> dict[str, Table]:
    told = {}
    for size in sizes(quick):
        for ids in size.ids:
            check(size, ids)
            makes = {name: partial(made_search, size, ids, name) for name in SEARCHES}
            told[f"{size.title}, sentences of {ids} ids"] = measured(makes, runs)
    return told


def share(generator: Generator, asked: Asked) -> Memory:
    return generator.remember(asked.objects, asked.image_of, asked.target)


def each(generator: Generator, asked: Asked) -> Memory:
    return generator._project(generator.indicator.mark(asked.objects, asked.image_of, asked.target))


Form = Callable[[Generator, Asked], Memory]
FORMS: dict[str, Form] = {"one projection an object": each, "one projection an image": share}


def made_projection(size: Size, name: str) -> Task:
    return partial(quietly, FORMS[name], *made(size, size.ids[0]))


def projections(quick: bool, runs: int) -> dict[str, Table]:
    """What `remember` alone costs, of more and more objects an image."""
    told = {}
    for base in sizes(quick)[:1]:
        for each_image in (2, 8, 32):
            size = replace(base, each=each_image)
            generator, asked = made(size, size.ids[0])
            one, other = (form(generator, asked) for form in FORMS.values())
            for a, b in zip(one.layers, other.layers, strict=True):
                same(a.keys, b.keys, "keys")
                same(a.values, b.values, "values")
            table = measured({name: partial(made_projection, size, name) for name in FORMS}, runs)
            for name, form in FORMS.items():
                table[name]["kept_mib"] = kept_mib(partial(form, generator, asked), generator)
            objects = size.images * size.each
            told[f"{size.name}: memory of {objects} objects of {size.images} images"] = table
    return told
