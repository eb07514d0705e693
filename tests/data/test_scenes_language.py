"""What is said of scenes: every expression means its object, every caption is true."""

import re
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_worlds import mirrored, random_scene, scaled

from refseg.data.scenes import lexicon
from refseg.data.scenes.grammar import tokenise
from refseg.data.scenes.language import (
    STYLES,
    captions,
    describe,
    referents,
    vocabulary,
)
from refseg.data.scenes.model import Scene
from refseg.data.sides import swap_left_right
from refseg.errors import DataError, UnknownName

SEEDS = st.integers(0, 2**31 - 1)


@cache
def spoken(style: str, ambiguous: bool = False) -> list[tuple[Scene, int, list[str]]]:
    rng = np.random.default_rng(7)
    rows = []
    for _ in range(60):
        scene = random_scene(rng)
        for o in scene.objects:
            texts = describe(scene, o.object_id, style, rng, ambiguous=ambiguous)
            rows.append((scene, o.object_id, texts))
    return rows


# --- what describe promises


@pytest.mark.parametrize("style", STYLES)
def test_every_expression_means_exactly_its_object(style: str) -> None:
    for scene, object_id, texts in spoken(style):
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert referents(text, scene) == {object_id}, text


@pytest.mark.parametrize("style", STYLES)
def test_nearly_every_object_gets_three(style: str) -> None:
    counts = [len(texts) for _, _, texts in spoken(style)]
    assert np.mean(np.array(counts) == 3) > 0.97


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(STYLES), st.integers(1, 8))
def test_exact_on_any_seed(seed: int, style: str, count: int) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, count=count)
    for o in scene.objects:
        for text in describe(scene, o.object_id, style, rng):
            assert referents(text, scene) == {o.object_id}


def test_ambiguous_means_the_object_and_others() -> None:
    rows = spoken("scenes", ambiguous=True)
    for scene, object_id, texts in rows:
        for text in texts:
            meant = referents(text, scene)
            assert object_id in meant, text
            assert len(meant) > 1, text
    assert np.mean([len(texts) > 0 for _, _, texts in rows]) > 0.8


@pytest.mark.parametrize(
    ("style", "low", "high"), [("scenes", 3.0, 4.0), ("scenes+", 3.0, 4.2), ("scenesg", 7.5, 9.2)]
)
def test_lengths(style: str, low: float, high: float) -> None:
    lengths = [len(t.split()) for _, _, texts in spoken(style) for t in texts]
    assert low < np.mean(lengths) < high


def test_scenes_is_short() -> None:
    lengths = np.array([len(t.split()) for _, _, texts in spoken("scenes") for t in texts])
    assert np.mean(lengths <= 6) > 0.88


def test_scenes_plus_says_no_place() -> None:
    banned = re.compile(
        r"\b(left\w*|right\w*|middle|cent\w+|top|bottom|upper|lower|back|closest|nearest|farthest|"
        r"furthest|first|second|third|1st|2nd|3rd)\b"
    )
    for _, _, texts in spoken("scenes+"):
        for text in texts:
            assert not banned.search(text.replace("in back of", "behind")), text
            for token in tokenise(text):
                assert token.role not in ("from", "rank")
                assert token.meaning[1] not in lexicon.SIDE_SELECTORS | lexicon.SIDE_RELATIONS


def test_scenes_often_says_a_place() -> None:
    roles = [
        {token.role for token in tokenise(text)} for _, _, ts in spoken("scenes") for text in ts
    ]
    assert np.mean([bool(r & {"selector", "from"}) for r in roles]) > 0.35


@pytest.mark.parametrize("style", STYLES)
def test_expressions_are_varied(style: str) -> None:
    texts = [text for _, _, ts in spoken(style) for text in ts]
    assert len(set(texts)) > 0.6 * len(texts)


def test_same_generator_state_same_words() -> None:
    scene = random_scene(np.random.default_rng(3))
    for style in STYLES:
        first, again, other = (
            [describe(scene, o.object_id, style, rng) for o in scene.objects]
            for rng in (np.random.default_rng(s) for s in (5, 5, 6))
        )
        assert first == again
        assert first != other


def test_vocabulary_holds_all_words_written() -> None:
    words = vocabulary()
    assert words == sorted(set(words))
    rng = np.random.default_rng(0)
    texts = [text for style in STYLES for _, _, ts in spoken(style) for text in ts]
    texts += [c for _ in range(300) for c in captions(random_scene(rng), rng)]
    written = {word for text in texts for word in text.replace(",", "").split()}
    assert written <= set(words)
    assert len(written) > 0.75 * len(words)


