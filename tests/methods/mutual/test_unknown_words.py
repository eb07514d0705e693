"""An expression of which no word is known: read as such, answered, and no error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refseg.describe import refer_back
from refseg.models import Model
from refseg.predict import Predictor, Segmenter
from refseg.types import Picture
from tests.methods.toy import toy_model, toy_samples

UNKNOWN = ("мяч", "球 мяч", "мяч мяч мяч")
BOTH = pytest.mark.parametrize("name", ["mutual", "mutual annotated"])


def model_of(name: str) -> Model:
    model = toy_model(name)
    with torch.no_grad():
        for parameter in model.method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.method.eval()
    return model


@pytest.mark.parametrize("text", UNKNOWN)
def test_no_word_of_it_is_known(text: str) -> None:
    """Guards the tests below."""
    pieces = toy_model("mutual").tokenizer.pieces(text)
    assert set(pieces[1:-1]) == {"[UNK]"}


def test_segment_answers() -> None:
    made = model_of("mutual")
    model = Segmenter(made.name, made.method_name, made.method, made.tokenizer, made.preprocess)
    image = toy_samples(1)[0].image
    seen = Predictor(model).set_image(image)
    alone = [seen.segment(text) for text in UNKNOWN]
    beside = seen.segment([*UNKNOWN, "left red disc"])
    for one, other in zip(alone, beside, strict=False):
        assert one.mask.shape == image.shape[:2]
        assert 0 < one.score <= 1
        np.testing.assert_array_equal(one.mask, other.mask)
    # As many [UNK], the same question: what they stand for is not known.
    assert seen.segment("дом").score == pytest.approx(alone[0].score)
    assert alone[0].score != pytest.approx(alone[2].score, abs=1e-6)


@BOTH
def test_refer_back_gives_a_verdict(name: str) -> None:
    model = model_of(name)
    shown = [Picture(s.image_id, s.image, s.objects) for s in toy_samples(2)[::2]]
    asked = [(0, 0), (1, 1), (1, 0)]
    verdicts = refer_back(model, shown, asked, UNKNOWN)
    assert all(one.matched and -1 <= one.margin <= 1 for one in verdicts)
    assert all(np.isfinite(one.margin) for one in verdicts)
    assert all(one.hit == (one.margin > 0) for one in verdicts)
    (again,) = refer_back(model, shown, asked[:1], ["дом"])
    assert again.hit == verdicts[0].hit
    assert again.margin == pytest.approx(verdicts[0].margin, abs=1e-5)
