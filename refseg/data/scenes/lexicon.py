"""The words of the scene language and what each of them says.

Every table is meaning -> ((phrase, weight), ...). Weights are people's habits: the plain word
first, the rest a long tail. Phrases hold no articles; the grammar drops articles before it looks.
"""

from __future__ import annotations

from collections.abc import Iterator

Phrases = tuple[tuple[str, float], ...]

KIND_WORDS: dict[str, Phrases] = {
    "ball": (("ball", 7), ("sphere", 2), ("orb", 0.3)),
    "cube": (("cube", 5), ("box", 2), ("block", 2), ("square", 0.3)),
    "cylinder": (("cylinder", 5), ("tube", 1), ("can", 0.7), ("drum", 0.2)),
    "cone": (("cone", 1),),
    "ring": (("ring", 5), ("donut", 2), ("hoop", 0.5), ("doughnut", 0.3)),
    "mug": (("mug", 4), ("cup", 3)),
    "pyramid": (("pyramid", 5), ("triangle", 0.7), ("tent", 0.1)),
    "capsule": (("capsule", 3), ("pill", 2)),
}
GENERIC_WORDS: Phrases = (
    ("one", 6), ("thing", 2), ("object", 1.5), ("shape", 0.7), ("item", 0.3),
)  # fmt: skip
PLURALS = {"box": "boxes"}

# (field, value) -> adjectives, in the order people put them before a noun.
ADJECTIVES: dict[tuple[str, str], Phrases] = {
    ("size", "small"): (("small", 5), ("little", 2), ("tiny", 1)),
    ("size", "medium"): (("medium", 2), ("medium sized", 1), ("mid sized", 0.3)),
    ("size", "large"): (("big", 5), ("large", 4), ("huge", 0.7)),
    ("material", "matte"): (("matte", 2), ("dull", 2), ("rubber", 0.7)),
    ("material", "shiny"): (("shiny", 5), ("glossy", 1), ("metal", 1.5), ("metallic", 0.7)),
    ("pattern", "plain"): (("plain", 2), ("solid", 1.5)),
    ("pattern", "striped"): (("striped", 6), ("stripy", 0.7), ("stripey", 0.5)),
    ("pattern", "checkered"): (("checkered", 4), ("checked", 1), ("checkerboard", 0.5)),
    ("pattern", "dotted"): (("dotted", 4), ("spotted", 2), ("polka dot", 0.7), ("spotty", 0.3)),
    ("colour", "red"): (("red", 1),),
    ("colour", "green"): (("green", 1),),
    ("colour", "blue"): (("blue", 1),),
    ("colour", "yellow"): (("yellow", 1),),
    ("colour", "orange"): (("orange", 1),),
    ("colour", "purple"): (("purple", 6), ("violet", 1)),
    ("colour", "cyan"): (("cyan", 3), ("turquoise", 2), ("aqua", 1), ("teal", 1)),
    ("colour", "brown"): (("brown", 1),),
    ("colour", "white"): (("white", 1),),
    ("colour", "black"): (("black", 1),),
}
# Said after the noun: "ball with stripes", "ball without dots".
PATTERN_NOUNS: dict[str, Phrases] = {
    "striped": (("stripes", 1),),
    "checkered": (("checks", 2), ("squares", 1)),
    "dotted": (("dots", 3), ("spots", 2), ("polka dots", 0.7)),
}
MATERIAL_NOUNS: dict[str, Phrases] = {
    "shiny": (("made of metal", 1),),
    "matte": (("made of rubber", 1),),
}

