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
from refseg.data.scenes.grammar import MAX_WORDS, Description, Relation, Selector, parse, tokenise
from refseg.data.scenes.language import (
    STYLES,
    UnparsableExpression,
    captions,
    describe,
    referents,
    vocabulary,
)
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, SIZES, Scene, SceneObject
from refseg.data.sides import swap_left_right
from refseg.errors import DataError, ExpressionError, UnknownName

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


# --- the oracle against a literal reading of text

ADJECTIVES = {w: ("colour", w) for w in COLOURS} | {w: ("pattern", w) for w in PATTERNS}
ADJECTIVES |= {w: ("material", w) for w in MATERIALS} | {w: ("size", w) for w in SIZES}
LITERAL_RELATIONS = ("behind", "in front of", "left of", "right of", "next to")
LITERAL_PLACES = ("leftmost", "rightmost", "left", "right", "biggest", "smallest", "closest")


def literally(text: str, scene: Scene) -> set[int]:
    """A second evaluator: plain loops over canonical text, formulas spelt out."""
    found = [r for r in LITERAL_RELATIONS if f" {r} " in text]
    if not found:
        return pick_literally(text, scene, list(scene.objects))
    relation = min(found, key=lambda r: text.index(f" {r} "))
    thing, landmark = text.split(f" {relation} ", 1)
    places = literally(landmark, scene)
    kept = [
        a
        for a in scene.objects
        if any(
            b.object_id in places and b is not a and stands(relation, a, b, scene)
            for b in scene.objects
        )
    ]
    return pick_literally(thing, scene, kept)


def stands(relation: str, a: SceneObject, b: SceneObject, scene: Scene) -> bool:
    height, width = scene.size_hw
    dx = (a.centre_xy[0] - b.centre_xy[0]) / width
    if relation == "left of":
        return dx <= -0.06
    if relation == "right of":
        return dx >= 0.06
    if relation == "behind":
        return abs(dx) <= 0.22 and a.depth / b.depth >= np.exp(0.06)
    if relation == "in front of":
        return abs(dx) <= 0.22 and b.depth / a.depth >= np.exp(0.06)
    ax0, ay0, ax1, ay1 = a.box_xyxy
    bx0, by0, bx1, by1 = b.box_xyxy
    gap_x = (bx0 - ax1 if bx0 > ax1 else ax0 - bx1 if ax0 > bx1 else 0.0) / width
    gap_y = (by0 - ay1 if by0 > ay1 else ay0 - by1 if ay0 > by1 else 0.0) / height
    near, far = sorted((a.depth, b.depth))
    return (gap_x**2 + gap_y**2) ** 0.5 <= 0.05 and far / near <= np.exp(0.20)


def pick_literally(text: str, scene: Scene, members: list[SceneObject]) -> set[int]:
    place = None
    words = text.split()
    negate = False
    for word in words:
        if word == "not":
            negate = True
            continue
        if word in LITERAL_PLACES:
            place = word
        elif word in ADJECTIVES:
            field, value = ADJECTIVES[word]
            members = [o for o in members if (getattr(o, field) == value) != negate]
        elif word in KINDS:
            members = [o for o in members if (o.kind == word) != negate]
        else:
            assert word in ("thing", "the"), word
        negate = False
    if place is None or not members:
        return {o.object_id for o in members}
    width = scene.size_hw[1]
    x = {o.object_id: o.centre_xy[0] / width for o in members}
    if place in ("left", "right") and len(members) == 1:
        (only,) = x
        return {only} if (x[only] <= 0.5 if place == "left" else x[only] >= 0.5) else set()
    if place in ("left", "leftmost"):
        return {k for k in x if x[k] < min(x.values()) + 0.06}
    if place in ("right", "rightmost"):
        return {k for k in x if x[k] > max(x.values()) - 0.06}
    if place == "closest":
        near = min(o.depth for o in members)
        everything = [o.depth for o in scene.objects]
        if len(members) == 1 and near**2 > min(everything) * max(everything):
            return set()
        return {o.object_id for o in members if o.depth < 1.08 * near}
    if place == "biggest":
        most = max(o.area for o in members)
        return {o.object_id for o in members if o.area > most / 1.25}
    least = min(o.area for o in members)
    return {o.object_id for o in members if o.area < least * 1.25}


