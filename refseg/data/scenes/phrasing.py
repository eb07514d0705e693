"""From a tree to words, as people put them: word order, synonyms, ellipsis, articles.

`phrase` may return words that read back as another tree; `describe` reads every sentence back
before it is given out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from refseg.data.scenes import lexicon
from refseg.data.scenes.grammar import Description, Relation, Selector

Item = TypeVar("Item")
STYLES = ("scenes", "scenes+", "scenesg")
_ORDER = ("size", "pattern", "material", "colour")
_RANKS = ("rank_left", "rank_right")


def pick(r: random.Random, table: Sequence[tuple[Item, float]]) -> Item:
    """One item of a weighted table. (`random()` alone is used: its stream never changes.)"""
    if len(table) == 1:
        return table[0][0]
    left = r.random() * sum(weight for _, weight in table)
    for item, weight in table:
        left -= weight
        if left < 0:
            return item
    return table[-1][0]


def phrase(tree: Description, style: str, r: random.Random) -> str:
    """Words for a tree in one of STYLES."""
    words = _noun_phrase(tree, style, r, outermost=True)
    if style == "scenesg":
        return _article("the" if tree.selector or r.random() < 0.6 else "a", words)
    return f"the {words}" if r.random() < 0.12 and not _starts_loose(words) else words


def _article(article: str, words: str) -> str:
    if article == "a" and words[0] in "aeiou" and not words.startswith("one"):
        article = "an"
    return f"{article} {words}"


def _starts_loose(words: str) -> bool:
    return words.split()[0] in ("on", "at", "in", "to", "with", "not", "behind", "by", "near")


def _noun_phrase(tree: Description, style: str, r: random.Random, *, outermost: bool) -> str:
    before, after = _modifiers(tree, style, r)
    select_before, select_after = _selector(tree.selector, style, r, bool(before or tree.kind))
    can_omit = bool(before or select_before or select_after) and not after
    noun = _noun(tree, style, r, outermost, can_omit)
    if not outermost and select_after and not select_before and tree.selector is not None:
        # A place said after a landmark is clumsy ("behind the cube on left"): put it before.
        before_words = lexicon.SELECTORS_BEFORE.get(tree.selector.name)
        if before_words is not None:
            select_before, select_after = pick(r, before_words), ""
    relations = [_relation(relation, style, r) for relation in tree.relations]
    link = _link(style, r) if relations and noun and not after else ""
    if relations and select_after in ("left", "right"):
        select_after = f"on the {select_after}"  # "ball right behind" would say something else
    if relations and len(relations) > 1:
        relations = [" and ".join(relations)]
    words = [select_before, *before, noun, *after, select_after, link, *relations]
    return " ".join(word for word in words if word)


def _modifiers(tree: Description, style: str, r: random.Random) -> tuple[list[str], list[str]]:
    before, after = [], []
    for pair in sorted(tree.has, key=lambda pair: _ORDER.index(pair[0])):
        nouns = lexicon.PATTERN_NOUNS.get(pair[1])
        if nouns and r.random() < (0.25 if style == "scenesg" else 0.12):
            after.append("with " + pick(r, nouns))
        elif pair[1] in lexicon.MATERIAL_NOUNS and style == "scenesg" and r.random() < 0.1:
            after.append(pick(r, lexicon.MATERIAL_NOUNS[pair[1]]))
        else:
            before.append(pick(r, lexicon.ADJECTIVES[pair]))
    if len(before) > 1 and r.random() < 0.1:
        before.reverse()
    for field, value in tree.has_not:
        nouns = lexicon.PATTERN_NOUNS.get(value)
        if nouns and r.random() < 0.4:
            after.append("without " + pick(r, nouns))
            continue
        what = _a_kind(value, r) if field == "kind" else pick(r, lexicon.ADJECTIVES[field, value])
        after.append(f"{pick(r, lexicon.NOT_WORDS)} {what}".replace("isn t", "isn't"))
    return before, after


def _a_kind(kind: str, r: random.Random) -> str:
    return "a " + pick(r, lexicon.KIND_WORDS[kind])


def _noun(tree: Description, style: str, r: random.Random, outermost: bool, can_omit: bool) -> str:
    if tree.kind is not None:
        return pick(r, lexicon.KIND_WORDS[tree.kind])
    omit = {"scenes": 0.45, "scenes+": 0.2, "scenesg": 0.0}[style]
    if not outermost:  # "behind the striped" is rarer than "striped" alone
        omit *= 0.3 if tree.has else 0.0
    if can_omit and r.random() < omit:
        return ""
    return pick(r, lexicon.GENERIC_WORDS)


def _selector(
    selector: Selector | None, style: str, r: random.Random, has_words: bool
) -> tuple[str, str]:
    """(words before the noun, words after it)."""
    if selector is None:
        return "", ""
    the = "the " if style == "scenesg" or r.random() < 0.45 else ""
    if selector.name in _RANKS:
        rank = pick(r, lexicon.RANK_WORDS[selector.rank])
        end = pick(r, lexicon.RANK_ENDS[selector.name]).replace("from ", f"from {the}")
        if has_words and style == "scenes" and r.random() < 0.2:
            return "", f"{rank} {end}"
        return rank, end
    after = lexicon.SELECTORS_AFTER.get(selector.name)
    before = lexicon.SELECTORS_BEFORE[selector.name]
    if after is None or r.random() < 0.6:
        return pick(r, before), ""
    return "", _with_article(pick(r, after), the)


def _with_article(words: str, the: str) -> str:
    """Put "the" where a place phrase wants it: "on left of picture" -> "on the left of the ...".

    "in front" alone takes none.
    """
    if not the or words == "in front":
        return words
    first, _, rest = words.partition(" ")
    if first in ("on", "at", "in", "to"):
        words = f"{first} {the}{rest}"
    for tail in (" of picture", "to camera"):
        if words.endswith(tail):
            head, _, last = words.rpartition(" ")
            words = f"{head} {the}{last}"
    return words


def _link(style: str, r: random.Random) -> str:
    chance = {"scenes": 0.03, "scenes+": 0.06, "scenesg": 0.4}[style]
    link = pick(r, lexicon.LINKS) if r.random() < chance else ""
    return "that's" if link == "that s" else link


def _relation(relation: Relation, style: str, r: random.Random) -> str:
    words = pick(r, lexicon.RELATION_WORDS[relation.name])
    if style == "scenesg" and words in ("left of", "right of"):
        words = f"to the {words}"
    elif words.startswith(("to ", "on ")):
        words = _with_article(words, "the ")
    landmarks = [_landmark(landmark, style, r) for landmark in relation.landmarks]
    return f"{words} {' and '.join(landmarks)}"


def _landmark(tree: Description, style: str, r: random.Random) -> str:
    words = _noun_phrase(tree, style, r, outermost=False)
    if style == "scenesg":
        return _article("the" if tree.selector or r.random() < 0.85 else "a", words)
    return f"the {words}" if r.random() < 0.5 else words
