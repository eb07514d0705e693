"""Captions of a whole scene, true by construction: what there is, not which one is meant.

A caption is a list of groups that share no object, so numbers can be checked: "two striped
cubes" means exactly two objects of the scene are striped cubes; "a red ball" that there is one
or more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from refseg.data.scenes import lexicon
from refseg.data.scenes.model import Scene, SceneObject
from refseg.data.scenes.phrasing import pick

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_OPENINGS = (
    ("", 8.0), ("there is ", 1.0), ("a picture of ", 1.0), ("a scene with ", 1.0),
    ("we see ", 0.3), ("you can see ", 0.3),
)  # fmt: skip
_ENDINGS = (("", 8.0), (" on the ground", 1.0), (" on the floor", 0.7), (" together", 0.3))
_FIELDS = (("colour", 6.0), ("pattern", 2.5), ("material", 2.0), ("size", 1.5))


def captions(scene: Scene, rng: np.random.Generator, count: int = 3) -> list[str]:
    """Up to `count` distinct captions; [] when nothing is visible. One draw from `rng`."""
    seen = [o for o in scene.objects if o.area > 0]
    r = random.Random(int(rng.integers(1 << 62)))
    found: dict[str, None] = {}
    if not seen:
        return []
    for _ in range(8 * count):
        shared = _shared(seen, r) if r.random() < 0.25 else ""
        found[shared or _listing(seen, r)] = None
        if len(found) == count:
            break
    return list(found)


def caption_words() -> set[str]:
    """Words that captions have beyond those of expressions."""
    texts = [*NUMBERS, *(text for text, _ in (*_OPENINGS, *_ENDINGS)), "there are of them things"]
    nouns = [word for phrases in lexicon.KIND_WORDS.values() for word, _ in phrases]
    texts += [lexicon.plural(noun) for noun in (*nouns, "object")]
    return {word for text in texts for word in text.split()}


def _listing(seen: list[SceneObject], r: random.Random) -> str:
    """Groups by kind, or thing by thing, or a part of them."""
    kinds = sorted({o.kind for o in seen})
    _shuffle(kinds, r)
    parts: list[str] = []
    for kind in kinds:
        parts += _of_kind([o for o in seen if o.kind == kind], seen, r)
    if len(parts) > 3 and r.random() < 0.5:
        parts = parts[: 2 + int(r.random() * 2)]
    opening = pick(r, _OPENINGS)
    if opening == "there is " and not parts[0].startswith(("a ", "an ")):
        opening = "there are "
    return opening + _join(parts) + pick(r, _ENDINGS)


def _of_kind(group: list[SceneObject], seen: list[SceneObject], r: random.Random) -> list[str]:
    """One phrase for all of a kind, or one for each."""
    noun = pick(r, lexicon.KIND_WORDS[group[0].kind])
    if len(group) == 1:
        return [_one(group[0], noun, r)]
    shared = [
        (getattr(group[0], name), name)
        for name, _ in _FIELDS
        if len({getattr(o, name) for o in group}) == 1 and getattr(group[0], name) != "plain"
    ]
    if shared and r.random() < 0.6:
        value, name = shared[int(r.random() * len(shared))]
        word = pick(r, lexicon.ADJECTIVES[name, value])
        return [f"{_number(len(group))} {word} {lexicon.plural(noun)}"]
    if r.random() < 0.4:
        return [f"{_number(len(group))} {lexicon.plural(noun)}"]
    return [_one(o, noun, r) for o in group]


def _one(o: SceneObject, noun: str, r: random.Random) -> str:
    """ "a big red ball": zero to two attributes."""
    fields = list(_FIELDS)
    chosen: list[str] = []
    for _ in range(pick(r, ((0, 1.0), (1, 5.0), (2, 2.5)))):
        name = pick(r, fields)
        fields = [entry for entry in fields if entry[0] != name]
        chosen.append(name)
    order = [n for n in ("size", "pattern", "material", "colour") if n in chosen]
    words = [pick(r, lexicon.ADJECTIVES[n, getattr(o, n)]) for n in order]
    return _a(" ".join([*words, noun]))


def _shared(seen: list[SceneObject], r: random.Random) -> str:
    """ "three shiny things on the ground, one of them is a blue ring"."""
    name = pick(r, _FIELDS)
    values = sorted({getattr(o, name) for o in seen})
    value = values[int(r.random() * len(values))]
    group = [o for o in seen if getattr(o, name) == value]
    if len(group) < 2:
        return ""
    word, noun = pick(r, lexicon.ADJECTIVES[name, value]), pick(r, (("things", 2), ("objects", 1)))
    text = f"{_number(len(group))} {word} {noun}{pick(r, _ENDINGS[:3])}"
    if r.random() < 0.5:
        o = group[int(r.random() * len(group))]
        kind = pick(r, lexicon.KIND_WORDS[o.kind])
        other = o.kind if name == "colour" else o.colour
        text += f", one of them is {_a(kind if name == 'colour' else f'{other} {kind}')}"
    return text


def _number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _shuffle(items: list[str], r: random.Random) -> None:
    for i in range(len(items) - 1, 0, -1):
        j = int(r.random() * (i + 1))
        items[i], items[j] = items[j], items[i]