@st.composite
def canonical(draw: st.DrawFn, depth: int = 0) -> str:
    words = draw(st.sampled_from([["the"], []]))
    words += draw(st.sampled_from([[], [draw(st.sampled_from(LITERAL_PLACES))]]))
    words += draw(st.lists(st.sampled_from(sorted(ADJECTIVES)), max_size=2))
    words.append(draw(st.sampled_from(["thing", *KINDS])))
    if draw(st.booleans()):
        words += ["not", draw(st.sampled_from(sorted(ADJECTIVES)))]
    if depth < 2 and draw(st.integers(0, 2 + depth)):
        words.append(draw(st.sampled_from(LITERAL_RELATIONS)))
        words.append(draw(canonical(depth + 1)))
    return " ".join(words)


@settings(max_examples=400, deadline=None)
@given(canonical(), SEEDS)
def test_oracle_equals_literal_reading(text: str, seed: int) -> None:
    # Two attributes are drawn from few values, so that the sets are seldom empty.
    rng = np.random.default_rng(seed)
    for _ in range(8):
        scene = random_scene(rng, count=7)
        scene = Scene(
            scene.size_hw,
            tuple(
                replace(o, **_some_of(text, o, rng)) if rng.random() < 0.7 else o
                for o in scene.objects
            ),
        )
        assert referents(text, scene) == literally(text, scene), (text, scene)


def _some_of(text: str, o: SceneObject, rng: np.random.Generator) -> dict[str, str]:
    """Attributes that the text speaks of, so that objects often fit it."""
    words = [w for w in text.split() if w in KINDS or w in ADJECTIVES]
    pairs = [ADJECTIVES.get(w, ("kind", w)) for w in words]
    return {field: value for field, value in pairs if rng.random() < 0.8}


# --- reading


def row_of_balls(xs: list[float], **more: list[object]) -> Scene:
    plain = SceneObject(0, "ball", "red", "small", "matte", "plain", (0, 0, 8), 1.0, 0.0, area=100,
                        box_xyxy=(0, 50, 1, 52), depth=8.0)  # fmt: skip
    objects = []
    for i, x in enumerate(xs):
        fields = {name: values[i] for name, values in more.items()}
        objects.append(
            replace(plain, object_id=i, centre_xy=(100 * x, 50.0), **fields)  # type: ignore[arg-type]
        )
    return Scene((100, 100), tuple(objects))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("left ball", {0}),
        ("The LEFT ball!", {0}),
        ("ball on the left side of the picture", {0}),
        ("leftmost", {0}),
        ("far left", {0}),
        ("right one", {3, 4}),
        ("2nd ball from left", {1}),
        ("second from the right", {3, 4}),
        ("the third red one from the left", {2}),
        ("fifth from the left", {3, 4}),
        ("sixth from the left", set()),
        ("middle ball", {2}),
        ("ball in the centre", {2}),
        ("mug", set()),
        ("left mug", set()),
    ],
)
def test_places_by_hand(text: str, meant: set[int]) -> None:
    scene = row_of_balls([0.1, 0.3, 0.5, 0.90, 0.94])
    assert referents(text, scene) == meant


def test_place_of_an_only_candidate_needs_the_right_half() -> None:
    scene = row_of_balls([0.2, 0.8], colour=["red", "blue"])
    assert referents("left blue ball", scene) == set()
    assert referents("right blue ball", scene) == {1}
    assert referents("leftmost blue ball", scene) == {1}


def test_far_needs_the_outer_third_and_middle_an_inner_one() -> None:
    assert referents("far left", row_of_balls([0.45, 0.9])) == set()
    assert referents("middle", row_of_balls([0.5, 0.7, 0.9])) == set()
    assert referents("middle", row_of_balls([0.05, 0.25, 0.95])) == set()