def test_speed() -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(20)]
    describe(scenes[0], 10, "scenes", rng)
    start, calls = time.perf_counter(), 0
    for scene in scenes:
        for o in scene.objects:
            for style in STYLES:
                describe(scene, o.object_id, style, rng)
                calls += 1
    assert (time.perf_counter() - start) / calls < 0.010


def test_object_that_cannot_be_told_apart_gets_nothing() -> None:
    scene = random_scene(np.random.default_rng(0), count=1)
    o = scene.objects[0]
    twins = Scene(scene.size_hw, (o, replace(o, object_id=99)))
    for style in STYLES:
        assert describe(twins, 99, style, np.random.default_rng(0)) == []
    assert describe(twins, 99, "scenes", np.random.default_rng(0), ambiguous=True)


def test_invisible_object_does_not_exist() -> None:
    scene = random_scene(np.random.default_rng(0), count=3)
    hidden = replace(scene.objects[0], area=0)
    scene = Scene(scene.size_hw, (hidden, *scene.objects[1:]))
    assert describe(scene, hidden.object_id, "scenes", np.random.default_rng(0)) == []
    assert hidden.object_id not in referents("thing", scene)


def test_unknown_style_and_object_are_named() -> None:
    scene = random_scene(np.random.default_rng(0))
    with pytest.raises(UnknownName, match="scenes"):
        describe(scene, 10, "scene", np.random.default_rng(0))
    with pytest.raises(DataError, match="12345"):
        describe(scene, 12345, "scenes", np.random.default_rng(0))


# --- metamorphic: mirror and scale


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ambiguous", [False, True])
def test_mirrored_scene_and_words_mean_the_same(style: str, ambiguous: bool) -> None:
    swapped = 0
    for scene, _, texts in spoken(style, ambiguous):
        for text in texts:
            other = swap_left_right(text)
            swapped += other != text
            assert referents(other, mirrored(scene)) == referents(text, scene), text
    assert swapped > 20 or style == "scenes+"


@pytest.mark.parametrize("style", STYLES)
def test_meaning_does_not_depend_on_image_size(style: str) -> None:
    for scene, _, texts in spoken(style):
        for text in texts:
            assert referents(text, scaled(scene, 2)) == referents(text, scene), text


# --- captions

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
NOUNS = {w: k for k, ps in lexicon.KIND_WORDS.items() for w, _ in ps}
NOUNS |= {lexicon.plural(w): k for w, k in list(NOUNS.items())}
WORDS = {w: pair for pair, ps in lexicon.ADJECTIVES.items() for w, _ in ps}


def counted(words: list[str], scene: Scene) -> int:
    """How many objects are what the adjectives and the noun say."""
    members = list(scene.objects)
    phrase = " ".join(words)
    for text, (field, value) in sorted(WORDS.items(), key=lambda item: -len(item[0])):
        if re.search(rf"\b{text}\b", phrase):
            phrase = re.sub(rf"\b{text}\b", "", phrase)
            members = [o for o in members if getattr(o, field) == value]
    for word in phrase.split():
        if word not in ("things", "objects"):
            members = [o for o in members if o.kind == NOUNS[word]]
    return len(members)


def test_captions_are_true() -> None:
    rng = np.random.default_rng(4)
    lead = re.compile(
        r"^(there (is|are) |a picture of |a scene with |we see |you can see |one of them is )"
    )
    groups = 0
    for _ in range(250):
        scene = random_scene(rng)
        found = captions(scene, rng)
        assert len(set(found)) == len(found) >= 1
        for caption in found:
            for part in re.split(r", | and ", caption):
                part = re.sub(r" (on the (ground|floor)|together)$", "", lead.sub("", part))
                first, *rest = part.split()
                groups += 1
                if first in ("a", "an"):
                    assert (first == "an") == (rest[0][0] in "aeiou")
                    assert counted(rest, scene) >= 1, caption
                else:
                    assert counted(rest, scene) == NUMBER_WORDS.index(first), caption
    assert groups > 1000


def test_captions_of_an_empty_scene_and_determinism() -> None:
    assert captions(Scene((10, 10), ()), np.random.default_rng(0)) == []
    scene = random_scene(np.random.default_rng(0))
    first, again = (captions(scene, np.random.default_rng(2), count=5) for _ in range(2))
    assert first == again
