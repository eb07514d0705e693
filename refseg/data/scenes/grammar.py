"""The scene language as a tree, and the parser from text to tree.

    description = before* noun? after*            (something must be there)
    before      = adjective | selector | rank | "not" adjective | "and"
    noun        = kind word | "one" | "thing" | ...
    after       = link? (adjective | "with stripes" | selector | "from left"
                         | "not" (adjective | kind) | relation description | "and" after)

What follows a landmark belongs to the landmark ("ball behind the cube on the left": the cube is
on the left), except after "and", which returns to the outermost thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import NamedTuple

from refseg.data.scenes import lexicon
from refseg.errors import ExpressionError

MAX_WORDS = 64
_WORD = re.compile(r"[a-z0-9]+")


class UnparsableExpression(ExpressionError):
    """The text is not in the scene language; `.text` holds it, `.word` where reading stopped."""

    def __init__(self, text: str, word: str, reason: str) -> None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(
            f'cannot read "{shown}" as a description of a scene object: {reason}'
            + (f' at "{word}"' if word else ""),
            remedy='write it like "left red ball" or "striped one behind the blue cube"',
        )
        self.text, self.word = text, word


@dataclass(frozen=True)
class Selector:
    """Picks among all that satisfies the rest. rank counts from 1 (only for rank_left/right)."""

    name: str
    rank: int = 1


@dataclass(frozen=True)
class Relation:
    """name of the relation and its landmarks (two for "between", else one)."""

    name: str
    landmarks: tuple[Description, ...]


@dataclass(frozen=True)
class Description:
    """A tree: all of kind, has, has_not, relations must hold; then the selector picks.

    has, has_not: (field, value) pairs over the fields of SceneObject; has_not may name "kind".
    """

    kind: str | None = None
    has: tuple[tuple[str, str], ...] = ()
    has_not: tuple[tuple[str, str], ...] = ()
    relations: tuple[Relation, ...] = ()
    selector: Selector | None = None


class Token(NamedTuple):
    """A read phrase: its role in the grammar, its meaning, its words."""

    role: str
    meaning: tuple[str, str]
    words: str


def _side_phrases() -> dict[str, tuple[str, tuple[str, str]]]:
    """All the ways to put a place after (or before) a noun, more than `describe` writes."""
    places = {"left": "left", "right": "right", "far left": "far_left", "far right": "far_right"}
    places |= dict.fromkeys(("middle", "center", "centre"), "middle")
    places |= {"front": "front", "foreground": "front", "back": "back", "background": "back"}
    places |= {"top": "top", "bottom": "bottom"}
    corners = {"top": "top", "upper": "top", "back": "top"}
    corners |= {"bottom": "bottom", "lower": "bottom", "front": "bottom"}
    for (word, row), side in product(corners.items(), ("left", "right")):
        places[f"{word} {side}"] = places[f"{side} {word}"] = f"{row}_{side}"
    table = {}
    tails = ["", "side", "corner", "part", "hand side", "edge", "end", "area"]
    tails += [f"{t} of {p}".strip() for t in ("", "side", "part") for p in lexicon.PICTURE_WORDS]
    for lead, (place, name), tail in product(
        ("", "on", "at", "in", "to", "towards", "way on", "way in"), places.items(), tails
    ):
        table[" ".join(filter(None, (lead, place, tail)))] = ("selector", ("selector", name))
    return table


@cache
def _phrase_table() -> dict[str, list[tuple[tuple[str, ...], Token]]]:
    """First word -> phrases that begin with it, longest first."""
    roles: dict[str, tuple[str, tuple[str, str]]] = _side_phrases()
    for table in (lexicon.SELECTORS_BEFORE, lexicon.SELECTORS_AFTER):
        for name, phrases in table.items():
            roles |= {p: ("selector", ("selector", name)) for p, _ in phrases}
    for pair, phrases in lexicon.ADJECTIVES.items():
        roles |= {p: ("adjective", pair) for p, _ in phrases}
    for value, phrases in lexicon.PATTERN_NOUNS.items():
        for p, _ in phrases:
            roles |= {f"{w} {p}": ("adjective", ("pattern", value)) for w in ("with", "has")}
            roles |= {f"{w} {p}": ("lacks", ("pattern", value)) for w in ("without", "with no")}
    for value, phrases in lexicon.MATERIAL_NOUNS.items():
        roles |= {p: ("adjective", ("material", value)) for p, _ in phrases}
    for kind, phrases in lexicon.KIND_WORDS.items():
        roles |= {p: ("kind", ("kind", kind)) for p, _ in phrases}
    roles |= {word: ("generic", ("kind", "")) for word, _ in lexicon.GENERIC_WORDS}
    for rank, phrases in lexicon.RANK_WORDS.items():
        roles |= {p: ("rank", ("rank", str(rank))) for p, _ in phrases}
    for name, phrases in lexicon.RANK_ENDS.items():
        roles |= {p: ("from", ("selector", name)) for p, _ in phrases}
    for name, phrases in lexicon.RELATION_WORDS.items():
        roles |= {p: ("relation", ("relation", name)) for p, _ in phrases}
    roles |= {p: ("link", ("", "")) for p, _ in lexicon.LINKS}
    roles |= dict.fromkeys(("is", "that", "which"), ("link", ("", "")))
    roles |= {p: ("not", ("", "")) for p, _ in lexicon.NOT_WORDS}
    roles |= dict.fromkeys(("isn t", "is not", "that s not", "non", "that not"), ("not", ("", "")))
    roles["and"] = ("and", ("", ""))
    entries: dict[str, list[tuple[tuple[str, ...], Token]]] = {}
    for phrase, (role, meaning) in roles.items():
        words = tuple(phrase.split())
        entries.setdefault(words[0], []).append((words, Token(role, meaning, phrase)))
    for group in entries.values():
        group.sort(key=lambda entry: -len(entry[0]))
    return entries


def tokenise(text: str) -> list[Token]:
    """Lower case, no punctuation, no articles, longest known phrase first.

    Raises UnparsableExpression for an unknown word, no words, or more than MAX_WORDS of them.
    """
    words = [w for w in _WORD.findall(text.lower()) if w not in lexicon.ARTICLES]
    if not words or len(words) > MAX_WORDS:
        raise UnparsableExpression(text, "", "it has no words" if not words else "it is too long")
    table = _phrase_table()
    tokens: list[Token] = []
    at = 0
    while at < len(words):
        for phrase, token in table.get(words[at], ()):
            if tuple(words[at : at + len(phrase)]) == phrase:
                tokens.append(token)
                at += len(phrase)
                break
        else:
            raise UnparsableExpression(text, words[at], "unknown word")
    return tokens


def parse(text: str) -> Description:
    """Text to tree. Raises UnparsableExpression."""
    parser = _Parser(text, tokenise(text))
    tree = parser.description(outermost=True)
    if parser.at < len(parser.tokens):
        parser.fail("does not belong here")
    return tree


@dataclass
class _Draft:
    """A description while it is being read."""

    kind: str | None = None
    noun: bool = False
    rank: int = 0
    has: list[tuple[str, str]] = field(default_factory=list)
    has_not: list[tuple[str, str]] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    selector: Selector | None = None

    def build(self) -> Description:
        return Description(
            self.kind, tuple(self.has), tuple(self.has_not), tuple(self.relations), self.selector
        )


class _Parser:
    """Recursive descent over tokens; `at` is the next token."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self.text, self.tokens, self.at = text, tokens, 0

    def role(self, ahead: int = 0) -> str:
        where = self.at + ahead
        return self.tokens[where].role if where < len(self.tokens) else "end"

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def fail(self, reason: str) -> None:
        word = self.tokens[self.at].words if self.at < len(self.tokens) else "the end"
        raise UnparsableExpression(self.text, word, reason)

    def description(self, *, outermost: bool = False, may_and: bool = True) -> Description:
        draft, start = _Draft(), self.at
        while self._part(draft, outermost, may_and):
            pass
        if self.at == start:
            self.fail("a description is missing")
        if draft.rank:
            self.fail('"first", "second" ... need "from left" or "from right"')
        return draft.build()

    def _part(self, draft: _Draft, outermost: bool, may_and: bool) -> bool:
        """Read one part into the draft; False if the next token belongs to somebody else."""
        role = self.role()
        if role in ("kind", "generic"):
            return self._noun(draft)
        if role in ("adjective", "lacks"):
            token = self.take()
            (draft.has if role == "adjective" else draft.has_not).append(token.meaning)
        elif role == "selector":
            self._select(draft, Selector(self.take().meaning[1]))
        elif role == "rank":
            draft.rank = int(self.take().meaning[1])
        elif role == "from":
            if not draft.rank:
                return False
            self._select(draft, Selector(self.take().meaning[1], draft.rank))
            draft.rank = 0
        elif role == "not":
            self._negation(draft)
        elif role == "relation":
            draft.relations.append(self._relation())
        elif role == "link" and self.role(1) not in ("end", "link", "kind", "generic"):
            self.take()
        elif role == "and" and may_and and (outermost or self.role(1) == "adjective"):
            self.take()
            if self.role() in ("end", "and", "kind", "generic"):
                self.fail('nothing to join after "and"')
        else:
            return False
        return True

    def _noun(self, draft: _Draft) -> bool:
        if draft.noun:
            return False
        draft.noun = True
        draft.kind = self.take().meaning[1] or None
        return True

    def _select(self, draft: _Draft, selector: Selector) -> None:
        if draft.selector not in (None, selector):
            self.at -= 1
            self.fail("only one place, rank or superlative can be said of one thing")
        draft.selector = selector

    def _negation(self, draft: _Draft) -> None:
        self.take()
        if self.role() not in ("adjective", "kind"):
            self.fail('only an adjective or a kind can follow "not"')
        draft.has_not.append(self.take().meaning)

    def _relation(self) -> Relation:
        name = self.take().meaning[1]
        if name != "between":
            return Relation(name, (self.description(),))
        first = self.description(may_and=False)
        if self.role() != "and":
            self.fail('"between" needs two things joined by "and"')
        self.take()
        return Relation(name, (first, self.description()))