def test_sizes_and_depth_by_hand() -> None:
    scene = row_of_balls([0.2, 0.5, 0.8], area=[100, 124, 200], depth=[5.0, 5.3, 9.0])
    assert referents("biggest ball", scene) == {2}
    assert referents("smallest ball", scene) == {0, 1}
    assert referents("closest one", scene) == {0, 1}
    assert referents("ball in the back", scene) == {2}


def test_between_and_corners_by_hand() -> None:
    scene = row_of_balls([0.2, 0.5, 0.8, 0.5], kind=["mug", "ball", "cone", "ball"], area=[100] * 4)
    low = replace(scene.objects[3], centre_xy=(50.0, 90.0))
    scene = Scene(scene.size_hw, (*scene.objects[:3], low))
    assert referents("ball between the mug and the cone", scene) == {1}
    assert referents("the ball in between a cone and a mug", scene) == {1}
    assert referents("bottom left thing", row_of_balls([0.2, 0.8])) == set()
    low_left = replace(scene.objects[0], object_id=9, kind="ball", centre_xy=(10.0, 90.0))
    assert referents("bottom left ball", Scene((100, 100), (*scene.objects, low_left))) == {9}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("Left red.", Description(has=(("colour", "red"),), selector=Selector("left"))),
        ("the one", Description()),
        (
            "a box that isn't shiny",
            Description("cube", has_not=(("material", "shiny"),)),
        ),
        (
            "the ball without stripes",
            Description("ball", has_not=(("pattern", "striped"),)),
        ),
        ("the one that is not a mug", Description(has_not=(("kind", "mug"),))),
        (
            "polka-dot cup to the left of the blue and shiny ring",
            Description(
                "mug",
                has=(("pattern", "dotted"),),
                relations=(
                    Relation(
                        "left_of",
                        (Description("ring", (("colour", "blue"), ("material", "shiny"))),),
                    ),
                ),
            ),
        ),
        (
            "ball behind the cube on the left",  # what follows a landmark belongs to it
            Description(
                "ball",
                relations=(Relation("behind", (Description("cube", selector=Selector("left")),)),),
            ),
        ),
        (
            "ball behind the cube and next to a mug",  # except after "and"
            Description(
                "ball",
                relations=(
                    Relation("behind", (Description("cube"),)),
                    Relation("next_to", (Description("mug"),)),
                ),
            ),
        ),
        ("big ball in front", Description("ball", (("size", "large"),), (), (), Selector("front"))),
    ],
)
def test_trees(text: str, tree: Description) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ?! ",
        "the",
        "dog",
        "red ball xyzzy",
        "ball ball",
        "left right ball",
        "biggest ball on left",
        "second ball",
        "ball from left",
        "ball behind",
        "ball not",
        "ball not left",
        "between the mug",
        "ball and",
        "red and ball",
        "красный шар",
        "ball behind " * 40 + "mug",
        "left " * 5000,
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UnparsableExpression) as caught:
        referents(text, random_scene(np.random.default_rng(0)))
    assert isinstance(caught.value, ExpressionError)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    scene = random_scene(np.random.default_rng(0))
    try:
        meant = referents(text, scene)
    except UnparsableExpression:
        return
    assert meant <= {o.object_id for o in scene.objects}


@settings(max_examples=300)
@given(st.lists(st.sampled_from(vocabulary()), max_size=MAX_WORDS + 2))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    scene = random_scene(np.random.default_rng(1))
    try:
        meant = referents(" ".join(words), scene)
    except UnparsableExpression:
        return
    assert meant <= {o.object_id for o in scene.objects}


def test_every_listed_phrase_has_one_meaning() -> None:
    owner: dict[str, str] = {}
    for table in (lexicon.KIND_WORDS, lexicon.RELATION_WORDS, lexicon.SELECTORS_BEFORE):
        for meaning, phrases in table.items():
            for phrase, weight in phrases:
                assert weight > 0
                assert owner.setdefault(phrase, meaning) == meaning
    for (_, value), phrases in lexicon.ADJECTIVES.items():
        for phrase, _ in phrases:
            assert owner.setdefault(phrase, value) == value


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
