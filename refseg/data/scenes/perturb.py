"""Expressions as they come in: typing errors, slang, capitals, articles, filler words.

Only "typo" may cost meaning. For the other kinds `referents(normalise(perturbed), scene)` equals
`referents(text, scene)`.
"""

from __future__ import annotations

import re

import numpy as np

from refseg.errors import UnknownName

PERTURBATIONS = ("typo", "slang", "case", "article", "filler")

_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# formal pattern -> slang words; each slang word is found again by `_PLAIN`.
_SLANG: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"far left", ("waaay left", "waay left")),
    (r"far right", ("waaay right", "waay right")),
    (r"left (?:one|thing|object)", ("lefty",)),
    (r"right (?:one|thing|object)", ("righty",)),
    (r"in front of", ("infront of",)),
    (r"next to", ("nxt to",)),
    (r"that(?: i|')s", ("dats", "thats")),
    (r"is(?: not|n't)", ("aint", "ain't")),
    (r"the", ("da", "teh")),
    (r"that", ("dat",)),
    (r"small|little|tiny", ("lil", "teeny")),
    (r"big|large|huge", ("biiig", "ginormous", "humongous")),
    (r"one|thing|object", ("thingy", "thingie", "thingamajig")),
    (r"behind", ("bhind",)),
    (r"with", ("wit", "w/")),
    (r"and", ("n", "nd")),
    (r"yellow", ("yella", "yelo")),
    (r"purple", ("purp",)),
    (r"middle", ("mid",)),
    (r"between", ("btwn",)),
    (r"picture", ("pic",)),
)
_PLAIN: tuple[tuple[str, str], ...] = (
    (r"wa{2,}y", "far"),
    (r"lefty", "left one"),
    (r"righty", "right one"),
    (r"infront", "in front"),
    (r"nxt", "next"),
    (r"dats|thats", "that is"),
    (r"ain'?t", "is not"),
    (r"da|teh", "the"),
    (r"dat", "that"),
    (r"lil|teeny", "small"),
    (r"bi{2,}g|ginormous|humongous", "big"),
    (r"thing(?:y|ie|amajig)", "thing"),
    (r"bhind", "behind"),
    (r"wit|w/?", "with"),
    (r"nd?", "and"),
    (r"yella|yelo", "yellow"),
    (r"purp", "purple"),
    (r"mid(?! sized)", "middle"),
    (r"btwn", "between"),
    (r"pic", "picture"),
)
_BEFORE = (
    "um", "uh", "umm", "hmm", "hey", "ok", "so", "please", "i mean", "i think", "just",
    "can you find", "could you select", "show me", "find me", "click on", "segment", "look for",
    "i want", "i need", "it is", "its",
)  # fmt: skip
_AFTER = ("please", "pls", "plz", "thanks", "thx", "lol", "i think", "i guess", "you know", "haha")
_FILLERS = re.compile(
    r"\b(?:" + "|".join(sorted({*_BEFORE, *_AFTER}, key=lambda t: (-len(t), t))) + r")\b"
)
_ARTICLE = re.compile(r"\b(?:the|an?)\b ?", re.IGNORECASE)


def perturb(text: str, kind: str, rng: np.random.Generator, strength: int = 1) -> str:
    """The text as a hurried or chatty person would have typed it.

    kind: one of PERTURBATIONS. strength: how many edits at most (for "case": how wild). The text
    comes back unchanged where the kind has nothing to change. Raises UnknownName.
    """
    if kind not in PERTURBATIONS:
        raise UnknownName("perturbation", kind, PERTURBATIONS)
    if kind == "case":
        return _case(text, rng, strength)
    edit = {"typo": _typo, "slang": _slang, "article": _article, "filler": _filler}[kind]
    for _ in range(strength):
        text = edit(text, rng)
    return text


def normalise(text: str) -> str:
    """Slang back to plain words, fillers out, lower case, single spaces."""
    text = text.lower()
    for pattern, plain in _PLAIN:
        text = re.sub(_whole(pattern), plain, text)
    return " ".join(_FILLERS.sub(" ", text).replace(",", " ").split())


def _whole(pattern: str) -> str:
    """The pattern as whole words; an apostrophe counts as a letter."""
    return rf"(?<![\w'])(?:{pattern})(?![\w'])"


def _one_of(items: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]


def _typo(text: str, rng: np.random.Generator) -> str:
    """One slip inside a word of three letters or more (any word if there is none)."""
    spans = [m.span() for m in re.finditer(r"[^\W\d_]+", text)]
    long = [span for span in spans if span[1] - span[0] >= 3] or spans
    if not long:
        return text
    start, end = long[int(rng.integers(len(long)))]
    at, slip = int(rng.integers(start, end)), int(rng.integers(4))
    letter, rest = text[at], text[at + 1 :]
    if slip == 0 and end - start > 1:
        return text[:at] + rest
    if slip == 1:
        return text[:at] + letter + letter + rest
    other = min(max(at, start + 1), end - 1)
    if slip == 2 and end - start > 1 and text[other - 1] != text[other]:
        return text[: other - 1] + text[other] + text[other - 1] + text[other + 1 :]
    near = _neighbour(letter.lower(), rng)
    return text[:at] + (near.upper() if letter.isupper() else near) + rest


def _neighbour(letter: str, rng: np.random.Generator) -> str:
    """A key beside the letter's key on a QWERTY keyboard; "x" for letters it does not have."""
    for r, row in enumerate(_KEY_ROWS):
        c = row.find(letter)
        if c < 0:
            continue
        near = [row[i] for i in (c - 1, c + 1) if 0 <= i < len(row)]
        near += [_KEY_ROWS[k][c] for k in (r - 1, r + 1) if 0 <= k < 3 and c < len(_KEY_ROWS[k])]
        return _one_of(near, rng)
    return "x"


def _slang(text: str, rng: np.random.Generator) -> str:
    """One formal word or phrase becomes slang."""
    hits = [
        (m, words)
        for pattern, words in _SLANG
        for m in re.finditer(_whole(pattern), text, re.IGNORECASE)
    ]
    if not hits:
        return text
    match, words = hits[int(rng.integers(len(hits)))]
    return text[: match.start()] + _one_of(words, rng) + text[match.end() :]


def _case(text: str, rng: np.random.Generator, strength: int) -> str:
    if strength > 1:
        return "".join(c.upper() if rng.random() < 0.5 else c.lower() for c in text)
    return (text.upper(), text.title(), text.capitalize())[int(rng.integers(3))]


def _article(text: str, rng: np.random.Generator) -> str:
    """Drop or change one article; without any, put "the" in front."""
    found = list(_ARTICLE.finditer(text))
    if not found:
        return f"the {text}"
    match = found[int(rng.integers(len(found)))]
    put = "" if rng.random() < 0.7 else _other_article(match[0], rng)
    return (text[: match.start()] + put + text[match.end() :]).strip() or text


def _other_article(article: str, rng: np.random.Generator) -> str:
    return _one_of([a for a in ("the ", "a ", "an ") if a != article.lower()], rng)


def _filler(text: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return f"{_one_of(_BEFORE, rng)}{_one_of(['', '', ','], rng)} {text}"
    return f"{text}{_one_of(['', ','], rng)} {_one_of(_AFTER, rng)}"
