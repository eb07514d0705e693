"""Augmentation keeps picture, mask, box and words true to one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from refseg.data.sides import swap_left_right
from refseg.data.transforms import (
    IMAGENET_MEAN,
    AugmentConfig,
    PreprocessConfig,
    crop,
    flip,
    jitter,
    random_crop,
)
from refseg.types import Sample

TEXTS = ("left red ball", "the mug right of the cone", "topleft one", "ring", "second from left")


def sample(
    hw: tuple[int, int] = (20, 30), box: tuple[int, int, int, int] = (5, 4, 12, 9), **labels: Any
) -> Sample:
    """A random picture whose referent is the filled box x0, y0, x1, y1."""
    height, width = hw
    rng = np.random.default_rng([height, width, *box])
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    mask = np.zeros(hw, bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    told = {"mask": mask, "box_xyxy": np.array(box, np.float32), "empty": False, "parts": 1}
    return Sample("k", image, "left red ball", 1, 2, 3, **{**told, **labels})


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    made = sample((height, width), (x0, y0, x1, y1))
    return replace(made, text=draw(st.sampled_from(TEXTS)))


def box_of(mask: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def same(one: Sample, other: Sample) -> bool:
    return (
        one.text == other.text
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.mask, other.mask)
        and np.array_equal(one.box_xyxy, other.box_xyxy)
    )


@given(samples())
def test_flip_moves_everything_together(made: Sample) -> None:
    turned = flip(made)
    assert made.mask is not None
    assert turned.mask is not None
    assert turned.box_xyxy is not None
    width = made.image.shape[1]
    for y in range(made.image.shape[0]):
        for x in range(width):
            np.testing.assert_array_equal(turned.image[y, x], made.image[y, width - 1 - x])
            assert turned.mask[y, x] == made.mask[y, width - 1 - x]
    assert turned.box_xyxy.tolist() == box_of(turned.mask)
    assert turned.box_xyxy.dtype == np.float32
    assert turned.text == swap_left_right(made.text)
    assert turned.image.flags.c_contiguous
    assert turned.mask.flags.c_contiguous


@given(samples())
def test_flip_twice_is_nothing(made: Sample) -> None:
    assert same(flip(flip(made)), made)


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ("left red ball", "right red ball"),
        ("Rightmost guy", "Leftmost guy"),
        ("topleft pizza", "topright pizza"),
        ("the striped one", "the striped one"),
    ],
)
def test_flip_swaps_the_words(said: str, then: str) -> None:
    assert flip(replace(sample(), text=said)).text == then


def test_flip_without_labels() -> None:
    bare = sample(mask=None, box_xyxy=None, empty=None, parts=0)
    turned = flip(bare)
    assert turned.mask is None
    assert turned.box_xyxy is None


def test_nothing_is_changed_in_place() -> None:
    made = sample()
    kept = replace(made, image=made.image.copy(), mask=made.mask.copy())
    rng = np.random.default_rng(0)
    AugmentConfig(flip=1, crop=1, jitter=0.5).apply(made, rng)
    assert same(made, kept)


@settings(max_examples=200)
@given(samples(), st.data())
def test_a_crop_keeps_the_whole_referent_or_nothing(made: Sample, data: st.DataObject) -> None:
    height, width = made.image.shape[:2]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    cut = crop(made, (x0, y0, x1, y1))
    assert made.mask is not None
    bx0, by0, bx1, by1 = box_of(made.mask)
    inside = bx0 >= x0 and by0 >= y0 and bx1 <= x1 and by1 <= y1
    assert (cut is not None) == inside
    if cut is not None:
        assert cut.mask is not None
        assert cut.box_xyxy is not None
        assert cut.image.shape == (y1 - y0, x1 - x0, 3)
        np.testing.assert_array_equal(cut.image, made.image[y0:y1, x0:x1])
        assert cut.mask.sum() == made.mask.sum()
        assert cut.box_xyxy.tolist() == box_of(cut.mask)
        assert cut.box_xyxy.dtype == np.float32


def test_a_crop_with_boxes_alone_asks_the_box() -> None:
    made = sample(mask=None)
    assert crop(made, (5, 4, 12, 9)) is not None
    for window in [(6, 4, 12, 9), (5, 5, 12, 9), (5, 4, 11, 9), (5, 4, 12, 8)]:
        assert crop(made, window) is None


def test_a_crop_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="mask or a box"):
        crop(sample(mask=None, box_xyxy=None), (0, 0, 9, 9))


def test_an_expression_that_means_nothing_has_nothing_to_cut() -> None:
    nothing = sample(mask=np.zeros((20, 30), bool), box_xyxy=None, empty=True)
    cut = crop(nothing, (3, 3, 9, 9))
    assert cut is not None
    assert cut.empty


@settings(max_examples=200)
@given(samples(), st.integers(0, 10**6), st.floats(0.01, 0.49))
def test_random_crops_cut_at_most_their_share(made: Sample, seed: int, share: float) -> None:
    cut = random_crop(made, np.random.default_rng(seed), share)
    if cut is None:
        return
    height, width = made.image.shape[:2]
    assert cut.image.shape[0] >= max(1, height - 2 * int(share * height))
    assert cut.image.shape[1] >= max(1, width - 2 * int(share * width))
    assert cut.text == made.text


def test_a_crop_drops_what_it_cuts_through_apply() -> None:
    edge = sample(box=(4, 3, 26, 17))
    config = AugmentConfig(crop=1, crop_share=0.2)
    results = [config.apply(edge, np.random.default_rng(seed)) for seed in range(40)]
    kept = [r for r in results if r is not None]
    assert 0 < len(kept) < 40
    for result in kept:
        assert result.mask is not None
        assert result.mask.sum() == 22 * 14


@given(samples(), st.integers(0, 1000), st.floats(0.01, 0.9))
def test_jitter_keeps_shape_labels_and_words(made: Sample, seed: int, share: float) -> None:
    lit = jitter(made, np.random.default_rng(seed), share)
    assert lit.image.shape == made.image.shape
    assert lit.image.dtype == np.uint8
    assert lit.text == made.text
    np.testing.assert_array_equal(lit.mask, made.mask)


def test_jitter_changes_light_not_colour() -> None:
    flat = np.empty((8, 8, 3), np.uint8)
    flat[:] = (150, 120, 90)
    for seed in range(20):
        lit = jitter(replace(sample(), image=flat), np.random.default_rng(seed), 0.3)
        r, g, b = lit.image[0, 0].astype(int)
        assert r > g > b


def test_no_augmentation_is_the_sample_itself() -> None:
    made = sample()
    assert AugmentConfig().apply(made, np.random.default_rng(0)) is made


def test_augmentation_is_decided_by_the_seed() -> None:
    config = AugmentConfig(flip=0.5, crop=0.5, jitter=0.3)
    for seed in range(10):
        one, other = (config.apply(sample(), np.random.default_rng(seed)) for _ in range(2))
        if one is None or other is None:
            assert one is other
        else:
            assert same(one, other)


def test_chances_are_what_they_say() -> None:
    config, made = AugmentConfig(flip=0.25), sample()
    flipped = sum(
        config.apply(made, np.random.default_rng(seed)).text != made.text for seed in range(400)
    )
    assert 70 < flipped < 130


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.1}, {"crop": -0.1}, {"crop_share": 0.5}, {"jitter": 1}, {"rotate": 1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate(wrong)


@pytest.mark.parametrize("hw", [(1, 1), (10, 40), (40, 10), (33, 47)])
@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_preprocessing_makes_a_square_and_tells_the_way_back(fit: str, hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3)).astype(np.uint8)
    net, geometry = PreprocessConfig.model_validate({"size": 24, "fit": fit}).apply(image)
    assert net.shape == (24, 24, 3)
    assert net.dtype == np.uint8
    assert geometry.original_hw == hw
    assert geometry.net_hw == (24, 24)
    (sx, sy), (ox, oy) = geometry.scale_xy, geometry.offset_xy
    assert min(ox, oy) >= 0
    assert ox + hw[1] * sx <= 24 + 1e-6
    assert oy + hw[0] * sy <= 24 + 1e-6
    if fit == "square":
        assert (ox, oy) == (0, 0)
        assert hw[1] * sx == pytest.approx(24)
    else:
        assert max(hw[1] * sx, hw[0] * sy) == pytest.approx(24)


def test_the_default_is_the_papers() -> None:
    config = PreprocessConfig()
    assert (config.size, config.fit) == (480, "square")
    assert config.mean == IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)
