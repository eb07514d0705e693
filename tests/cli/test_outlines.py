"""Outlines that a model wrote, as the command tells and draws them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg import draw
from refseg.models import save
from refseg.ops.masks import polygons_to_mask, rle_decode
from refseg.predict import refuse
from refseg.types import Geometry, Prediction
from tests.cli.conftest import Run
from tests.methods.toy import learned, toy_model

WORDS = ("left red square", "right blue disc")


@pytest.fixture(scope="module")
def outliner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that has learned to write outlines."""
    model = toy_model("partial_res")
    model.method = learned("partial_res")
    folder = tmp_path_factory.mktemp("models") / "outliner"
    save(folder, model)
    return folder


def test_polygons_are_the_mask(run: Run, photo: Path, outliner: Path) -> None:
    result = run("predict", photo, *WORDS, "--model", outliner, "--json")
    answers = json.loads(result.stdout)
    assert len(answers) == 2
    for answer in answers:
        mask = rle_decode(answer["mask"])
        assert mask.any()
        assert len(answer["polygons"]) == 1
        assert len(answer["polygons"][0]) == 24
        np.testing.assert_array_equal(polygons_to_mask(answer["polygons"], mask.shape), mask)


def test_points_are_drawn_below_the_attention(run: Run, photo: Path, outliner: Path) -> None:
    result = run("predict", photo, WORDS[0], "--model", outliner, "--explain")
    assert result.exit_code == 0, result.output
    with Image.open("out/photo.1.explain.png") as why, Image.open("out/photo.overlay.png") as all_:
        assert why.width == all_.width
        assert why.height > 1.5 * all_.height


@pytest.mark.parametrize(
    "points",
    [
        [[40, 30], [40, 44], [52, 44]],
        [[0, 0], [0, 90], [160, 90], [160, 0]],
        [[159, 89], [160, 90], [160, 89]],
        [[7, 7], [7, 7], [7, 7]],
    ],
)
def test_what_is_around_an_outline_is_drawn(points: list[list[float]]) -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    shape = draw.overlay(image, [np.zeros((90, 160), bool)], [""])
    drawn = draw.pointed(image, np.array(points, np.float32))
    assert drawn.shape[1] == shape.shape[1]
    assert drawn.shape[0] * 160 == drawn.shape[1] * 90
    assert drawn.any()


def test_a_small_outline_is_drawn_large() -> None:
    """The red square of the image, around which the outline goes, fills a good part."""
    image = np.zeros((90, 160, 3), np.uint8)
    image[30:38, 40:50] = (255, 0, 0)
    square = np.array([[40, 30], [40, 38], [50, 38], [50, 30]], np.float32)
    drawn = draw.pointed(image, square)
    inside = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2]
    assert inside.tolist() == [255, 0, 0]
    assert (drawn == inside).all(axis=2).mean() > 0.1


def test_what_is_refused_has_no_outline() -> None:
    mask = np.ones((4, 4), bool)
    square = np.array([[0, 0], [0, 4], [4, 4], [4, 0]], np.float32)
    told = Prediction(mask, 0.2, Geometry((4, 4), (4, 4), (1.0, 1.0)), polygons=(square,))
    assert refuse(told, 0.3).polygons == ()
    assert refuse(told, 0.1).polygons == (square,)
