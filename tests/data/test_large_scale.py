"""Large-scale jitter: pixels and labels stay true to one another, whatever is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trees import make_refer_tree

from refseg.data import large_scale
from refseg.data.catalog import open_data
from refseg.data.large_scale import LEVELS, TRIES, find_window, large_scale_jitter, pad
from refseg.data.objects import crop_objects, same_objects
from refseg.data.transforms import AugmentConfig, PreprocessConfig
from refseg.ops.images import MAX_PIXELS, MAX_SIDE, PADDING_RGB
from refseg.types import ALL_LABELS, Labels, Objects, Sample

PAPER = (0.3, 1.4)
LABELS = ("mask+box", "mask", "box", "none")


def made(
    hw: tuple[int, int], box: tuple[int, int, int, int], labels: str = "mask+box", channels: int = 3
) -> Sample:
    """A random picture whose referent is an L in the box, beside another object and an unknown."""
    rng = np.random.default_rng([*hw, *box])
    x0, y0, x1, y1 = box
    mask, other = np.zeros(hw, bool), rng.random(hw) < 0.3
    mask[y0:y1, x0] = mask[y1 - 1, x0:x1] = True
    boxes = np.array([box, [0, 0, hw[1], hw[0]], [np.nan] * 4], np.float32)
    return Sample(
        "k", rng.integers(0, 256, (*hw, channels), np.uint8), "left one", 1, 2, 3,
        mask=mask if "mask" in labels else None,
        box_xyxy=boxes[0] if "box" in labels else None,
        empty=None if labels == "none" else False, parts=1,
        objects=Objects(np.arange(3), ("L", "dust", "?"), boxes, (mask, other, None)), target=0,
    )  # fmt: skip


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    labels, channels = draw(st.sampled_from(LABELS)), draw(st.sampled_from([0, 3]))
    return made((height, width), (x0, y0, x1, y1), labels, channels)


def share_kept(sample: Sample, window: tuple[int, ...]) -> float:
    """By a look at every pixel of the mask, or by the box."""
    x0, y0, x1, y1 = window
    if sample.mask is not None:
        points = [(x, y) for y, row in enumerate(sample.mask) for x, here in enumerate(row) if here]
        return sum(x0 <= x < x1 and y0 <= y < y1 for x, y in points) / len(points)
    bx0, by0, bx1, by1 = sample.box_xyxy.tolist()
    wide, high = min(bx1, x1) - max(bx0, x0), min(by1, y1) - max(by0, y0)
    return max(wide, 0) * max(high, 0) / ((bx1 - bx0) * (by1 - by0))


def literal_window(
    sample: Sample, rng: np.random.Generator, hw: tuple[int, int]
) -> tuple[int, ...] | None:
    """`find_window`, one try after the other."""
    if sample.mask is None and sample.box_xyxy is None:
        return None
    height, width = sample.image.shape[:2]
    seen = []
    for level in LEVELS:
        places = rng.integers(0, [height - hw[0] + 1, width - hw[1] + 1], size=(TRIES, 2))
        for y, x in places.tolist():
            window = (x, y, x + hw[1], y + hw[0])
            kept = share_kept(sample, window)
            if kept >= level:
                return window
            seen.append((kept, window))
    most = max(kept for kept, _ in seen)
    return next(window for kept, window in seen if kept == most) if most >= 0.3 else None


def tight(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@settings(max_examples=150)
@given(samples(), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_the_window_is_that_of_one_try_after_the_other(
    sample: Sample, rows: float, columns: float, seed: int
) -> None:
    height, width = sample.image.shape[:2]
    hw = max(1, round(rows * height)), max(1, round(columns * width))
    found = find_window(sample, np.random.default_rng(seed), hw)
    assert found == literal_window(sample, np.random.default_rng(seed), hw)
    if found is not None:
        assert (found[3] - found[1], found[2] - found[0]) == hw
        assert 0 <= found[0] < found[2] <= width
        assert 0 <= found[1] < found[3] <= height


@settings(max_examples=150)
@given(samples(), st.floats(1.01, 3.0), st.integers(0, 10**6))
def test_larger_is_a_window_of_everything(sample: Sample, factor: float, seed: int) -> None:
    height, width = sample.image.shape[:2]
    hw = max(1, round(height / factor)), max(1, round(width / factor))
    twin = np.random.default_rng(seed)
    twin.uniform(factor, factor)
    window = literal_window(sample, twin, hw) if hw != (height, width) else None
    seen = large_scale_jitter(sample, np.random.default_rng(seed), (factor, factor))
    if window is None:
        assert seen is sample
        return
    x0, y0, x1, y1 = window
    np.testing.assert_array_equal(seen.image, sample.image[y0:y1, x0:x1])
    assert seen.image.flags.c_contiguous
    assert same_objects(seen.objects, crop_objects(sample.objects, window))
    if sample.mask is not None:
        np.testing.assert_array_equal(seen.mask, sample.mask[y0:y1, x0:x1])
        assert seen.mask.flags.c_contiguous
        assert seen.mask.sum() >= 0.3 * sample.mask.sum()
        np.testing.assert_array_equal(seen.mask, seen.objects.masks[0])
    if sample.box_xyxy is not None:
        bx0, by0, bx1, by1 = sample.box_xyxy.tolist()
        wanted = [max(bx0, x0), max(by0, y0), min(bx1, x1), min(by1, y1)]
        assert seen.box_xyxy.tolist() == [n - d for n, d in zip(wanted, (x0, y0) * 2, strict=True)]
        assert seen.box_xyxy.dtype == np.float32
        np.testing.assert_array_equal(seen.box_xyxy, seen.objects.boxes_xyxy[0])
        assert seen.box_xyxy[2] > seen.box_xyxy[0]
        assert seen.box_xyxy[3] > seen.box_xyxy[1]
    assert (seen.text, seen.key, seen.parts, seen.empty) == (
        sample.text, sample.key, sample.parts, sample.empty
    )  # fmt: skip


@settings(max_examples=150)
@given(samples(), st.floats(0.2, 0.99), st.integers(0, 10**6))
def test_smaller_is_the_corner_of_a_canvas(sample: Sample, factor: float, seed: int) -> None:
    height, width, channels = sample.image.shape
    seen = large_scale_jitter(sample, np.random.default_rng(seed), (factor, factor))
    assert seen.image.shape == (round(height / factor), round(width / factor), channels)
    assert seen.image.dtype == np.uint8
    for y in range(seen.image.shape[0]):
        for x in range(seen.image.shape[1]):
            inside = y < height and x < width
            wanted = sample.image[y, x].tolist() if inside else list(PADDING_RGB[:channels])
            assert seen.image[y, x].tolist() == wanted
            for before, after in zip(
                [sample.mask, *sample.objects.masks], [seen.mask, *seen.objects.masks], strict=True
            ):
                assert (before is None) == (after is None)
                if after is not None:
                    assert after[y, x] == (inside and before[y, x])
    assert seen.box_xyxy is sample.box_xyxy
    assert seen.objects.boxes_xyxy is sample.objects.boxes_xyxy


@given(samples(), st.integers(0, 10**6))
def test_in_the_papers_range_nothing_is_dropped_and_the_seed_decides(
    sample: Sample, seed: int
) -> None:
    config = AugmentConfig(scale=PAPER)
    one, other = (config.apply(sample, np.random.default_rng(seed)) for _ in range(2))
    assert one is not None
    np.testing.assert_array_equal(one.image, other.image)
    if one.mask is not None and one.box_xyxy is not None:
        assert one.mask.any()
        x0, y0, x1, y1 = tight(one.mask)
        assert one.box_xyxy[0] <= x0 < x1 <= one.box_xyxy[2]
        assert one.box_xyxy[1] <= y0 < y1 <= one.box_xyxy[3]
        assert one.mask.shape == one.image.shape[:2]


def test_a_referent_that_no_window_holds_is_left_as_it_is() -> None:
    whole = made((30, 30), (0, 0, 30, 30), "box")
    for factor, changed in ((1.5, True), (1.8, True), (2.0, False), (5.0, False)):
        seen = large_scale_jitter(whole, np.random.default_rng(0), (factor, factor))
        assert (seen is not whole) == changed, factor  # the windows hold 4/9, .32, 1/4 and 1/25


def test_each_level_is_tried_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, real = [], large_scale._draw
    monkeypatch.setattr(large_scale, "_draw", lambda *args: draws.append(1) or real(*args))
    whole = made((100, 100), (0, 0, 100, 100), "box")
    for side, levels in ((95, 1), (92, 2), (85, 3), (80, 4), (75, 5), (60, 5), (20, 5)):
        draws.clear()
        found = find_window(whole, np.random.default_rng(0), (side, side))
        assert len(draws) == levels, side
        assert (found is not None) == (side**2 >= 3000)


def test_the_mask_decides_and_not_the_box() -> None:
    sample = made((40, 40), (0, 0, 40, 40))
    small = np.zeros((40, 40), bool)
    small[30:34, 30:34] = True
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seen = large_scale_jitter(replace(sample, mask=small), rng, (4.0, 4.0))
        assert seen.image.shape[:2] == (10, 10)
        assert seen.mask.sum() >= 0.5 * small.sum()
        assert seen.box_xyxy.tolist() == [0, 0, 10, 10]  # the window is all inside the box


def test_no_window_takes_the_box_away() -> None:
    """Where mask and box contradict one another, a window on the mask alone has no box."""
    sample = made((40, 40), (0, 0, 4, 4))
    far = np.zeros((40, 40), bool)
    far[36:, 36:] = True
    rng = np.random.default_rng(0)
    assert large_scale_jitter(replace(sample, mask=far), rng, (4.0, 4.0)).box_xyxy.tolist() == [
        0, 0, 4, 4
    ]  # fmt: skip
    flat = replace(sample, mask=far, box_xyxy=np.zeros(4, np.float32))  # nothing to take away
    assert large_scale_jitter(flat, rng, (4.0, 4.0)).mask.shape == (10, 10)


@pytest.mark.parametrize("labels", ["mask", "box"])
def test_what_means_nothing_may_be_cut_anywhere(labels: str) -> None:
    mask = np.zeros((20, 20), bool) if labels == "mask" else None
    nothing = replace(made((20, 20), (2, 2, 5, 5), "none"), empty=True, mask=mask)
    corners = set()
    for seed in range(40):
        seen = large_scale_jitter(nothing, np.random.default_rng(seed), (2.0, 2.0))
        assert seen.image.shape == (10, 10, 3)
        assert seen.empty
        assert seen.box_xyxy is None
        corners.add(seen.image.tobytes())
    assert len(corners) > 30


def test_a_mask_without_a_pixel_leaves_the_word_to_the_box() -> None:
    sample = made((20, 20), (0, 0, 4, 4))
    bare = replace(sample, mask=np.zeros((20, 20), bool))
    for seed in range(20):
        boxed, seen = (
            large_scale_jitter(one, np.random.default_rng(seed), (2.0, 2.0))
            for one in (replace(sample, mask=None), bare)
        )
        np.testing.assert_array_equal(seen.image, boxed.image)
        assert not seen.mask.any()


def test_places_are_drawn_uniformly() -> None:
    """A referent of one pixel in the middle is anywhere in its window, equally often."""
    sample = replace(made((15, 15), (7, 7, 8, 8), "mask"), objects=None)
    rng, counts = np.random.default_rng(0), np.zeros((8, 8))
    for _ in range(1600):
        counts += large_scale_jitter(sample, rng, (1.9, 1.9)).mask
    assert counts.sum() == 1600
    assert counts.min() > 8  # 25 on average
    assert counts.max() < 50


def test_factors_are_drawn_uniformly() -> None:
    sample = made((100, 100), (45, 45, 55, 55))
    sides = [
        large_scale_jitter(sample, np.random.default_rng(seed), (0.5, 1.5)).image.shape[0]
        for seed in range(1000)
    ]
    factors = 100 / np.array(sides)
    assert abs(np.mean(factors) - 1) < 0.05
    assert np.histogram(factors, 5, (0.49, 1.51))[0].min() > 150


@pytest.mark.parametrize("hw", [(4, MAX_SIDE // 2), (4, MAX_SIDE), (8000, 10_000), (1, 1)])
def test_no_canvas_is_larger_than_an_image_may_be(
    hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []
    monkeypatch.setattr(large_scale, "pad", lambda sample, hw: wanted.append(hw) or sample)
    sample = replace(made((1, 1), (0, 0, 1, 1)), image=np.empty((*hw, 0), np.uint8))
    large_scale_jitter(sample, np.random.default_rng(0), (0.001, 0.001))
    height, width = wanted[0] if wanted else hw
    assert max(height, width) <= MAX_SIDE
    assert height * width <= MAX_PIXELS * 1.001
    assert height / width == pytest.approx(hw[0] / hw[1], rel=0.2)
    assert bool(wanted) == (hw != (4, MAX_SIDE))


def test_an_image_of_the_largest_size_is_not_cut_instead() -> None:
    beyond = replace(made((1, 1), (0, 0, 1, 1)), image=np.empty((2, MAX_SIDE + 9, 0), np.uint8))
    assert large_scale_jitter(beyond, np.random.default_rng(0), (0.5, 0.5)) is beyond


def test_nothing_is_changed_in_place() -> None:
    sample = made((20, 30), (5, 4, 12, 9))
    arrays = (sample.image, sample.mask, sample.box_xyxy, *sample.objects.masks[:2])
    kept = [array.copy() for array in arrays]
    for factor in (0.5, 1.5):
        seen = large_scale_jitter(sample, np.random.default_rng(0), (factor, factor))
        seen.image[:] = 7
        seen.mask[:] = True
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_padding_is_zero_for_the_network() -> None:
    """Mean colour, whatever was done to the light before: the scale is the last step."""
    config = AugmentConfig(flip=1, jitter=0.9, scale=(0.5, 0.5))
    sample = made((10, 10), (2, 2, 5, 5))
    for seed in range(5):
        seen = config.apply(sample, np.random.default_rng(seed))
        assert (seen.image[10:] == PADDING_RGB).all()
        assert (seen.image[:10, 10:] == PADDING_RGB).all()
        assert tight(seen.mask) == seen.box_xyxy.tolist() == [5, 2, 8, 5]


def test_other_draws_stay_what_they_were() -> None:
    sample = made((20, 20), (8, 8, 12, 12))
    for seed in range(20):
        plain, scaled = (
            AugmentConfig(flip=0.5, crop=0.5, scale=scale).apply(
                sample, np.random.default_rng(seed)
            )
            for scale in (None, (1.0, 1.0))
        )
        np.testing.assert_array_equal(plain.image, scaled.image)


def test_the_setting_is_checked_and_known() -> None:
    assert AugmentConfig().scale is None
    assert AugmentConfig().idle
    config = AugmentConfig.model_validate({"scale": [0.3, 1.4]})
    assert config.scale == PAPER
    assert not config.idle
    assert AugmentConfig.model_validate_json(config.model_dump_json()) == config
    for wrong in ([1.4, 0.3], [0, 1], [-1, 1], [0.3], [0.3, float("inf")], [0.3, float("nan")], 1):
        with pytest.raises(ValidationError):
            AugmentConfig.model_validate({"scale": wrong})


@pytest.mark.parametrize("pixels", [True, False])
def test_a_data_set_goes_through_it(tmp_path: Path, pixels: bool) -> None:
    folder = make_refer_tree(tmp_path)
    few = Labels(frozenset({"mask", "box"}), frozenset({5}))
    for labels, objects in ((ALL_LABELS, True), (few, False), (Labels(), False)):
        data = open_data(folder, "all", labels, objects=objects, pixels=pixels)
        for index, sample in enumerate(data):
            seen = AugmentConfig(scale=PAPER).apply(sample, np.random.default_rng(index))
            assert (seen.mask is None) == (sample.mask is None)
            assert seen.mask is None or seen.mask.shape == seen.image.shape[:2]
            assert (seen.box_xyxy is None) == (sample.box_xyxy is None)
            assert (seen.empty, seen.target) == (sample.empty, sample.target)
            PreprocessConfig(size=24).apply(seen.image)


def test_padding_keeps_what_is_unknown() -> None:
    bare = Objects(np.arange(2))
    sample = replace(made((4, 5), (1, 1, 3, 3), "none"), objects=bare)
    assert pad(sample, (6, 7)).objects is bare
    assert pad(replace(sample, objects=None), (6, 7)).objects is None
