"""Proposals: trees about one object, in the proportions in which people choose what to say.

A proposal is a tree that holds of the object; it is kept when the object is all it can mean, at
the plain margins and with slack both ways (see `oracle.STRICT`), then put into words and read
back. Short ones come first; more is said when short ones fail.
"""

from __future__ import annotations

import random
from dataclasses import replace

from refseg.data.scenes.grammar import (
    Description,
    Relation,
    Selector,
    UnparsableExpression,
    parse,
)
from refseg.data.scenes.model import SIZES
from refseg.data.scenes.oracle import LOOSE, STRICT, World, bits
from refseg.data.scenes.phrasing import phrase, pick

Pair = tuple[str, str]
_TRIES = 30  # proposals per wanted expression
# What people say of a thing, by field; plain, matte and medium are rarely worth a word.
_HABIT = {"colour": 10.0, "pattern": 4.0, "size": 3.0, "material": 2.0}
_UNMARKED = {"plain": 0.15, "matte": 0.25, "medium": 0.1}
_SUPERLATIVES = (("biggest", 2.5), ("smallest", 2.0))
_SELECTORS = (
    ("left", 10.0), ("right", 10.0), ("leftmost", 1.5), ("rightmost", 1.5), ("far_left", 2.0),
    ("far_right", 2.0), ("middle", 6.0), ("front", 5.0), ("back", 4.0), ("top", 0.7),
    ("bottom", 0.7), ("top_left", 0.7), ("top_right", 0.7), ("bottom_left", 1.0),
    ("bottom_right", 1.0), *_SUPERLATIVES,
)  # fmt: skip
_PLANS = {
    "scenes": (
        ("plain", 5.0), ("place", 6.5), ("rank", 1.5), ("relation", 1.7), ("not", 0.3),
    ),
    "scenes+": (("plain", 6.0), ("size", 1.7), ("relation", 3.0), ("not", 0.7)),
    "scenesg": (
        ("relation", 7.0), ("plain", 1.8), ("place", 1.2), ("rank", 0.3), ("not", 0.6),
        ("two", 0.35),
    ),
}  # fmt: skip
_NOTHING = Description()

_SIZE_SHOWS = 0.1  # natural log of the visible areas' ratio
_RELATIONS = {
    "scenes": (
        ("behind", 3.0), ("in_front", 2.5), ("left_of", 2.0), ("right_of", 2.0),
        ("next_to", 3.0), ("between", 0.6),
    ),
    "scenes+": (("behind", 3.0), ("in_front", 3.0), ("next_to", 3.0), ("between", 1.0)),
}  # fmt: skip
_RELATIONS["scenesg"] = _RELATIONS["scenes"]


