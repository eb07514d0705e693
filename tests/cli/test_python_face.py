"""`refseg.load(name)`, `model.segment(...)`, `Predictor`: the same answers by every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import refseg
from refseg.errors import ConfigError, ExpressionError, ImageError, UnknownName
from refseg.predict import AT_ONCE, Predictor, Segmenter, load, pick_device
from tests.methods.toy import assert_same

WORDS = ["left red square", "the blue disc", "disc"]


@pytest.fixture
def model(toy_folder: Path) -> Segmenter:
    return load(toy_folder, "cpu")


def test_load_and_segment_are_at_the_top() -> None:
    assert refseg.load is load
    assert refseg.Predictor is Predictor
    assert callable(refseg.segment)
    with pytest.raises(AttributeError):
        refseg.nothing  # noqa: B018


def test_one_text_gives_one_answer_and_a_list_gives_a_list(model: Segmenter, photo: Path) -> None:
    one = model.segment(photo, WORDS[0])
    several = model.segment(photo, WORDS)
    assert one.mask.shape == (48, 80)
    assert len(several) == len(WORDS)
    assert_same(one, several[0])
    assert model.segment(photo, []) == []


def test_paths_pictures_and_arrays_are_the_same(model: Segmenter, photo: Path) -> None:
    first = model.segment(photo, WORDS)
    for source in (str(photo), Image.open(photo), np.asarray(Image.open(photo))):
        for ours, theirs in zip(model.segment(source, WORDS), first, strict=True):
            np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_asking_one_by_one_equals_asking_at_once(model: Segmenter, photo: Path) -> None:
    texts = [f"{WORDS[i % 3]} {i}" for i in range(AT_ONCE + 3)]
    predictor = Predictor(model).set_image(photo)
    for text, together in zip(texts, predictor.segment(texts), strict=True):
        assert_same(predictor.segment(text), together)


def test_the_image_is_encoded_once(
    model: Segmenter, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = model.method.encode_image
    monkeypatch.setattr(model.method, "encode_image", lambda x: calls.append(1) or encode(x))
    predictor = Predictor(model).set_image(photo)
    predictor.segment(WORDS)
    predictor.segment(WORDS[0])
    assert len(calls) == 1


def test_methods_that_cannot_encode_alone_answer_too(model: Segmenter, photo: Path) -> None:
    class Plain:
        """The four verbs and no more."""

        def __init__(self, method: Any) -> None:
            self.method = method

        def eval(self) -> None:
            self.method.eval()

        def parameters(self) -> Any:
            return self.method.parameters()

        def __call__(self, batch: Any) -> Any:
            return self.method(batch)

        def decode(self, outputs: Any, batch: Any) -> Any:
            return self.method.decode(outputs, batch)

    plain = Segmenter(**{**vars(model), "method": Plain(model.method)})
    for ours, theirs in zip(plain.segment(photo, WORDS), model.segment(photo, WORDS), strict=True):
        assert_same(ours, theirs)


def test_segment_loads_by_name(photo: Path) -> None:
    assert refseg.segment(photo, WORDS[0]).mask.shape == (48, 80)


def test_bad_questions(model: Segmenter, photo: Path) -> None:
    with pytest.raises(ImageError, match="no image has been set"):
        Predictor(model).segment("disc")
    with pytest.raises(ExpressionError):
        model.segment(photo, ["disc", " "])
    with pytest.raises(ExpressionError, match="10,000"):
        model.segment(photo, "x" * 10_000)
    with pytest.raises(UnknownName, match="vega-scnes"):
        load("vega-scnes")


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="toaster"):
        pick_device("toaster")
