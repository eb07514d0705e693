"""The margin: what a model is worth by a frozen judge and texts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refseg.data.catalog import open_data
from refseg.data.tokens import train_wordpiece
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.models import Model
from refseg.nn.clip import PIXEL_MEAN, PIXEL_STD
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.judging import (
    NEGATIVES,
    MarginScorer,
    check_words,
    open_calibrator,
    responses,
)
from refseg.recipes.overrides import apply_overrides
from refseg.types import Batch, Labels, Prediction
from tests.methods.toy_configs import SIDE, toy_tokenizer
from tests.methods.tris.toys import toy_calibrator
from tests.nn.clip_toys import own_folder
from tests.recipes.tris_small import TEXT, VISION, small_tris


class Half(nn.Module):
    """Answers every expression with the left half of the picture, or without a response."""

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__()
        self.silent = silent
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Batch:
        return batch

    def decode(self, outputs: Batch, batch: Batch) -> list[Prediction]:
        half = np.zeros((8, 8), np.float32)
        half[:, :4] = 1
        return [
            Prediction(np.ones(g.original_hw, bool), 1.0, g, None if self.silent else half)
            for g in batch.geometry
        ]


@pytest.fixture(scope="module")
def scorer(world: Path) -> MarginScorer:
    data = open_data(world, "val", Labels())
    net = PreprocessConfig(size=SIDE)
    return MarginScorer(toy_calibrator(), data, toy_tokenizer(), net, list(range(5)), 3)


def test_the_margin_is_its_loop(scorer: MarginScorer) -> None:
    found = scorer(Half())
    assert set(found) == {"margin"}
    tokens, judge, margins = toy_tokenizer(), toy_calibrator(), []

    def text(words: str) -> Tensor:
        encoded = tokens.encode([words])
        return judge.texts(torch.from_numpy(encoded.words), torch.from_numpy(encoded.mask))[0]

    for row in range(5):
        sample = scorer._samples([row])[0]
        assert len(sample.negatives) == NEGATIVES
        model = Model("half", "vega", Half(), tokens, scorer.preprocess)
        image = model.batch([sample]).images
        mask = torch.zeros(1, SIDE, SIDE)
        mask[..., : SIDE // 2] = 1
        mask[..., SIDE // 2 - 4 : SIDE // 2 + 4] = torch.linspace(15 / 16, 1 / 16, 8)
        seen = judge.seen(image, mask)[0]
        near = float(seen @ text(sample.text))
        far = [float(seen @ text(other)) for other in sample.negatives]
        margins.append(near - sum(far) / NEGATIVES)
    assert found["margin"] == pytest.approx(sum(margins) / 5, abs=1e-5)


def test_the_same_texts_are_compared_each_time(scorer: MarginScorer) -> None:
    assert scorer(Half()) == scorer(Half())
    other = replace(scorer, seed=4)
    assert [s.negatives for s in other._samples([0, 1, 2])] != [
        s.negatives for s in scorer._samples([0, 1, 2])
    ]


def test_a_method_without_a_response_cannot_be_judged(scorer: MarginScorer) -> None:
    with pytest.raises(ConfigError, match="gives none") as caught:
        scorer(Half(silent=True))
    assert "select=null" in str(caught.value.remedy)
    assert responses(Half().decode(*[fake(2)] * 2), (16, 16)).shape == (2, 16, 16)


def fake(count: int) -> Any:
    geometry = SimpleNamespace(original_hw=(4, 4), net_hw=(16, 16))
    return SimpleNamespace(geometry=(geometry,) * count)


def test_a_judge_of_other_words_is_refused(tmp_path: Path) -> None:
    tokens = toy_tokenizer()
    model = Model("half", "vega", Half(), tokens, PreprocessConfig(size=SIDE))
    tmp_path.mkdir(exist_ok=True)
    check_words(toy_calibrator(), model, str(tmp_path))  # weights alone tell no pieces
    tokens.save(tmp_path / "tokenizer.json")
    check_words(toy_calibrator(), model, str(tmp_path))
    judge = toy_calibrator()
    text = SimpleNamespace(vocab_size=tokens.vocab_size - 1)
    judge.pair = SimpleNamespace(config=SimpleNamespace(text=text))  # type: ignore[assignment]
    train_wordpiece(["some other words"], size=120, max_words=9).save(tmp_path / "tokenizer.json")
    for other in (judge, toy_calibrator()):  # fewer rows; as many, and other pieces
        with pytest.raises(ConfigError, match="word pieces") as caught:
            check_words(other, model, str(tmp_path))
        assert f"tokens.source={tmp_path}" in str(caught.value.remedy)


# -- whose pixels ------------------------------------------------------------------------------

PIXELS = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.2]}


def recipe_of(world: Path, folder: Path, own: bool, **told: Any) -> Recipe:
    """Of both steps; its judge is a random pair, its networks see ImageNet's pixels."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    own_folder(folder, ClipPair(PairConfig(vision=VISION, text=TEXT)), **told)
    setting = f"tris.response.loss.own_pixels={str(own).lower()}"
    return apply_overrides(small_tris(world, folder), [setting])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_both_steps_show_the_judge_the_same_pixels(
    own: bool, told: bool, world: Path, tmp_path: Path
) -> None:
    """Those that it knows where step 1 says so, by its own word or else CLIP's, by a loop."""
    recipe = recipe_of(world, tmp_path / "pair", own, **({"pixels": PIXELS} if told else {}))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    given, known = recipe.preprocess, (PIXELS["mean"], PIXELS["std"])
    mean, std = known if told else (PIXEL_MEAN, PIXEL_STD)
    if not own:
        mean, std = given.mean, given.std
    shown, expected = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    for y, x, c in np.ndindex(64, 64, 3):
        value = int(picture[y, x, c]) / 255
        shown[0, c, y, x] = (value - given.mean[c]) / given.std[c]
        expected[0, c, y, x] = (value - mean[c]) / std[c]
    assert recipe.tris is not None
    first = {"method_name": "tris_response", "method": recipe.tris.response, "tris": None}
    for step in (recipe, recipe.model_copy(update=first)):
        judge = open_calibrator(step)
        assert judge is not None
        seen = judge.seen(shown, torch.ones(1, 64, 64))
        torch.testing.assert_close(seen, judge.pair.embed_images(expected), atol=1e-5, rtol=1e-5)


def test_a_judge_that_knows_the_given_pixels_sees_them_as_they_are(
    world: Path, tmp_path: Path
) -> None:
    """So that own_pixels changes nothing in a world whose pair learned from the same."""
    same = PreprocessConfig().model_dump(mode="json", include={"mean", "std"})
    plain, own = (
        open_calibrator(recipe_of(world, tmp_path / "pair", own, pixels=same))
        for own in (False, True)
    )
    assert plain is not None
    assert own is not None
    images, ones = torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64)
    torch.testing.assert_close(own.seen(images, ones), plain.seen(images, ones))


def test_methods_without_the_setting_show_what_they_see(world: Path, tmp_path: Path) -> None:
    folder = recipe_of(world, tmp_path / "pair", own=True).weights.calibrator
    other = apply_overrides(get_recipe("vega_scenes"), [f"weights.calibrator={folder}"])
    judge = open_calibrator(other)
    assert judge is not None
    assert not judge.own_pixels
