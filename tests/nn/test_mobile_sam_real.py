"""MobileSAM with its published weights, where they are: the published code's own numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from refseg.data.store import cache_folder
from refseg.nn.mobile_sam import MobileSam
from refseg.nn.sam_convert import convert
from refseg.nn.weights import load_state


@pytest.fixture(scope="module")
def real() -> MobileSam:
    """From $REFSEG_MOBILE_SAM, the published file or the converted one, or from the cache."""
    stated = os.environ.get("REFSEG_MOBILE_SAM")
    path = Path(stated) if stated else cache_folder() / "photos" / "mobile_sam.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights of MobileSAM at {path} ($REFSEG_MOBILE_SAM names another file)")
    if path.suffix == ".safetensors":
        return MobileSam.load(path)
    model = MobileSam()
    load_state(model, convert(path), source=str(path))
    return model


def picture() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red ellipse and a yellow rectangle on a colour gradient, and their masks."""
    rows, columns = np.mgrid[0:300, 0:400]
    image = np.stack([columns * 255 // 399, rows * 255 // 299, np.full_like(rows, 90)], -1)
    ellipse = ((rows - 110) / 60) ** 2 + ((columns - 130) / 90) ** 2 < 1
    rectangle = (rows >= 190) & (rows < 270) & (columns >= 240) & (columns < 330)
    image[ellipse], image[rectangle] = (220, 40, 30), (250, 240, 90)
    return image.astype(np.uint8), np.stack([ellipse, rectangle])


def test_the_real_model_gives_the_published_codes_numbers(real: MobileSam) -> None:
    """Golden numbers: the published code's own, on the same picture and boxes."""
    image, objects = picture()
    embedded = real.encode(image)
    known = {
        (0, 0, 0): -0.149452,
        (17, 20, 30): 0.064981,
        (100, 10, 50): -0.059193,
        (255, 47, 63): -0.222891,
        (255, 60, 10): -0.003848,
    }
    for place, value in known.items():
        assert float(embedded.embedding[(0, *place)]) == pytest.approx(value, abs=2e-5)
    assert float(embedded.embedding.std()) == pytest.approx(0.108188, abs=1e-5)
    boxes = np.array([[35, 45, 225, 175], [235, 185, 335, 275], [200, 100, 420, 310]])
    found = real.masks(embedded, boxes)
    np.testing.assert_allclose(found.iou, [0.986318, 0.985329, 0.757324], atol=1e-4)
    places = ((70, 83), (10, 10), (150, 180))
    logits = [[float(one[place]) for place in places] for one in found.logits]
    golden = [
        [14.2513, -15.4138, -12.2430],
        [-15.9340, -17.9000, 16.1745],
        [-6.1865, -6.0006, -1.5167],
    ]
    np.testing.assert_allclose(logits, golden, atol=2e-3)
    masks = found.in_px()
    np.testing.assert_allclose(masks.sum(axis=(1, 2)), [16884, 7196, 31677], atol=2)
    overlap = (masks[:2] & objects).sum(axis=(1, 2)) / (masks[:2] | objects).sum(axis=(1, 2))
    assert (overlap > 0.995).all()


def test_the_real_model_answers_boxes_together_as_alone(real: MobileSam) -> None:
    embedded = real.encode(picture()[0])
    boxes = np.array([[20, 30, 90, 200], [0, 0, 400, 300], [235, 185, 335, 275], [5, 5, 9, 7]])
    found = real.masks(embedded, boxes, at_once=4)
    for index in range(4):
        alone = real.masks(embedded, boxes[index : index + 1])
        torch.testing.assert_close(found.logits[index], alone.logits[0], atol=1e-3, rtol=1e-4)
        assert (found.in_px([index]) != alone.in_px()).mean() < 1e-4
