"""Words of an expression as the captions' metrics count them, and their stems.

Published scores tokenise with Stanford's PTB tokeniser (Java) and then drop its punctuation
marks. `tokenise` follows it where referring expressions go; it was compared with it on the
159,059 distinct sentences of RefCOCO and RefCOCO+: the words are the same in every one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from refseg.errors import DataError

_CURLY = str.maketrans("’‘ʼ", "'''")
_CLITIC = re.compile(r"(?<=[^\W_])(n't|'(?:s|m|d|re|ve|ll))(?![^\W_])")
_WORD = re.compile(
    r"n't(?![^\W_])|'(?:s|m|d|re|ve|ll)(?![^\W_])"
    r"|[^\W_]+(?:[-/_.][^\W_]+|(?<=\d)[,:](?=\d)[^\W_]+)*"
)
_LOOP = re.compile(r"([^\W\d_]+?)\1{2,}")  # the shortest piece of letters, three times or more


def tokenise(text: str) -> list[str]:
    """Words in lower case without punctuation; [] for a text without any.

    As PTB: "don't" -> do n't, "man's" -> man 's, and t-shirt, left/right, 3.5, 10:30 stay whole.
    Unlike PTB, for good: & $ % # and brackets are dropped (PTB keeps them, brackets as "-lrb-"),
    and "cannot" or "gonna" stay whole. Joined by spaces and tokenised again, words stay the same.
    """
    lowered = text.lower()
    if lowered.replace(" ", "").isalnum():
        return lowered.split()
    return _WORD.findall(_CLITIC.sub(r" \1", lowered.translate(_CURLY)))


def unrolled(text: str) -> list[str]:
    """The words of a text, a piece apart that a word repeats three times or more.

    Generators of word pieces can loop inside a word, which is then one word of any length:
    "sitowingowingowing" -> sit owing owing owing. Digits are left as they are ("1000").
    """
    return [piece for word in tokenise(text) for piece in _LOOP.sub(_apart, word).split()]


def _apart(loop: re.Match[str]) -> str:
    """The pieces of a loop, with spaces around."""
    return f" {loop[1]}" * (len(loop[0]) // len(loop[1])) + " "


def repeats(words: Sequence[str]) -> bool:
    """Whether a word, or some words, come at least three times in a row.

    Of `unrolled` words this finds loops inside a word as well: "its its its", "on it on it on it"
    and "sitowingowingowing" do, "polka dot dot" does not.
    """
    for size in range(1, len(words) // 3 + 1):
        same = 0  # words in a row that stood `size` places earlier, too
        for word, earlier in zip(words[size:], words, strict=False):
            same = same + 1 if word == earlier else 0
            if same == 2 * size:
                return True
    return False


def tokenise_all(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words of all texts in one list, and how many each has; as `tokenise` of each.

    Several times faster where no text has punctuation, as in REFER files.
    """
    lowered = "\n".join(texts).lower()
    if lowered.replace(" ", "").replace("\n", "").isalnum():
        words = lowered.split()
        lengths = [line.count(" ") + 1 for line in lowered.split("\n")]
        # Spare spaces, line ends inside a text and empty texts can only count too many.
        if len(lengths) == len(texts) and sum(lengths) == len(words):
            return words, lengths
    return flatten([tokenise(text) for text in texts])


