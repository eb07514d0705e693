"""What edges are learned from: pictures and seeds that move together."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from refseg.data.transforms import PreprocessConfig
from refseg.methods.tris.seeds import BACKGROUND, FOREGROUND, IGNORE, SeedConfig
from refseg.recipes.tris_edges import SCALES, EdgeBatches, smoother
from refseg.recipes.tris_select import Selected

SIDE = 32


class Pictures:
    """Ref 5 is a white square on black, in pictures of 48 x 64 px."""

    def entry(self, row: int) -> SimpleNamespace:
        return SimpleNamespace(image_row=row, ref_id=5)

    def image(self, row: int) -> np.ndarray:
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[12:36, 32:56] = 255
        return picture


def batches(**changes: object) -> EdgeBatches:
    """The response is positive on the square and strongest in its middle."""
    maps = np.full((1, 16, 16), -1.0, np.float32)
    maps[0, 4:12, 8:14] = 1.0
    selected = Selected(maps, [5], [0], [1.0])
    made = EdgeBatches(
        Pictures(),
        selected,
        range(20),
        PreprocessConfig(size=SIDE),
        SeedConfig(),
        "none",  # type: ignore[arg-type]
    )
    return replace(made, **changes)


def test_plain_pictures_are_those_of_the_network() -> None:
    made = batches(plain=True)
    batch = made([0, 1], 3)
    assert batch.images.shape == (2, 3, SIDE, SIDE)
    assert batch.labels.shape == (2, 8, 8)
    assert torch.equal(batch.images[0], batch.images[1])
    assert set(batch.labels.unique().tolist()) <= {BACKGROUND, FOREGROUND, IGNORE}
    white = batch.images[0].mean(dim=0) > 1  # normalised
    rows, columns = np.nonzero(white.numpy())
    assert abs(rows.mean() - SIDE / 2) < 1
    assert abs(columns.mean() - 0.6875 * SIDE) < 1


def test_seeds_move_with_the_picture() -> None:
    """Whatever is drawn, what is surely foreground lies where the picture is white."""
    made = batches()
    seen = 0
    for epoch in range(3):
        batch = made(list(range(20)), epoch)
        # What lies outside of the picture is no seed: black with a label of its own.
        grid = batch.images.mean(dim=1)[:, 2::4, 2::4]
        inside = batch.labels == FOREGROUND
        seen += int(inside.sum())
        wrong = (inside & (grid < 0)).sum() / inside.sum()
        assert float(wrong) < 0.1
    assert seen > 100


def test_draws_differ_by_epoch_and_index_and_repeat() -> None:
    made = batches()
    one, other, again = made([0, 1], 0), made([0, 1], 1), made([0, 1], 0)
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(one.images[0], one.images[1])


def test_places_are_drawn_within_what_is_shown() -> None:
    made = batches()
    rng, sizes, mirrored = np.random.default_rng(0), [], 0
    for _ in range(200):
        placed = made._place((48, 64), rng)
        width = placed[0, 0] * 64
        mirrored += width < 0
        sizes.append(abs(width) / SIDE)
        left = min(placed[0, 2], placed[0, 2] + width)
        if sizes[-1] >= 1:  # a larger picture covers the net's whole width
            assert left <= 0
            assert left + abs(width) >= SIDE - 1
        else:
            assert left >= -1
            assert left + abs(width) <= SIDE
    assert SCALES[0] <= min(sizes) < 0.6
    assert 1.4 < max(sizes) <= SCALES[1]
    assert 60 < mirrored < 140


def test_smoothing_keeps_to_the_outlines_or_does_nothing() -> None:
    picture = Pictures().image(0)
    rough = np.zeros((48, 64), bool)
    rough[10:38, 30:58] = True
    assert smoother("none")(picture, rough) is rough
    smooth = smoother("lattice")(picture, rough)
    assert smooth.dtype == np.bool_
    truth = picture[..., 0] > 0
    assert (smooth != truth).mean() < (rough != truth).mean()
