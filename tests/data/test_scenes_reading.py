"""How expressions are read: against a literal reading of the text, by hand, and nonsense."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_worlds import random_scene

from refseg.data.scenes import lexicon
from refseg.data.scenes.grammar import MAX_WORDS, Description, Relation, Selector, parse
from refseg.data.scenes.language import UnparsableExpression, referents, vocabulary
from refseg.data.scenes.model import COLOURS, KINDS, MATERIALS, PATTERNS, SIZES, Scene, SceneObject
from refseg.errors import ExpressionError

SEEDS = st.integers(0, 2**31 - 1)


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
        if any(4 * a.area == 5 * b.area for a in scene.objects for b in scene.objects):
            continue  # exactly on the border of a tie, where logarithms round either way
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
