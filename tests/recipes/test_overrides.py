from __future__ import annotations

import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from refseg.errors import ConfigError, LabelsError, RefsegError, UnknownName
from refseg.methods.vega import VegaConfig
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import RECIPES, get_recipe
from refseg.recipes.overrides import apply_overrides, leaf_keys, reasons
from refseg.train.config import TrainConfig

BASE = Recipe(name="base", method_name="vega", method=VegaConfig(), train=TrainConfig(steps=10))


def test_values_of_every_kind() -> None:
    found = apply_overrides(
        BASE,
        [
            "train.lr=1e-4",
            "train.fsdp=true",
            "train.ema=0.99",
            "train.step_at=[0.5, 0.75]",
            "data.name=123",
            "data.limit=7",
            "data.evaluate=null",
            "method.guidance=language",
            "method.fusion=none",
            "method.selection.ratio=0.5",
            "preprocess.size=64",
            "weights.text=org/name=x",
        ],
    )
    assert found.train.lr == 1e-4
    assert found.train.fsdp is True
    assert found.train.ema == 0.99
    assert found.train.step_at == (0.5, 0.75)
    assert found.data.name == "123"
    assert found.data.limit == 7
    assert found.data.evaluate is None
    assert isinstance(found.method, VegaConfig)
    assert found.method.guidance == "language"
    assert found.method.fusion == "none"
    assert found.method.selection.ratio == 0.5
    assert found.preprocess.size == 64
    assert found.weights.text == "org/name=x"
    assert BASE.train.lr == 3e-5
    assert apply_overrides(found, ["train.ema=none"]).train.ema is None


def test_fields_that_belong_together_are_checked_once_all_are_set() -> None:
    found = apply_overrides(BASE, ["train.steps=null", "train.epochs=3"])
    assert (found.train.steps, found.train.epochs) == (None, 3)
    with pytest.raises(ConfigError, match="steps or epochs"):
        apply_overrides(BASE, ["train.epochs=3"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lrr=1", ['"train.lrr"', 'did you mean "train.lr"?', "train.weight_decay"]),
        ("lr=1", ['"lr"', 'did you mean "train.lr"?']),
        ("method.selction.ratio=1", ['did you mean "method.selection"?', "method.guidance"]),
        ("zzz=1", ['unknown key "zzz"', "valid here: name, promise"]),
        ("train.lr=fast", ["train.lr=fast", "valid number", "now train.lr=3.0e-05"]),
        ("train.steps=1.5", ["train.steps=1.5", "integer"]),
        ("train.lr=-1", ["train.lr=-1", "greater than 0"]),
        ("train.lr=.nan", ["train.lr=.nan"]),
        ("train.fsdp=perhaps", ["boolean"]),
        ("method.guidance=lang", ["'enhanced+visual'", "now method.guidance=enhanced+visual"]),
        ("train.step_at=[1, 2]", ["fractions"]),
        ("train=3", ['"train" is a group', "train.lr"]),
        ("train.lr.x=1", ["train.lr is a value"]),
        ("train.lr", ["key=value"]),
        ("=3", ["key=value"]),
        ("method_name=tris2", ["unknown method"]),
        ("method.selection.heads=7", ["selection.heads: 7 heads", "width of 768", "1, 2, 3, 4"]),
        ("method.decoder.heads=0", ["method.decoder.heads=0"]),
        ("method.decoder.heads=3", ["decoder.heads: 3 heads cannot share a width of 512"]),
        ("method.decoder.widths=[8, 8, 8, 0]", ["decoder.heads: its width is 0"]),
        ("method.fusion_heads=3", ["fusion_heads: 3 heads"]),
        ("method.text.heads=7", ["text.heads: 7 heads"]),
        ("method.vision.heads=[4, 8, 7, 32]", ["vision.heads (stage 3): 7 heads"]),
    ],
)
def test_what_is_wrong_is_named(setting: str, words: list[str]) -> None:
    with pytest.raises(RefsegError) as caught:
        apply_overrides(BASE, [setting])
    for word in words:
        assert word in str(caught.value)


def test_only_the_parts_that_are_built_must_fit() -> None:
    apply_overrides(BASE, ["method.selection.heads=7", "method.guidance=language"])
    apply_overrides(BASE, ["method.fusion_heads=3", "method.fusion=none"])
    odd = "method.decoder.widths=[516, 516, 516, 516]"
    apply_overrides(BASE, [odd, "method.decoder.heads=4"])
    with pytest.raises(ConfigError, match="8 groups"):
        apply_overrides(BASE, [odd, "method.decoder.heads=4", "method.decoder.norm=group"])


def test_reasons_are_one_short_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"method_name": "vega", "a": 1, "b": 2, "c": 3, "d": 4})
    told = reasons(caught.value, places=True)
    assert "\n" not in told
    assert "http" not in told
    assert "name: Field required" in told
    assert "and 3 more" in told


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["train.lr=1", "train.lr=2"], "twice"),
        (["train.lr=1", "train.lr.x=2"], "both set"),
        (["train.lr=1", "train=2"], "twice"),
    ],
)
def test_settings_that_contradict_each_other(settings: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        apply_overrides(BASE, settings)


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=30))
def test_any_text_gives_a_recipe_or_a_clear_error(text: str) -> None:
    for setting in (text, f"train.lr={text}", f"{text}=1", f"train.step_at={text}"):
        with suppress(RefsegError):
            found = apply_overrides(BASE, [setting])
            assert Recipe.model_validate(json.loads(found.model_dump_json())) == found


def test_every_key_can_be_set_to_what_it_is() -> None:
    whole = BASE.model_dump(mode="json")
    for key in leaf_keys(BASE):
        value = whole
        for part in key.split("."):
            value = value[part]
        text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        assert apply_overrides(BASE, [f"{key}={text}"]) == BASE, key


def test_a_recipe_survives_its_file() -> None:
    assert Recipe.model_validate(json.loads(BASE.model_dump_json())) == BASE


def test_a_checkpoint_is_not_chosen_by_labels_that_are_not_granted() -> None:
    with pytest.raises(LabelsError, match="choose its checkpoint by oIoU"):
        apply_overrides(BASE, ["data.labels=text"])
    assert str(apply_overrides(BASE, ["data.labels=text", "select=null"]).labels()) == "text"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_each_recipe_says_what_it_promises(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    assert "refseg train" in recipe.promise or "torchrun" in recipe.promise
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe


def test_unknown_recipe() -> None:
    with pytest.raises(UnknownName, match="vega_scene") as caught:
        get_recipe("vega_scene")
    assert 'did you mean "vega_scenes"' in caught.value.remedy


def test_a_model_that_only_writes_is_not_scored_on_masks() -> None:
    recipe = get_recipe("mutual_scenes")
    writes = ["method.select=false", "weights.text=null"]
    with pytest.raises(ConfigError, match="finds none"):
        apply_overrides(recipe, writes)
    assert apply_overrides(recipe, [*writes, "data.evaluate=null"]).data.evaluate is None