# Selectors: said before the noun, and said after it.
SELECTORS_BEFORE: dict[str, Phrases] = {
    "left": (("left", 8), ("left hand", 0.3)),
    "right": (("right", 8), ("right hand", 0.3)),
    "leftmost": (("leftmost", 3), ("left most", 1)),
    "rightmost": (("rightmost", 3), ("right most", 1)),
    "far_left": (("far left", 1),),
    "far_right": (("far right", 1),),
    "middle": (("middle", 5), ("center", 3), ("centre", 1), ("central", 0.2)),
    "front": (("front", 4), ("closest", 3), ("nearest", 1.5), ("foremost", 0.1)),
    "back": (("back", 4), ("farthest", 1.5), ("furthest", 1), ("rear", 0.3)),
    "top": (("top", 3), ("upper", 0.7), ("highest", 0.5)),
    "bottom": (("bottom", 3), ("lower", 0.5), ("lowest", 0.5)),
    "top_left": (("top left", 3), ("back left", 1), ("upper left", 1), ("left back", 0.3)),
    "top_right": (("top right", 3), ("back right", 1), ("upper right", 1), ("right back", 0.3)),
    "bottom_left": (("bottom left", 3), ("front left", 2), ("lower left", 1), ("left front", 0.5)),
    "bottom_right": (
        ("bottom right", 3),
        ("front right", 2),
        ("lower right", 1),
        ("right front", 0.5),
    ),
    "biggest": (("biggest", 5), ("largest", 3), ("bigger", 1), ("larger", 0.5)),
    "smallest": (("smallest", 5), ("smaller", 1), ("tiniest", 0.5), ("littlest", 0.2)),
}
SELECTORS_AFTER: dict[str, Phrases] = {
    "left": (
        ("on left", 6), ("left", 2), ("on left side", 1), ("at left", 0.7), ("to left", 0.5),
        ("left side", 0.5), ("in left", 0.2), ("on left of picture", 0.2),
    ),
    "right": (
        ("on right", 6), ("right", 2), ("on right side", 1), ("at right", 0.7), ("to right", 0.5),
        ("right side", 0.5), ("in right", 0.2), ("on right of picture", 0.2),
    ),
    "far_left": (("on far left", 3), ("far left", 2), ("at far left", 0.5)),
    "far_right": (("on far right", 3), ("far right", 2), ("at far right", 0.5)),
    "middle": (
        ("in middle", 5), ("in center", 2), ("middle", 1), ("in centre", 0.7), ("center", 0.5),
    ),
    "front": (
        ("in front", 4), ("closest to us", 0.7), ("at front", 0.5), ("closest to camera", 0.5),
        ("nearest to camera", 0.3), ("in foreground", 0.3), ("closest", 0.3),
    ),
    "back": (
        ("in back", 4), ("at back", 1), ("in background", 0.5), ("farthest away", 0.5),
        ("furthest away", 0.3), ("way in back", 0.3),
    ),
    "top": (("at top", 3), ("on top", 0.5)),
    "bottom": (("at bottom", 3), ("on bottom", 0.5)),
    "top_left": (("top left", 2), ("in top left", 1), ("in top left corner", 0.5)),
    "top_right": (("top right", 2), ("in top right", 1), ("in top right corner", 0.5)),
    "bottom_left": (("bottom left", 2), ("in bottom left", 1), ("in bottom left corner", 0.5)),
    "bottom_right": (
        ("bottom right", 2), ("in bottom right", 1), ("in bottom right corner", 0.5),
    ),
}  # fmt: skip
RANK_WORDS: dict[int, Phrases] = {
    1: (("first", 2), ("1st", 1)),
    2: (("second", 2), ("2nd", 2)),
    3: (("third", 2), ("3rd", 2)),
    4: (("fourth", 2), ("4th", 2)),
    5: (("fifth", 1), ("5th", 1)),
    6: (("sixth", 1), ("6th", 1)),
}
RANK_ENDS: dict[str, Phrases] = {
    "rank_left": (("from left", 1),),
    "rank_right": (("from right", 1),),
}
RELATION_WORDS: dict[str, Phrases] = {
    "behind": (("behind", 7), ("in back of", 0.5)),
    "in_front": (("in front of", 1),),
    "left_of": (("left of", 3), ("to left of", 3), ("on left of", 0.5), ("on left side of", 0.3)),
    "right_of": (
        ("right of", 3), ("to right of", 3), ("on right of", 0.5), ("on right side of", 0.3),
    ),
    "next_to": (("next to", 6), ("beside", 1.5), ("near", 1.5), ("by", 1), ("close to", 0.7)),
    "between": (("between", 5), ("in between", 0.5)),
}  # fmt: skip
# Words between a noun and what is said after it; they add no meaning.
LINKS: Phrases = (
    ("that is", 5), ("which is", 1.5), ("that s", 1), ("sitting", 1), ("standing", 0.7),
    ("placed", 0.3), ("lying", 0.3), ("located", 0.3), ("that sits", 0.3), ("that stands", 0.3),
)  # fmt: skip
NOT_WORDS: Phrases = (("that is not", 4), ("not", 3), ("that isn t", 2), ("which is not", 0.7))

ARTICLES = frozenset({"a", "an", "the"})
PICTURE_WORDS = ("picture", "image", "photo", "scene", "screen", "frame")

SIDE_SELECTORS = frozenset(SELECTORS_BEFORE) - {"biggest", "smallest"} | frozenset(RANK_ENDS)
SIDE_RELATIONS = frozenset({"left_of", "right_of"})


def plural(noun: str) -> str:
    """The plural of a noun of this language."""
    return PLURALS.get(noun, noun + "s")


def all_phrases() -> Iterator[str]:
    """Every phrase that `describe` may write, except articles and number words of captions."""
    tables: tuple[dict[str, Phrases], ...] = (
        KIND_WORDS, PATTERN_NOUNS, MATERIAL_NOUNS, SELECTORS_BEFORE, SELECTORS_AFTER,
        RANK_ENDS, RELATION_WORDS,
    )  # fmt: skip
    for table in tables:
        for phrases in table.values():
            yield from (phrase for phrase, _ in phrases)
    for phrases in (*ADJECTIVES.values(), *RANK_WORDS.values()):
        yield from (phrase for phrase, _ in phrases)
    for phrases in (GENERIC_WORDS, LINKS, NOT_WORDS):
        yield from (phrase for phrase, _ in phrases)
