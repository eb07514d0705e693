"""Objects of an image go with it when it is mirrored, cut or coloured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.data.objects import crop_objects, flip_objects, same_objects
from refseg.data.transforms import AugmentConfig, crop, flip, jitter
from refseg.types import Objects, Sample


@st.composite
def drawn(draw: st.DrawFn) -> Sample:
    """A picture with a few filled boxes as its objects, each box the tight one of its mask."""
    height, width = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    boxes, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        boxes.append([x0, y0, x1, y1])
        masks.append(np.zeros((height, width), bool))
        masks[-1][y0:y1, x0:x1] = True
    target = draw(st.integers(0, len(boxes) - 1))
    objects = Objects(
        np.arange(len(boxes)), ("thing",) * len(boxes), np.array(boxes, np.float32), tuple(masks)
    )
    image = np.zeros((height, width, draw(st.sampled_from([0, 3]))), np.uint8)
    return Sample(
        "k", image, "left one", 1, 2, 3, mask=masks[target], box_xyxy=objects.boxes_xyxy[target],
        empty=False, parts=1, objects=objects, target=target,
    )  # fmt: skip


def tight(mask: np.ndarray) -> list[float]:
    """The box of a mask by a look at every pixel; NaN without one."""
    found = [(x, y) for y, row in enumerate(mask) for x, pixel in enumerate(row) if pixel]
    if not found:
        return [np.nan] * 4
    xs, ys = zip(*found, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def assert_fits(sample: Sample) -> None:
    """Boxes go with masks, and the target is still the referent."""
    objects = sample.objects
    assert objects.boxes_xyxy.dtype == np.float32
    for box, mask in zip(objects.boxes_xyxy, objects.masks, strict=True):
        assert mask.shape == sample.image.shape[:2]
        assert mask.flags.c_contiguous
        np.testing.assert_array_equal(box, tight(mask))
    assert np.array_equal(objects.masks[sample.target], sample.mask)
    np.testing.assert_array_equal(objects.boxes_xyxy[sample.target], sample.box_xyxy)


@given(drawn())
def test_a_mirror_turns_the_objects_too(made: Sample) -> None:
    turned = flip(made)
    assert_fits(turned)
    for before, after in zip(made.objects.masks, turned.objects.masks, strict=True):
        assert [row[::-1] for row in before.tolist()] == after.tolist()
    assert turned.text == "right one"
    assert same_objects(flip(turned).objects, made.objects)


@given(drawn(), st.data())
def test_a_crop_cuts_the_objects_and_leaves_none_out(made: Sample, data: st.DataObject) -> None:
    height, width = made.image.shape[:2]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    cut = crop(made, (x0, y0, x1, y1))
    if cut is not None:
        assert_fits(cut)
        assert cut.target == made.target
    objects = crop_objects(made.objects, (x0, y0, x1, y1))
    assert objects.ann_ids.tolist() == made.objects.ann_ids.tolist()
    assert objects.categories == made.objects.categories
    for before, after, box in zip(
        made.objects.masks, objects.masks, objects.boxes_xyxy, strict=True
    ):
        assert after.tolist() == before[y0:y1, x0:x1].tolist()
        np.testing.assert_array_equal(box, tight(after))


def test_augmentation_keeps_what_is_unknown() -> None:
    bare = Objects(np.arange(2))
    partly = Objects(np.arange(2), None, np.full((2, 4), np.nan, np.float32), (None, None))
    for change in (lambda o: flip_objects(o, 9), lambda o: crop_objects(o, (0, 0, 4, 4))):
        assert same_objects(change(bare), bare)
        assert same_objects(change(partly), partly)


@pytest.mark.filterwarnings("error")
def test_there_is_no_light_to_change_without_pixels() -> None:
    blind = Sample("k", np.empty((4, 5, 0), np.uint8), "one", 1, 2, 3)
    assert jitter(blind, np.random.default_rng(0), 0.5).image.shape == (4, 5, 0)


def test_an_idle_augmentation_says_so() -> None:
    assert AugmentConfig().idle
    for name in ("flip", "crop", "jitter"):
        assert not AugmentConfig.model_validate({name: 0.1}).idle
