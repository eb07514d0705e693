"""Regions that a person points out, and the files and numbers that tell of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.describe import parse_box
from refseg.region import read_mask, read_region

HW = (48, 80)
BOX = (5, 10, 35, 40)  # x0 y0 x1 y1


def boxed(box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.zeros(HW, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_box_may_stick_out_by_a_pixel() -> None:
    region = read_region((-1.0, -0.5, 81.0, 20.4), HW)
    np.testing.assert_array_equal(region.box_xyxy, np.array([0, 0, 80, 20.4], np.float32))
    np.testing.assert_array_equal(region.mask, boxed((0, 0, 80, 20)))


def test_only_a_region_given_as_a_mask_has_one() -> None:
    for region, is_box in ((BOX, True), (boxed(BOX), False)):
        found = read_region(region, HW)
        assert found.is_box == is_box
        np.testing.assert_array_equal(found.mask, boxed(BOX))
        np.testing.assert_array_equal(found.box_xyxy, BOX)
        own = found.picture().objects
        assert own is not None
        assert (own.masks is None) == is_box
        np.testing.assert_array_equal(own.boxes_xyxy, [BOX])


def test_boxes_are_told_by_corner_and_size() -> None:
    assert parse_box(" 5, 10 ,30,30.5") == (5, 10, 35, 40.5)


@pytest.mark.parametrize("kind", ["bool", "one", "white", "palette", "rgba", "bmp"])
def test_masks_are_read_whatever_their_kind(tmp_path: Path, kind: str) -> None:
    mask, path = boxed(BOX), tmp_path / ("mask.bmp" if kind == "bmp" else "mask.png")
    level = mask.astype(np.uint8) * (1 if kind in ("one", "palette") else 255)
    picture = Image.fromarray(mask if kind == "bool" else level)
    if kind == "palette":
        picture.putpalette([0, 0, 0, 9, 200, 3])
    if kind == "rgba":  # GIMP keeps an alpha channel; it says nothing
        picture = Image.fromarray(np.dstack([level] * 3 + [np.full_like(level, 255)]))
    picture.save(path)
    np.testing.assert_array_equal(read_mask(path, HW), mask)
