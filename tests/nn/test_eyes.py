"""Eyes: with small nets of drawn weights, and with those that were pulled, if they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from refseg.errors import ModelError
from refseg.nn.detections import Joining, join
from refseg.nn.eyes import CLASS_IDS, FILES, Eyes, looks
from refseg.nn.mobile_sam import MobileSam, MobileSamConfig
from refseg.nn.ssd import Ssd, look
from refseg.nn.tiny_vit import TinyVitConfig
from refseg.pull.kept import is_pulled, pulled_folder

SMALL = MobileSamConfig(
    encoder=TinyVitConfig(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2), out=32),
    side=64,
    mlp_width=32,
    heads=2,
)


def picture(hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return small_eyes()


def small_eyes() -> Eyes:
    """With weights as they are drawn."""
    torch.manual_seed(0)
    ssd = Ssd()
    with torch.no_grad():  # as drawn, the scores of all classes are near one half
        for head in ssd.classes:
            head.weight.mul_(3)
            head.bias.fill_(-2.0)
    return Eyes(ssd, MobileSam(SMALL))


def test_it_joins_the_two_and_counts_colours(eyes: Eyes) -> None:
    image = picture((48, 80))
    seen = eyes.look(image, least=0.05, most=7)
    found = join(look(eyes.ssd, image), Joining(least=0.05, most=7))
    assert 0 < len(seen) <= 7
    np.testing.assert_array_equal(seen.boxes, found.boxes)
    assert seen.chances.shape == (len(seen), 80)
    for column, number in ((0, 1), (11, 13), (79, 90)):  # person, stop sign, toothbrush
        np.testing.assert_array_equal(seen.chances[:, column], found.probabilities[:, number])
        assert CLASS_IDS[column] == number
    masks = eyes.sam.masks(eyes.sam.encode(image), found.boxes)
    torch.testing.assert_close(seen.logits, masks.logits)
    wanted = looks(image, (masks.logits > 0).numpy())
    np.testing.assert_array_equal(seen.looks, wanted)


def test_nothing_is_seen_where_nothing_is_sure(eyes: Eyes) -> None:
    seen = eyes.look(picture((48, 80)), least=0.999, most=7)
    assert len(seen) == 0
    assert seen.logits.shape[0] == 0
    assert seen.looks is not None
    assert seen.looks.shape == (0, 33)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=FILES[0]):
        Eyes.load(tmp_path)


@pytest.mark.skipif(not is_pulled("photos"), reason="needs `refseg models pull photos`")
@pytest.mark.parametrize("hw", [(1, 1), (300, 500), (3, 2000)])
def test_pulled_weights_see_pictures_of_any_shape(hw: tuple[int, int]) -> None:
    seen = Eyes.load(pulled_folder("photos")).look(picture(hw), least=0.1, most=20)
    assert np.isfinite(seen.boxes).all()
    assert (seen.boxes[:, 2:] <= np.array([hw[1], hw[0]]) + 1e-3).all()
    assert seen.masks.in_px().shape == (len(seen), *hw)
