"""The recipes of TRIS: the paper's settings, what is repaired, and that none may see a mask."""

from __future__ import annotations

import pytest
import torch

from refseg.methods.tris import TrisConfig
from refseg.models import build_method
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import RECIPES, get_recipe
from refseg.recipes.provenance import identity
from refseg.recipes.tris_data import response_recipe
from refseg.recipes.tris_rules import ORDER
from refseg.recipes.vega import SWIN_B
from refseg.train.schedule import lr_factor
from refseg.types import TEXT_ONLY

NAMES = [name for name in RECIPES if name.startswith("tris_")]
#: Supplement, Table 3: what is said of val, the image encoder's weights, channels of its last map.
TABLE_3 = {
    "tris_refcocog_umd_rn101": ("27.47", "67.28", "clip-rn101", 2048),
    "tris_refcocog_umd_imagenet_rn50": ("24.86", "61.83", "microsoft/resnet-50", 2048),
    "tris_refcocog_umd_swinb": ("24.32", "64.44", SWIN_B, 1024),
}


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
    assert recipe.stages == (ORDER[:1] if name in TABLE_3 else ORDER)
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
    # the released loss would take for each other's negatives, and one of them is judged.
    own = {"preprocess.mean", "preprocess.std", "tokens.max_words"}
    together = {
        "data.per_image", "data.view", "train.batch_size", "tris.train.batch_size",
        "tris.response.loss.judged",
    }  # fmt: skip
    assert small == repaired - own | together


@pytest.mark.parametrize("name", TABLE_3)
def test_the_supplements_encoders(name: str) -> None:
    """One thing is another than in tris_refcocog_umd: what step 1 sees by."""
    recipe, base = get_recipe(name), get_recipe("tris_refcocog_umd")
    iou, points, weights, channels = TABLE_3[name]
    assert recipe.tris is not None
    assert recipe.tris.response.vision.channels[-1] == channels
    assert f"mIoU {iou}, PointIt {points}" in recipe.promise
    assert f"refseg train {name} " in recipe.promise
    assert recipe.weights.vision == weights
    both = name.endswith("rn101")  # a CLIP of another size brings its texts
    assert recipe.weights.text == ("clip-rn101" if both else "clip-rn50")
    vision = ("tris.response.vision.", "weights.vision", "stages")
    text = ("tris.response.text.embed", "weights.text") if both else ()
    assert all(key.startswith((*vision, *text)) for key in changes(recipe, base))


def test_the_supplements_encoder_of_step_2() -> None:
    recipe, base = get_recipe("tris_refcocog_umd_step2_swinb"), get_recipe("tris_refcocog_umd")
    assert "mIoU 36.80,\n    PointIt 67.53, PointM 58.70" in recipe.promise
    assert (recipe.weights.vision, recipe.weights.respond) == (SWIN_B, "clip-rn50")
    assert isinstance(recipe.method, TrisConfig)
    assert recipe.method.vision == get_recipe("tris_refcocog_umd_swinb").tris.response.vision
    same = ("method.vision.", "weights.vision", "weights.respond")
    assert all(key.startswith(same) for key in changes(recipe, base))
    first = response_recipe(recipe)
    assert first.weights == base.weights
    assert identity(first) == {**identity(response_recipe(base)), "name": first.name}


@pytest.mark.parametrize("name", NAMES)
def test_both_networks_can_be_built(name: str) -> None:
    """And step 1's maps of its own size are as coarse as those of CLIP RN50."""
    recipe = get_recipe(name)
    assert recipe.tris is not None
    side = recipe.preprocess.size
    with torch.device("meta"), torch.no_grad():
        one = build_method("tris_response", recipe.tris.response)
        build_method("tris", recipe.method)
        maps = one.vision(torch.empty(1, 3, side, side))
        pixels = one.project_pixels(maps[-1].flatten(2).transpose(1, 2))
        texts = one.project_texts(torch.empty(1, recipe.tris.response.text.embed))
    assert pixels.shape[-1] == texts.shape[-1] == recipe.tris.response.width
    if side == 320:
        assert [x.shape[-1] for x in maps] == [80, 40, 20, 10]


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
        late = ("tris", "negatives", "calibrator", "edges", "respond")
        assert not [key for key in told if key.split(".")[-1] in late or key.startswith(".tris")]
