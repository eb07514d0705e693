"""The recipes of TRIS: the paper's settings, what is repaired, and that none may see a mask."""

from __future__ import annotations

import pytest

from refseg.methods.tris import TrisConfig
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import RECIPES, get_recipe
from refseg.recipes.provenance import identity
from refseg.recipes.tris_stages import ORDER
from refseg.train.schedule import lr_factor
from refseg.types import TEXT_ONLY

NAMES = [name for name in RECIPES if name.startswith("tris_")]


def flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{prefix}.{key}").items()}


def changes(one: Recipe, other: Recipe) -> set[str]:
    """Settings in which two recipes differ."""
    a, b = (flat(r.model_dump(mode="json", exclude={"name", "promise"})) for r in (one, other))
    return {key[1:] for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_all_that_is_granted_and_no_mask_chooses(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.labels() == TEXT_ONLY
    assert recipe.select in ("margin", None)
    assert recipe.stages == ORDER
    assert recipe.tris is not None
    assert recipe.tris.response.loss.calibrated
    assert recipe.data.negatives >= 1
    assert not recipe.data.augment.flip


def test_the_papers_settings() -> None:
    recipe = get_recipe("tris_refcoco")
    assert isinstance(recipe.method, TrisConfig)
    assert recipe.tris is not None
    step_1, response = recipe.tris.train, recipe.tris.response
    assert (step_1.epochs, step_1.batch_size, step_1.lr, step_1.weight_decay) == (
        15,
        48,
        5e-5,
        0.01,
    )
    assert response.encoder_lr_scale * step_1.lr == pytest.approx(5e-6)
    factors = [lr_factor(step_1, done, 100) for done in (0, 50, 90)]
    assert factors == pytest.approx([1, 0.535887, 0.125893], abs=1e-6)
    assert lr_factor(recipe.train, 99, 100) == 1
    assert (response.width, response.prompt, response.temperature) == (1024, "batch", 0.07)
    assert (response.loss.classification, response.loss.attract, response.loss.repel) == (5, 1, 2)
    assert (response.cut.length, recipe.preprocess.size, recipe.data.negatives) == (20, 320, 3)
    assert recipe.tris.smooth == "pydensecrf2"


def test_what_is_repaired_is_named_switch_by_switch() -> None:
    cut = {"method.cut.keep_end", "tris.response.cut.keep_end"}
    repaired = {
        *cut, "method.mask_padding", "tokens.max_words", "tris.response.prompt",
        "tris.response.select_map", "tris.response.loss.others", "tris.response.loss.clamp_repel",
        "tris.response.loss.own_pixels", "preprocess.mean", "preprocess.std",
    }  # fmt: skip
    paper = changes(get_recipe("tris_refcoco"), get_recipe("tris_refcoco_repaired"))
    assert paper == {*repaired, "train.schedule"}
    small = changes(get_recipe("tris_scenes_paper"), get_recipe("tris_scenes"))
    # Pixels and pieces are the small pair's own already; texts of an image come together, which
    # the released loss would take for each other's negatives.
    own = {"preprocess.mean", "preprocess.std", "tokens.max_words", "tris.response.loss.own_pixels"}
    together = {"data.per_image", "data.view", "train.batch_size", "tris.train.batch_size"}
    assert small == repaired - own | together


def test_edges_decay_as_irnets_do() -> None:
    """With the other parts' decay the displacement head, whose rate is 1, would die."""
    for name in NAMES:
        part = get_recipe(name).tris
        assert part is not None
        assert part.edges_train.optimiser == "sgd"
        assert (part.edges_train.lr, part.edges_train.weight_decay) == (0.1, 1e-4)


def test_other_recipes_are_what_they_were_before_tris() -> None:
    """Runs that began before must go on: fields that came later are no part of their identity."""
    for name in ("vega_scenes", "partial_res_scenes", "mutual_scenes"):
        told = flat(identity(get_recipe(name)))
        late = ("tris", "negatives", "calibrator", "edges")
        assert not [key for key in told if key.split(".")[-1] in late or key.startswith(".tris")]
