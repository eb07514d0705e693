"""From samples to batches: shared pictures, placed labels, nothing that was not granted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.data.collate import collate, normalise, place_mask
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.data.transforms import PreprocessConfig
from refseg.ops.images import letterbox, resize_square
from refseg.ops.masks import response_to_mask
from refseg.types import Batch, Geometry, Sample

SIZE = 16
FITS = {"square": resize_square, "letterbox": letterbox}


@pytest.fixture(scope="module")
def tokens() -> WordTokenizer:
    return train_wordpiece(["left red ball", "the blue cube"], size=120, max_words=10)


def preprocess(fit: str = "square") -> PreprocessConfig:
    return PreprocessConfig.model_validate({"size": SIZE, "fit": fit})


def sample(number: int, hw: tuple[int, int] = (20, 30), image_id: int | None = None) -> Sample:
    height, width = hw
    seed = number if image_id is None else image_id
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    mask = np.zeros(hw, bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    box = np.array([width // 4, height // 4, width // 2, height // 2], np.float32)
    return Sample(
        f"key-{number}",
        image,
        "left red ball" if number % 2 else "the blue cube",
        number if image_id is None else image_id,
        number,
        number,
        mask=mask,
        box_xyxy=box,
        category="ball",
        empty=False,
        parts=1,
        weight=0.5 + number,
    )


def bare(made: Sample) -> Sample:
    return replace(made, mask=None, box_xyxy=None, category=None, empty=None, parts=0)


def test_shapes_types_and_order(tokens: WordTokenizer) -> None:
    samples = [sample(i, hw) for i, hw in enumerate([(20, 30), (7, 5), (16, 16)])]
    batch = collate(samples, tokens, preprocess())
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    assert batch.image_of.tolist() == [0, 1, 2]
    assert batch.image_of.dtype == torch.int64
    assert batch.words.dtype == torch.int64
    assert batch.word_mask.dtype == torch.bool
    assert batch.keys == ("key-0", "key-1", "key-2")
    assert batch.texts == tuple(s.text for s in samples)
    assert batch.weights.tolist() == [0.5, 1.5, 2.5]
    assert batch.weights.dtype == torch.float32
    assert [g.original_hw for g in batch.geometry] == [(20, 30), (7, 5), (16, 16)]
    assert batch.masks is not None
    assert batch.masks.shape == (3, SIZE, SIZE)
    assert batch.masks.dtype == torch.float32
    assert batch.boxes is not None
    assert batch.boxes.shape == (3, 4)
    assert batch.boxes.dtype == torch.float32
    assert batch.categories == ("ball",) * 3
    assert len(batch) == 3


def test_expressions_of_one_picture_share_its_row(tokens: WordTokenizer) -> None:
    samples = [sample(0, image_id=7), sample(1, image_id=9), sample(2, image_id=7)]
    shared = collate(samples, tokens, preprocess(), share_images=True)
    assert shared.images.shape[0] == 2
    assert shared.image_of.tolist() == [0, 1, 0]
    apart = collate(samples, tokens, preprocess())
    assert apart.images.shape[0] == 3
    assert torch.equal(shared.images[shared.image_of], apart.images)
    assert shared.geometry == apart.geometry
    for field in ("words", "word_mask", "weights", "masks", "boxes"):
        assert torch.equal(getattr(shared, field), getattr(apart, field)), field


def test_one_number_for_two_pictures_does_not_mix_them(tokens: WordTokenizer) -> None:
    pair = [replace(sample(0), image_id=0), replace(sample(1, (9, 11)), image_id=0)]
    batch = collate(pair, tokens, preprocess(), share_images=True)
    assert batch.image_of.tolist() == [0, 1]
    assert [g.original_hw for g in batch.geometry] == [(20, 30), (9, 11)]
    copies = [sample(0), replace(sample(0), image=sample(0).image.copy(), key="other")]
    assert collate(copies, tokens, preprocess(), share_images=True).image_of.tolist() == [0, 0]


def test_labels_that_were_not_granted_are_absent(tokens: WordTokenizer) -> None:
    batch = collate([bare(sample(0)), bare(sample(1))], tokens, preprocess())
    assert (batch.masks, batch.has_mask, batch.boxes, batch.categories) == (None,) * 4


def test_masks_for_some(tokens: WordTokenizer) -> None:
    batch = collate([bare(sample(0)), sample(1), bare(sample(2))], tokens, preprocess())
    assert batch.has_mask is not None
    assert batch.masks is not None
    assert batch.boxes is not None
    assert batch.has_mask.tolist() == [False, True, False]
    assert not batch.masks[0].any()
    assert batch.masks[1].any()
    assert torch.isnan(batch.boxes[0]).all(), "an unknown box is no box at the origin"
    assert torch.isfinite(batch.boxes[1]).all()
    assert batch.categories == (None, "ball", None)


def test_an_empty_mask_is_known(tokens: WordTokenizer) -> None:
    nothing = replace(sample(0), mask=np.zeros((20, 30), bool), box_xyxy=None, empty=True)
    batch = collate([nothing], tokens, preprocess())
    assert batch.has_mask is not None
    assert batch.has_mask.tolist() == [True]
    assert batch.boxes is None


def test_normalising_by_hand() -> None:
    image = np.array([[[255, 0, 128]]], np.uint8)[None]
    config = PreprocessConfig(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))
    found = normalise(image, config)
    assert found.shape == (1, 3, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, -0.5, 128 / 255 / 2]))


def test_the_padding_of_a_letterbox_is_about_zero(tokens: WordTokenizer) -> None:
    batch = collate([sample(0, (8, 32))], tokens, preprocess("letterbox"))
    assert batch.images[0, :, 0].abs().max() < 0.02
    assert batch.images[0, :, 8].abs().max() > 0.1


def placed_by_hand(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Each net pixel asks which original pixel lies under its centre."""
    net = np.zeros(geometry.net_hw, np.float32)
    (sx, sy), (ox, oy) = geometry.scale_xy, geometry.offset_xy
    height, width = geometry.original_hw
    for row in range(geometry.net_hw[0]):
        for column in range(geometry.net_hw[1]):
            y, x = (row + 0.5 - oy) / sy, (column + 0.5 - ox) / sx
            if 0 <= y < height and 0 <= x < width:
                net[row, column] = mask[int(y), int(x)]
    return net


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    fit=st.sampled_from(sorted(FITS)),
    seed=st.integers(0, 1000),
)
def test_masks_lie_where_their_pixels_lie(height: int, width: int, fit: str, seed: int) -> None:
    _, geometry = FITS[fit](np.zeros((height, width, 3), np.uint8), (SIZE, SIZE))
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    found = place_mask(mask, geometry)
    assert found.dtype == np.float32
    # A centre exactly between two pixels may fall to either side in floating point.
    assert (found != placed_by_hand(mask, geometry)).mean() <= (0 if _exact(geometry) else 0.1)