class Proposer:
    """Proposals about one object (by index), in one style."""

    def __init__(self, world: World, target: int, style: str, r: random.Random) -> None:
        self.world, self.target, self.style, self.r = world, target, style, r
        self.effort = 0.0  # 0..1, rises as tries fail: more words are spent

    def exact(self, count: int) -> list[str]:
        found: dict[str, None] = {}
        trees: set[Description] = set()
        tries = _TRIES * count
        for n in range(tries):
            self.effort = n / tries
            tree = self.propose()
            if tree is None or tree == _NOTHING:
                continue
            if (tree in trees and self.effort < 0.5) or not self.only(tree):
                continue
            text = phrase(tree, self.style, self.r)
            if text not in found and self.reads(text) == 1 << self.target:
                found[text] = None
                trees.add(tree)
                if len(found) == count:
                    break
        return list(found)

    def ambiguous(self, count: int) -> list[str]:
        found: dict[str, None] = {}
        me = 1 << self.target
        for _ in range(_TRIES * count):
            tree = self.base() if self.r.random() < 0.7 else self.propose()
            if tree is None or tree == _NOTHING:
                continue
            members = self.world.run(tree)
            if not members & me or members == me:
                continue
            text = phrase(tree, self.style, self.r)
            if text not in found and self.reads(text) == members:
                found[text] = None
                if len(found) == count:
                    break
        return list(found)

    def reads(self, text: str) -> int:
        """What the written words mean, 0 if they do not read back."""
        try:
            return self.world.run(parse(text))
        except UnparsableExpression:
            return 0

    def only(self, tree: Description) -> bool:
        """Whether the tree means the object alone, clearly."""
        me = 1 << self.target
        if self.world.run(tree) != me or not self.size_shows(tree, self.target):
            return False
        if not tree.relations and tree.selector is None:
            return True
        return self.world.run(tree, STRICT) == me and self.world.run(tree, LOOSE) == me

    def size_shows(self, tree: Description, index: int) -> bool:
        """A size word must agree with the eye.

        Among what the other words leave, visible areas must rank as the sizes do; "medium" needs
        something to be compared with.
        """
        size = dict(tree.has).get("size")
        if size is None:
            return True
        rest = tuple(pair for pair in tree.has if pair[0] != "size")
        members = self.world.candidates(Description(tree.kind, rest, tree.has_not))
        others = list(bits(members & ~self.world.attributes["size", size]))
        area, objects = self.world.log_area, self.world.objects
        steps = [SIZES.index(objects[i].size) - SIZES.index(size) for i in others]
        shows = all(
            step * (area[i] - area[index]) > _SIZE_SHOWS
            for i, step in zip(others, steps, strict=True)
        )
        return shows and (bool(others) or size != "medium")

    def propose(self) -> Description | None:
        plan = pick(self.r, _PLANS[self.style])
        if plan == "plain":
            return self.base()
        if plan == "not":
            return self.negated(self.base())
        if plan == "rank":
            return self.ranked(self.base())
        if plan in ("place", "size"):
            return self.selected(self.base(), _SELECTORS if plan == "place" else _SUPERLATIVES)
        first = self.related(self.base())
        return self.related(first) if first is not None and plan == "two" else first

    def base(self, index: int | None = None) -> Description:
        """Kind and attributes that hold of the object."""
        o = self.world.objects[self.target if index is None else index]
        wordy = self.style == "scenesg"
        kind = o.kind if self.r.random() < (0.93 if wordy else 0.72) else None
        wish = pick(self.r, ((0, 1.2), (1, 5.0), (2, 1.0 + 2 * self.effort)))
        if wordy:
            wish = pick(self.r, ((0, 1.2), (1, 5.0), (2, 1.5 + 2 * self.effort), (3, self.effort)))
        return Description(kind, self.attributes(index, wish))

    def attributes(self, index: int | None, wish: int) -> tuple[Pair, ...]:
        o = self.world.objects[self.target if index is None else index]
        table = [
            ((name, value), weight * _UNMARKED.get(value, 1.0))
            for name, weight in _HABIT.items()
            for value in (getattr(o, name),)
        ]
        chosen: list[Pair] = []
        for _ in range(wish):
            pair = pick(self.r, table)
            chosen.append(pair)
            table = [entry for entry in table if entry[0] != pair]
        return tuple(sorted(chosen))

    def selected(
        self, base: Description, table: tuple[tuple[str, float], ...]
    ) -> Description | None:
        """The base with a place or a superlative that leaves the object alone."""
        members, me = self.world.candidates(base), 1 << self.target
        sized = members == me or "size" in dict(base.has)
        if members == me and (self.style != "scenes" or self.r.random() < 0.6):
            return None
        fits = [
            (name, weight)
            for name, weight in table
            if self.world.select(Selector(name), members, STRICT) == me
            and not (sized and (name, weight) in _SUPERLATIVES)
        ]
        return replace(base, selector=Selector(pick(self.r, fits))) if fits else None

    def ranked(self, base: Description) -> Description | None:
        order = sorted(bits(self.world.candidates(base)), key=lambda i: self.world.x[i])
        if len(order) < 3:
            return None
        place = order.index(self.target)
        from_left = place <= len(order) - 1 - place
        rank = 1 + (place if from_left else len(order) - 1 - place)
        if rank > 4 or (rank == 1 and self.r.random() < 0.7):
            return None
        return replace(base, selector=Selector("rank_left" if from_left else "rank_right", rank))

    def negated(self, base: Description) -> Description | None:
        """What the object lacks and all the others of its sort have."""
        others = list(bits(self.world.candidates(base) & ~(1 << self.target)))
        if not others:
            return None
        o, first = self.world.objects[self.target], self.world.objects[others[0]]
        for name in ("colour", "pattern", "material", "kind"):
            value = getattr(first, name)
            shared = all(getattr(self.world.objects[i], name) == value for i in others)
            if shared and value != getattr(o, name) and value != "plain":
                return replace(base, has_not=((name, value),))
        return None

    def related(self, base: Description) -> Description | None:
        """The base with one more relation that clearly holds."""
        names, said = list(_RELATIONS[self.style]), base.relations
        while names:
            name = pick(self.r, names)
            relation = self.relation(name, base)
            if relation is not None and all(relation.landmarks != x.landmarks for x in said):
                return replace(base, relations=(*base.relations, relation))
            names = [entry for entry in names if entry[0] != name]
        return None

    def relation(self, name: str, base: Description) -> Relation | None:
        others = [i for i in range(len(self.world.objects)) if i != self.target]
        if name != "between":
            me = 1 << self.target
            fits = [i for i in others if self.world.near(name, i, STRICT) & me]
            landmark = self.landmark(self.choose(fits), base) if fits else None
            return Relation(name, (landmark,)) if landmark is not None else None
        if len(others) < 2:
            return None
        a = self.choose(others)
        b = self.choose([i for i in others if i != a])
        first, second = self.landmark(a, base), self.landmark(b, base)
        if first is None or second is None or self.world.x[a] == self.world.x[b]:
            return None
        return Relation(name, (first, second))

    def choose(self, items: list[int]) -> int:
        return items[int(self.r.random() * len(items))]

    def landmark(self, index: int, base: Description) -> Description | None:
        """A short description that means the landmark alone."""
        alone, tree = 1 << index, None
        for wish in (0, 0, 1, 1, 2, 2) if self.style != "scenesg" else (0, 1, 1, 1, 2, 2):
            o = self.world.objects[index]
            kind = o.kind if wish == 0 or self.r.random() < 0.9 else None
            tree = Description(kind, self.attributes(index, wish))
            if tree.kind == base.kind and tree.has == base.has:
                continue
            if self.world.run(tree) == alone and self.size_shows(tree, index):
                return tree
        if self.style == "scenes+" or tree is None:
            return None
        members = self.world.candidates(tree)
        for name in ("left", "right", "middle"):
            if self.world.select(Selector(name), members, STRICT) == alone:
                return replace(tree, selector=Selector(name))
        return None
