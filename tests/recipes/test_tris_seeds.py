"""What edges are learned from: pictures at their own scale, and seeds that move with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refseg.data.transforms import PreprocessConfig
from refseg.methods.tris.seeds import BACKGROUND, FOREGROUND, IGNORE, SeedConfig, on_grid
from refseg.ops import crf
from refseg.recipes import tris_seeds
from refseg.recipes.tris_seeds import (
    SCALES,
    EdgeBatches,
    KeptSeeds,
    in_unit,
    placing,
    smoother,
)
from refseg.recipes.tris_select import Selected

NET = 32  # px of the network that maps are of: neither the pictures' size nor their shape
HW = (48, 64)
CROP = 96
GREY = (124, 116, 104)


class Pictures:
    """Ref 5 is a white square on black, in pictures of 48 x 64 px."""

    def entry(self, row: int) -> SimpleNamespace:
        return SimpleNamespace(image_row=row, ref_id=5)

    def image(self, row: int) -> np.ndarray:
        picture = np.zeros((*HW, 3), np.uint8)
        picture[12:36, 32:56] = 255
        return picture


def kept(folder: Path) -> KeptSeeds:
    """The response is positive on the square and strongest in its middle."""
    maps = np.full((1, 16, 16), -1.0, np.float32)
    maps[0, 4:12, 8:14] = 1.0
    selected = Selected(maps, [5], [0], [1.0])
    return KeptSeeds(selected, PreprocessConfig(size=NET), SeedConfig(), "none", folder)


def batches(folder: Path, **changes: object) -> EdgeBatches:
    made = EdgeBatches(Pictures(), kept(folder), range(20), CROP, GREY)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


# -- where pictures lie ------------------------------------------------------------------------


def test_a_plain_picture_is_copied_pixel_by_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
    own = Pictures()
    own.image = lambda row: picture  # type: ignore[method-assign]
    for crop in (CROP, 40):  # larger than the picture, and smaller
        batch = batches(tmp_path, dataset=own, plain=True, crop=crop)([0], 3)
        assert batch.images.shape == (1, 3, crop, crop)
        expected = torch.zeros(3, crop, crop)
        for y in range(crop):
            for x in range(crop):
                there = y < HW[0] and x < HW[1]
                pixel = picture[y, x] if there else np.array(GREY)
                expected[:, y, x] = torch.tensor(pixel.tolist()) / 255
        assert torch.equal(batch.images[0], expected)
        assert set(batch.labels.unique().tolist()) == {IGNORE}
    assert not list(tmp_path.iterdir())


def test_a_picture_keeps_its_shape_and_the_scale_of_its_pixels() -> None:
    """Whatever the network of the maps is: 48 x 64 px would be 32 x 32 to it."""
    rng, factors, mirrored = np.random.default_rng(0), [], 0
    for _ in range(300):
        placed = placing(HW, CROP, rng)
        assert placed[0, 1] == placed[1, 0] == 0
        assert abs(placed[0, 0]) == pytest.approx(placed[1, 1])
        mirrored += placed[0, 0] < 0
        factors.append(placed[1, 1])
        for axis, side in enumerate(HW[::-1]):
            # Edges of the picture lie half a pixel around the centres of its outer pixels.
            ends = placed[axis, axis] * np.array([-0.5, side - 0.5]) + placed[axis, 2] + 0.5
            low, high = sorted(ends)
            assert high - low == pytest.approx(factors[-1] * side)
            if high - low >= CROP:
                assert low <= 1e-9
                assert high >= CROP - 1e-9
            else:
                assert low >= -1e-9
                assert high <= CROP + 1e-9
    assert SCALES[0] <= min(factors) < 0.6
    assert 1.4 < max(factors) <= SCALES[1]
    assert 100 < mirrored < 200
    assert np.array_equal(placing(HW, CROP, None), [[1, 0, 0], [0, 1, 0]])


def test_a_square_picture_of_the_crops_size_lies_where_irnets_would() -> None:
    """By the formula of a picture [S, S] in a square of S: its place is drawn of S - factor S."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        factor, places, flip = rng.uniform(*SCALES), rng.random(2), rng.random() < 0.5
        left, top = places * 128 * (1 - factor)
        placed = placing((128, 128), 128, np.random.default_rng(seed))
        for x, y in ((0, 0), (17, 90), (127, 127)):
            centre = (x + 0.5) * factor + left
            expected = (128 - centre if flip else centre) - 0.5, (y + 0.5) * factor + top - 0.5
            assert placed @ [x, y, 1] == pytest.approx(expected)


