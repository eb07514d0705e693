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
from refseg.recipes.judging import NEGATIVES, MarginScorer, check_words, responses
from refseg.types import Batch, Labels, Prediction
from tests.methods.toy_configs import SIDE, toy_tokenizer
from tests.methods.tris.toys import toy_calibrator


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
