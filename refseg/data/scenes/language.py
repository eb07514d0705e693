"""Expressions for one object of a scene, each checked by executing it. The language's front door.

`describe` writes, `referents` reads, `captions` tells of the whole scene, `vocabulary` lists the
words. docs/data/scenes-language.md says what every word means.
"""

from __future__ import annotations

import random

import numpy as np

from refseg.data.scenes import lexicon
from refseg.data.scenes.captions import caption_words, captions
from refseg.data.scenes.grammar import UnparsableExpression
from refseg.data.scenes.model import Scene
from refseg.data.scenes.oracle import World, referents
from refseg.data.scenes.phrasing import STYLES
from refseg.data.scenes.proposals import Proposer
from refseg.errors import DataError, UnknownName

__all__ = [
    "STYLES",
    "UnparsableExpression",
    "captions",
    "describe",
    "referents",
    "vocabulary",
]


def describe(
    scene: Scene,
    object_id: int,
    style: str,
    rng: np.random.Generator,
    *,
    count: int = 3,
    ambiguous: bool = False,
) -> list[str]:
    """Up to `count` distinct expressions that mean this object and nothing else.

    style: one of STYLES. ambiguous: expressions true of the object and of at least one other.
    Fewer (or none) come back when the object cannot be told apart or cannot be seen. Takes one
    draw from `rng`. Raises UnknownName for the style, DataError for the object.
    """
    if style not in STYLES:
        raise UnknownName("scene style", style, STYLES)
    if all(o.object_id != object_id for o in scene.objects):
        known = ", ".join(str(o.object_id) for o in scene.objects)
        raise DataError(f"the scene has no object {object_id}", remedy=f"its objects: {known}")
    world = World(scene)
    target = world.index_of(object_id)
    if target is None:
        return []
    proposer = Proposer(world, target, style, random.Random(int(rng.integers(1 << 62))))
    return proposer.ambiguous(count) if ambiguous else proposer.exact(count)


def vocabulary() -> list[str]:
    """Every word that `describe` and `captions` can write, sorted, lower case, no punctuation."""
    words = {word for text in lexicon.all_phrases() for word in text.split()}
    words |= {"the", "a", "an", "with", "without", "and", "that's", "isn't"}
    return sorted((words | caption_words()) - {"s", "t", "isn"})