def test_seeds_move_with_the_picture(tmp_path: Path) -> None:
    """Whatever is drawn, what is surely foreground lies where the picture is white."""
    made = batches(tmp_path)
    seen = 0
    for epoch in range(3):
        batch = made(list(range(20)), epoch)
        grid = batch.images.mean(dim=1)[:, 2::4, 2::4]
        inside = batch.labels == FOREGROUND
        seen += int(inside.sum())
        wrong = (inside & (grid < 0.5)).sum() / inside.sum()
        assert float(wrong) < 0.1
        # What lies outside of the picture has the colour of nothing and no label.
        outside = (batch.images[:, :, 2::4, 2::4] * 255 - torch.tensor(GREY).view(3, 1, 1)).abs()
        beyond = (outside < 0.01).all(dim=1)
        assert beyond.any()
        assert (batch.labels[beyond] == IGNORE).all()
    assert seen > 100


def test_draws_differ_by_epoch_and_index_and_repeat(tmp_path: Path) -> None:
    made = batches(tmp_path)
    one, other, again = made([0, 1], 0), made([0, 1], 1), made([0, 1], 0)
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.images[0], one.images[1])


def test_pixels_in_unit_are_their_loop() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    found = in_unit(pictures)
    assert found.is_contiguous()
    for place in np.ndindex(2, 3, 4, 3):
        b, y, x, c = place
        assert float(found[b, c, y, x]) == pytest.approx(int(pictures[place]) / 255)


# -- seeds that are kept -----------------------------------------------------------------------


def test_seeds_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = tris_seeds.seeds

    def counted(*args: object) -> np.ndarray:
        made.append(1)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tris_seeds, "seeds", counted)
    picture = Pictures().image(0)
    first = kept(tmp_path / "seeds")(5, picture)
    assert first.dtype == np.uint8
    assert first.shape == HW
    assert set(np.unique(first)) == {BACKGROUND, FOREGROUND, IGNORE}
    again = kept(tmp_path / "seeds")(5, picture)  # another worker's, or a later start's
    assert np.array_equal(first, again)
    assert len(made) == 1
    (path,) = (tmp_path / "seeds").iterdir()
    assert path.name == "5.png"
    assert path.stat().st_size < 1000
    path.write_bytes(b"no picture")
    assert np.array_equal(kept(tmp_path / "seeds")(5, picture), first)
    assert len(made) == 2


def test_kept_seeds_teach_the_same(tmp_path: Path) -> None:
    made = batches(tmp_path / "one")
    first, second = made([3, 4], 1), made([3, 4], 1)  # made, then read
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.labels, batches(tmp_path / "two")([3, 4], 1).labels)


@pytest.mark.parametrize("hw", [(1, 1), (5, 7), (3, 40)])
@pytest.mark.parametrize("how", ["none", "lattice"])
def test_tiny_grey_pictures_have_seeds(hw: tuple[int, int], how: crf.How, tmp_path: Path) -> None:
    made = replace(kept(tmp_path), smooth=how)
    grey = np.random.default_rng(0).integers(0, 256, hw, np.uint8)
    found = made(5, np.repeat(grey[..., None], 3, axis=2))
    assert found.shape == hw
    assert set(np.unique(found)) <= {BACKGROUND, FOREGROUND, IGNORE}
    assert on_grid(found).shape == (-(-hw[0] // 4), -(-hw[1] // 4))


def test_smoothing_keeps_to_the_outlines_or_does_nothing() -> None:
    picture = Pictures().image(0)
    rough = np.zeros(HW, bool)
    rough[10:38, 30:58] = True
    assert smoother("none")(picture, rough) is rough
    smooth = smoother("lattice")(picture, rough)
    assert smooth.dtype == np.bool_
    truth = picture[..., 0] > 0
    assert (smooth != truth).mean() < (rough != truth).mean()
