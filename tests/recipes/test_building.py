"""Models that recipes build: untrained, or from weights that somebody trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refseg import models
from refseg.errors import ConfigError
from refseg.recipes.base import Recipe, TokenConfig, WeightsConfig
from refseg.recipes.building import build
from refseg.train.config import TrainConfig
from tests.methods.toy import toy_model


def test_starting_from_a_whole_model_brings_its_word_pieces(tmp_path: Path) -> None:
    """Pieces learned anew would give the old embeddings other meanings."""
    model = toy_model("vega", seed=1)
    models.save(tmp_path / "old", model)
    recipe = Recipe(
        name="further",
        method_name="vega",
        method=model.method.config,
        preprocess=model.preprocess,
        tokens=TokenConfig(max_words=model.tokenizer.max_words),
        weights=WeightsConfig(model=str(tmp_path / "old")),
        train=TrainConfig(steps=1),
    )
    built = build(recipe, ["quite other words", "than the old ones"])
    assert built.tokenizer.tokenizer.get_vocab() == model.tokenizer.tokenizer.get_vocab()
    old, new = model.method.state_dict(), built.method.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())


@pytest.mark.parametrize(
    ("field", "token"), [("start", "[CLS]"), ("end", "[SEP]"), ("pad", "[PAD]")]
)
def test_a_writer_with_other_ids_is_refused(field: str, token: str) -> None:
    made = toy_model("mutual annotated")
    own = getattr(made.method.config.generator, field)
    generator = made.method.config.generator.model_copy(update={field: own + 6, "never": ()})
    recipe = Recipe(
        name="other",
        method_name="mutual",
        method=made.method.config.model_copy(update={"generator": generator}),
        tokens=TokenConfig(vocabulary=160, max_words=12),
        train=TrainConfig(steps=1),
    )
    with pytest.raises(ConfigError) as caught:
        build(recipe, ["left red square"])
    assert f"takes {own + 6} for {token}, whose id is {own}" in caught.value.message
    assert "method.generator.start" in caught.value.remedy
