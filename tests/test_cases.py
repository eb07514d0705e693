"""Telling answers with what each method tells of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg import draw
from refseg.cases import INNER_SIDE, SIDE, Case, telling_cases
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.evaluate import evaluate
from refseg.explain import inner_pictures
from refseg.models import Model
from refseg.predict import Predictor
from refseg.types import Labels
from tests.methods.toy import toy_model
from tests.worlds import WORLD_IMAGES

SAG = ["response", "relevance", "entity 1", "entity 2", "entity 3", "entities, a colour a group"]
TOLD = {
    "vega": ["response", "cls similarity"],
    "partial_res": ["attention", "points in their order"],
    "maskclip": ["response", "similarity"],
    "groupvit": ["won", "segments, a colour each"],
    "sag": SAG,
    "tris": ["response"],
    "tris_response": ["response"],
}


@pytest.fixture(scope="module")
def data(cache: Path) -> ReferDataset:
    return open_data(
        cache / f"scenes-v1-0-{WORLD_IMAGES}" / "scenes", "val", Labels.parse("text+box+mask")
    )


def cases_of(model: Model, data: ReferDataset) -> list[Case]:
    return telling_cases(model, data, evaluate(model, data, limit=3))


def size_of(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize("name", TOLD)
def test_a_case_shows_what_the_method_tells(name: str, data: ReferDataset) -> None:
    cases = cases_of(toy_model(name), data)
    assert [case.kind for case in cases] == ["worst"] * 3 + ["middle"] * 3 + ["best"] * 3
    for case in cases:
        captions = [caption for _, caption in case.inner]
        # An outline of less than three points has none to show.
        assert captions in (TOLD[name], TOLD[name][:1] if name == "partial_res" else TOLD[name])
        assert max(size_of(case.png)) <= SIDE
        assert all(max(size_of(png)) <= INNER_SIDE for png, _ in case.inner)
    assert any(len(case.inner) == len(TOLD[name]) for case in cases)


def test_entities_are_those_of_the_answer(data: ReferDataset) -> None:
    model = toy_model("sag")
    samples = {one.text: one for one in (data[row] for row in range(3))}
    for case in cases_of(model, data):
        sample = samples[case.text]
        (prediction,) = model.predict([sample])
        shown = {p.lines[0]: p.pixels for p in inner_pictures(sample.image, prediction)}
        inner = {caption: png for png, caption in case.inner}
        assert inner == {name: draw.small_png(one, INNER_SIDE) for name, one in shown.items()}


def test_a_choosers_proposals_are_those_of_predict(data: ReferDataset) -> None:
    model = toy_model("mutual")
    samples = {one.text: one for one in (data[row] for row in range(3))}
    for case in cases_of(model, data):
        ((png, caption),) = case.inner
        sample = samples[case.text]
        ranked = Predictor(model).set_image(sample.image).rank(sample.text)
        lines = caption.split("\n")
        assert len(lines) == len(ranked) > 1
        for number, (line, one) in enumerate(zip(lines, ranked, strict=True), 1):
            assert line.startswith(f"{number}  {one.proposal.category} (")
            assert line.endswith(f"meant: {one.score:.2f}")
        assert max(size_of(png)) == INNER_SIDE


def test_the_answer_is_given_without_labels(
    data: ReferDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, predict = toy_model("vega"), Model.predict
    report = evaluate(model, data, limit=2)

    def watched(self: Model, samples: Any, *more: Any) -> Any:
        assert all(one.mask is None and one.box_xyxy is None for one in samples)
        return predict(self, samples, *more)

    monkeypatch.setattr(Model, "predict", watched)
    for case in telling_cases(model, data, report):
        pixels = np.asarray(Image.open(io.BytesIO(case.png)).convert("RGB"))
        assert (pixels > 245).all(axis=2).any(), "the truth's outline is drawn all the same"
