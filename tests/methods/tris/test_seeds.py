"""Seeds: three values, two thresholds, what smoothing changes, and the grid edges learn on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import ConfigError, DataError
from refseg.methods.tris.seeds import (
    BACKGROUND,
    FOREGROUND,
    IGNORE,
    SeedConfig,
    on_grid,
    seeds,
    unsmoothed,
)


def image_for(response):
    return np.zeros((*response.shape, 3), np.uint8)


def plain(surely, perhaps):
    """The rule, pixel by pixel, from the two label maps."""
    found = np.empty(surely.shape, np.uint8)
    for place in np.ndindex(surely.shape):
        if surely[place]:
            found[place] = 1
        elif not perhaps[place]:
            found[place] = 0
        else:
            found[place] = 255
    return found


def test_thresholds_without_smoothing():
    response = np.array([[0.0, 0.05, 0.10, 0.2, 0.30, 0.35, 1.0]])
    found = seeds(response, image_for(response), SeedConfig())
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 0, 0, 255, 255, 1, 1]]
    original = SeedConfig(background=0.05)
    assert seeds(response, image_for(response), original).tolist() == [[0, 0, 255, 255, 255, 1, 1]]


def test_zeros_are_background_and_ones_foreground():
    for value, label in ((0.0, BACKGROUND), (1.0, FOREGROUND)):
        response = np.full((3, 5), value, np.float32)
        assert (seeds(response, image_for(response), SeedConfig()) == label).all()


@given(st.integers(0, 10_000))
def test_smoothed_labels_decide_pixel_by_pixel(seed):
    generator = np.random.default_rng(seed)
    response = generator.random((5, 6))
    answers = [generator.random((5, 6)) < 0.5 for _ in range(2)]
    asked = []

    def smooth(image, labels):
        assert image.shape == (5, 6, 3)
        asked.append(labels)
        return answers[len(asked) - 1]

    found = seeds(response, image_for(response), SeedConfig(), smooth)
    # A smoother may say foreground where the weaker threshold's says background: it is foreground.
    assert np.array_equal(found, plain(*answers))
    assert set(np.unique(found)) <= {BACKGROUND, FOREGROUND, IGNORE}
    assert np.array_equal(asked[0], response > 0.30)
    assert np.array_equal(asked[1], response > 0.10)


def test_unsmoothed_is_identity():
    labels = np.eye(4, dtype=bool)
    assert np.array_equal(unsmoothed(np.zeros((4, 4, 3), np.uint8), labels), labels)


@given(st.integers(1, 30), st.integers(1, 30))
def test_grid_takes_the_pixel_under_the_centre(height, width):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (height, width))
    found = on_grid(labels)
    assert found.shape == ((height + 3) // 4, (width + 3) // 4)
    for y, x in np.ndindex(found.shape):
        assert found[y, x] == labels[min(4 * y + 2, height - 1), min(4 * x + 2, width - 1)]


def test_grid_is_pillows_nearest_for_whole_cells():
    labels = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (64, 48))
    expected = np.asarray(Image.fromarray(labels).resize((12, 16), Image.Resampling.NEAREST))
    assert np.array_equal(on_grid(labels), expected)


def test_bad_input_is_named():
    response = np.zeros((4, 4), np.float32)
    with pytest.raises(DataError, match="image of"):
        seeds(response, np.zeros((4, 5, 3), np.uint8), SeedConfig())
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(DataError, match="response from"):
            seeds(response + bad, image_for(response), SeedConfig())
    with pytest.raises(ConfigError, match="above foreground"):
        SeedConfig(background=0.5)