def _exact(geometry: Geometry) -> bool:
    return all(SIZE % side == 0 for side in geometry.original_hw) and geometry.offset_xy == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(SIZE, 60),
    width=st.integers(SIZE, 60),
    fit=st.sampled_from(sorted(FITS)),
    data=st.data(),
)
def test_boxes_go_with_their_masks(height: int, width: int, fit: str, data: st.DataObject) -> None:
    """The tight box of the placed mask is the placed box, to one net pixel."""
    x0, y0 = data.draw(st.integers(0, width - 8)), data.draw(st.integers(0, height - 8))
    x1, y1 = data.draw(st.integers(x0 + 8, width)), data.draw(st.integers(y0 + 8, height))
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    made = replace(
        sample(0, (height, width)), mask=mask, box_xyxy=np.array([x0, y0, x1, y1], np.float32)
    )
    batch = collate([made], SHARED, preprocess(fit))
    assert batch.masks is not None
    assert batch.boxes is not None
    ys, xs = torch.nonzero(batch.masks[0], as_tuple=True)
    tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
    assert (tight - batch.boxes[0]).abs().max() <= 1


SHARED = train_wordpiece(["left red ball", "the blue cube"], size=120, max_words=10)


@pytest.mark.parametrize("fit", sorted(FITS))
def test_a_mask_comes_back_from_the_net(fit: str, tokens: WordTokenizer) -> None:
    made = sample(0, (37, 50))
    batch = collate([made], tokens, preprocess(fit))
    assert batch.masks is not None
    assert made.mask is not None
    back = response_to_mask(batch.masks[0].numpy(), batch.geometry[0])
    assert back.shape == made.mask.shape
    both = (back & made.mask).sum() / (back | made.mask).sum()
    assert both > 0.75


def test_a_batch_moves_whole(tokens: WordTokenizer) -> None:
    batch = collate([sample(0), sample(1)], tokens, preprocess())
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    for name in ("images", "image_of", "words", "word_mask", "weights", "masks", "has_mask"):
        assert getattr(moved, name).device.type == "meta", name
    assert moved.geometry == batch.geometry
    assert moved.texts == batch.texts


def test_the_images_as_they_are_come_along_where_they_are_wanted(tokens: WordTokenizer) -> None:
    samples = [sample(0), sample(1, (17, 9)), sample(2, image_id=0)]
    assert collate(samples, tokens, preprocess()).originals is None
    batch = collate(samples, tokens, preprocess(), share_images=True, originals=True)
    assert batch.originals is not None
    assert len(batch.originals) == len(batch.images) == 2, "one for each row of images"
    for row, one in enumerate(samples):
        np.testing.assert_array_equal(batch.originals[batch.image_of[row]], one.image)
    none = [replace(one, image=one.image[..., :0]) for one in samples]
    assert collate(none, tokens, preprocess(), originals=True).originals is None