def flatten(sentences: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """Words of all sentences in one list, and how many each has."""
    return list(chain.from_iterable(sentences)), list(map(len, sentences))


def check_hypothesis(key: Any, text: Any) -> None:
    """Raise DataError unless the hypothesis of an object is a string; it may be empty."""
    if not isinstance(text, str):
        raise DataError(
            f'the hypothesis of object "{key}" is not a string: {text!r}',
            remedy='one sentence an object; "" where nothing was generated',
        )


def check_references(references: Mapping[Any, Sequence[str]]) -> None:
    """Raise DataError unless there are objects, each with a list of at least one string."""
    if not references:
        raise DataError("no object has references", remedy="is the split empty?")
    for key, sentences in references.items():
        if not isinstance(sentences, list | tuple):
            raise DataError(
                f'the references of object "{key}" are not a list or tuple: {sentences!r}',
                remedy="give a list of sentences, even for a single one",
            )
        if not sentences:
            raise DataError(
                f'object "{key}" has no references', remedy="leave it out, or add its sentences"
            )
        for text in sentences:
            if not isinstance(text, str):
                raise DataError(f'a reference of object "{key}" is not a string: {text!r}')


def check_same(hypotheses: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> None:
    """Raise DataError unless hypotheses are strings about exactly the objects with references."""
    missing = references.keys() - hypotheses.keys()
    if missing:
        raise DataError(
            f'{len(missing)} objects have no hypothesis, such as "{min(missing, key=str)}"',
            remedy='every object counts; give "" where nothing was generated',
        )
    for key, text in hypotheses.items():
        if key not in references:
            raise DataError(f'object "{key}" has no references')
        check_hypothesis(key, text)


# -- Stems: the English stemmer of the Snowball project ("Porter2"), from its description --------

_VOWELS = frozenset("aeiouy")
_DOUBLES = frozenset(["bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt"])
_WHOLE = {
    **{"skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie"},
    **{"idly": "idl", "gently": "gentl", "ugly": "ugli", "early": "earli", "only": "onli"},
    **{"singly": "singl"},
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
_AFTER_PLURAL = frozenset(
    ["inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"]
)
_STEP_2 = {
    **{"tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent"},
    **{"izer": "ize", "ization": "ize", "ational": "ate", "ation": "ate", "ator": "ate"},
    **{"alism": "al", "aliti": "al", "alli": "al", "fulness": "ful", "ousli": "ous"},
    **{"ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble"},
    **{"ogi": "og", "fulli": "ful", "lessli": "less", "li": ""},
}
_STEP_3 = {
    **{"tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic"},
    **{"ical": "ic", "ful": "", "ness": "", "ative": ""},
}
_GONE = "al ance ence er ic able ible ant ement ment ent ism ate iti ous ive ize ion"
_STEP_4 = dict.fromkeys(_GONE.split(), "")


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a lower-case English word: walking, walks, walked -> walk."""
    word = word.removeprefix("'")
    if len(word) <= 2:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    word = re.sub(r"^y|(?:([aeiouy])y)", lambda found: f"{found[1] or ''}Y", word)  # a consonant
    first = _region(word, 0)
    for prefix in ("gener", "commun", "arsen"):
        if word.startswith(prefix):
            first = len(prefix)
    second = _region(word, first)
    word = _plural(re.sub(r"('s'|'s|')$", "", word))
    if word in _AFTER_PLURAL:
        return word
    word = _past(word, first)
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    word = _replace(word, _STEP_2, first, second)
    word = _replace(word, _STEP_3, first, second)
    word = _replace(word, _STEP_4, second, second)
    return _last_letter(word, first, second).lower()


def _region(word: str, start: int) -> int:
    """Where the part begins that follows the first consonant after a vowel, from `start` on."""
    for n in range(start + 1, len(word)):
        if word[n] not in _VOWELS and word[n - 1] in _VOWELS:
            return n + 1
    return len(word)


def _short_end(word: str) -> bool:
    """Whether the word ends in a short syllable: hop, trap, or the whole of "at"."""
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    return (
        len(word) > 2
        and word[-1] not in _VOWELS | set("wxY")
        and word[-2] in _VOWELS
        and word[-3] not in _VOWELS
    )


def _plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _VOWELS & set(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    for suffix in ("eedly", "eed"):
        if word.endswith(suffix):
            return word[: -len(suffix)] + "ee" if len(word) - len(suffix) >= first else word
    for suffix in ("ingly", "edly", "ing", "ed"):
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            if not _VOWELS & set(rest):
                return word
            if rest.endswith(("at", "bl", "iz")):
                return rest + "e"
            if rest[-2:] in _DOUBLES:
                return rest[:-1]
            return rest + "e" if len(rest) <= first and _short_end(rest) else rest
    return word


def _replace(word: str, table: dict[str, str], start: int, second: int) -> str:
    """Replace the longest suffix of the table, if it lies in the region and may go."""
    for size in range(min(7, len(word)), 1, -1):
        suffix = word[-size:]
        if suffix in table:
            rest = word[:-size]
            return rest + table[suffix] if _may_go(rest, suffix, start, second) else word
    return word


def _may_go(rest: str, suffix: str, start: int, second: int) -> bool:
    if len(rest) < start:
        return False
    before = {"li": "cdeghkmnrt", "ogi": "l", "ion": "st"}.get(suffix)
    if before is not None:
        return rest[-1:] != "" and rest[-1:] in before
    return suffix != "ative" or len(rest) >= second


def _last_letter(word: str, first: int, second: int) -> str:
    rest = word[:-1]
    if word.endswith("e"):
        long_enough = len(rest) >= second or (len(rest) >= first and not _short_end(rest))
        return rest if long_enough else word
    return rest if word.endswith("ll") and len(rest) >= second else word
