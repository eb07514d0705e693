import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.sides import mentions_side, swap_left_right

PAIRS = [
    ("left ball", "right ball"),
    ("Left one", "Right one"),
    ("THE LEFT CUP", "THE RIGHT CUP"),
    ("leftmost person", "rightmost person"),
    ("the lefty", "the righty"),
    ("far left, behind the tree", "far right, behind the tree"),
    ("left-hand side", "right-hand side"),
    ("lefthand side", "righthand side"),
    ("man left of the right car", "man right of the left car"),
    ("left right left", "right left right"),
    ("topleft pizza", "topright pizza"),
    ("guy on right next to tree", "guy on left next to tree"),
    ("boy's left hand", "boy's right hand"),
    ("rIght", "lEft"),
    ("waaay left", "waaay right"),
]
UNTOUCHED = [
    "",
    "bright upright copyright",
    "cleft leftovers",
    "chair right next to the green laptop",
    "the cow right behind the front cow",
    "righteous",
    "red ball",
]


@pytest.mark.parametrize(("text", "swapped"), PAIRS)
def test_swaps_both_ways(text: str, swapped: str) -> None:
    assert swap_left_right(text) == swapped
    assert swap_left_right(swapped) == text
    assert mentions_side(text)
    assert mentions_side(swapped)


@pytest.mark.parametrize("text", UNTOUCHED)
def test_leaves_other_words(text: str) -> None:
    assert swap_left_right(text) == text
    assert not mentions_side(text)


SPOKEN = """
left right Left RIGHT leftmost rightside lefty righties top bottom the on in front of next to
behind above far most bright topleft onright upper man, dog - there here between
"""
WORDS = st.sampled_from(SPOKEN.split())
SENTENCES = st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", ", ", "-", "\n", ""]))).map(
    lambda pieces: "".join(word + gap for word, gap in pieces)
)


@given(SENTENCES)
def test_is_its_own_inverse(text: str) -> None:
    assert swap_left_right(swap_left_right(text)) == text


@given(st.text())
def test_any_text_without_side_words_is_kept(text: str) -> None:
    if "left" not in text.lower() and "right" not in text.lower():
        assert swap_left_right(text) == text
    assert swap_left_right(swap_left_right(text)).lower() == text.lower()


def test_long_texts_are_quick() -> None:
    text = "left of the right next to " * 4000
    assert swap_left_right(swap_left_right(text)) == text
