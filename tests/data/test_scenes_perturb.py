import difflib

import numpy as np
import pytest
from scene_worlds import random_scene

from refseg.data.scenes.language import STYLES, describe, referents
from refseg.data.scenes.model import Scene
from refseg.data.scenes.perturb import PERTURBATIONS, normalise, perturb
from refseg.errors import UnknownName


def sentences(count: int = 25) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng(11)
    rows = []
    for _ in range(count):
        scene = random_scene(rng)
        for o in scene.objects[:3]:
            for style in STYLES:
                rows += [(scene, text) for text in describe(scene, o.object_id, style, rng)]
    return rows


@pytest.mark.parametrize("kind", [k for k in PERTURBATIONS if k != "typo"])
@pytest.mark.parametrize("strength", [1, 3])
def test_meaning_survives(kind: str, strength: int) -> None:
    rng = np.random.default_rng(0)
    changed = 0
    rows = sentences()
    for scene, text in rows:
        other = perturb(text, kind, rng, strength)
        changed += other != text
        meant = referents(text, scene)
        assert referents(normalise(other), scene) == meant, (text, other, normalise(other))
        if kind in ("case", "article"):
            assert referents(other, scene) == meant, other
    # A sentence may have no slang; articles put in and taken out again cancel.
    assert changed > {"slang": 0.4, "article": 0.8}.get(kind, 0.95) * len(rows)


def test_normalise_keeps_plain_sentences() -> None:
    for scene, text in sentences():
        assert normalise(normalise(text)) == normalise(text)
        assert referents(normalise(text), scene) == referents(text, scene)


def test_typo_is_one_small_slip() -> None:
    rng = np.random.default_rng(0)
    for _, text in sentences():
        other = perturb(text, "typo", rng)
        assert other != text
        assert abs(len(other) - len(text)) <= 1
        assert edit_distance(text, other) <= 2  # an exchange of neighbours counts as two
        assert len(other.split()) == len(text.split())


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_typos_are_of_four_sorts() -> None:
    rng = np.random.default_rng(0)
    seen = {perturb("cube", "typo", rng) for _ in range(400)}
    assert {"ccube", "ube", "ucbe", "cune"} <= seen


def test_strength_adds_typos() -> None:
    rng = np.random.default_rng(0)
    text = "the striped ball that is behind the large blue cube"
    alike = [
        np.mean(
            [
                difflib.SequenceMatcher(None, text, perturb(text, "typo", rng, s)).ratio()
                for _ in range(30)
            ]
        )
        for s in (1, 3, 8)
    ]
    assert alike[0] > alike[1] > alike[2]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("da lil red thingy", "the small red thing"),
        ("Waaaay left ball pls", "far left ball"),
        ("lefty", "left one"),
        ("um, the red ball please", "the red ball"),
        ("can you find the can", "the can"),
        ("dat mug infront of teh donut lol", "that mug in front of the donut"),
        ("ball dats nxt to da cube", "ball that is next to the cube"),
        ("cup that ain't blue", "cup that is not blue"),
    ],
)
def test_normalise_by_hand(text: str, plain: str) -> None:
    assert normalise(text) == plain


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_same_generator_state_same_text(kind: str) -> None:
    text = "the small striped ball next to the big mug"
    first, again = (perturb(text, kind, np.random.default_rng(9), 2) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("text", ["", "a", "?", "l'été"])
def test_odd_texts_pass(kind: str, text: str) -> None:
    for seed in range(10):
        assert isinstance(perturb(text, kind, np.random.default_rng(seed), 3), str)


def test_unknown_kind_is_named() -> None:
    with pytest.raises(UnknownName, match="typos"):
        perturb("red ball", "typos", np.random.default_rng(0))
