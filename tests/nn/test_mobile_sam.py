"""MobileSAM: the image's way in, boxes, masks at the image's size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from refseg.errors import DataError, ImageError, ModelError
from refseg.nn import mobile_sam
from refseg.nn.mobile_sam import (
    NOWHERE,
    BoxMasks,
    Embedded,
    MobileSam,
    MobileSamConfig,
    upsampled,
)
from refseg.nn.tiny_vit import TinyVitConfig
from refseg.ops.images import corner_geometry
from tests.nn.sam_toys import TOY, toy

SIZES = [(64, 64), (48, 64), (33, 70), (7, 5), (1, 1), (1, 500), (400, 2), (130, 61)]


def noise(hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def random_boxes(count: int, hw: tuple[int, int], seed: int = 0) -> NDArray[np.float64]:
    corners = np.random.default_rng(seed).random((count, 2, 2)) * [hw[1], hw[0]]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


# -- the way in ------------------------------------------------------------------------------------


class Keeper(nn.Module):
    """Stands for the encoder and keeps what it was given."""

    def forward(self, images: Tensor) -> Tensor:
        self.images = images.clone()
        return torch.zeros(1, 16, 4, 4)


@pytest.mark.parametrize("hw", SIZES)
def test_an_image_lies_normalised_at_the_upper_left(hw: tuple[int, int]) -> None:
    model, keeper = toy(), Keeper()
    model.encoder = keeper  # type: ignore[assignment]
    image = noise(hw)
    geometry = model.encode(image).geometry
    long = max(hw)
    height, width = (max(math.floor(side * (64 / long) + 0.5), 1) for side in hw)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = np.zeros((3, 64, 64))
    for channel, (mean, std) in enumerate(
        zip((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), strict=True)
    ):
        expected[channel, :height, :width] = (small[..., channel] - mean) / std
    np.testing.assert_allclose(keeper.images[0].numpy(), expected, atol=1e-5)
    assert geometry.original_hw == hw
    assert geometry.net_hw == (64, 64)
    assert geometry.scale_xy == (width / hw[1], height / hw[0])
    assert geometry.offset_xy == (0, 0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_no_images(image: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match="is no RGB image"):
        toy().encode(image)


def test_views_are_images_too() -> None:
    model, image = toy(), noise((20, 30))
    expected = model.encode(np.ascontiguousarray(image[::2, ::-1])).embedding
    assert torch.equal(model.encode(image[::2, ::-1]).embedding, expected)


def test_frozen_yet_its_answers_are_ordinary_tensors() -> None:
    model = toy().train()
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    embedded = model.encode(noise((9, 9)))
    found = model.masks(embedded, random_boxes(2, (9, 9)))
    for tensor in (embedded.embedding, found.logits):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    weight = torch.ones(16, requires_grad=True)
    (embedded.embedding * weight[:, None, None]).sum().backward()
    assert weight.grad is not None


# -- boxes -----------------------------------------------------------------------------------------


def long_way(model: MobileSam, embedded: Embedded, box: list[float]) -> tuple[Tensor, float]:
    """One box: position codes in loops, then transformers' own decoder."""
    matrix = model.prompt_encoder.shared_embedding.positional_embedding
    side = embedded.embedding.shape[-1]

    def code(x: float, y: float) -> Tensor:
        angles = 2 * math.pi * (torch.tensor([2 * x - 1, 2 * y - 1]) @ matrix)
        return torch.cat([angles.sin(), angles.cos()])

    places = torch.empty(1, 16, side, side)
    for row in range(side):
        for column in range(side):
            places[0, :, row, column] = code((column + 0.5) / side, (row + 0.5) / side)
    scale, net = embedded.geometry.scale_xy, model.config.side
    x0, y0, x1, y1 = (value * scale[axis % 2] for axis, value in enumerate(box))
    near = code((x0 + 0.5) / net, (y0 + 0.5) / net) + model.prompt_encoder.point_embed[2].weight[0]
    far = code((x1 + 0.5) / net, (y1 + 0.5) / net) + model.prompt_encoder.point_embed[3].weight[0]
    logits, iou = model.mask_decoder(
        image_embeddings=embedded.embedding,
        image_positional_embeddings=places,
        sparse_prompt_embeddings=torch.stack([near, far])[None, None],
        dense_prompt_embeddings=model.prompt_encoder.no_mask_embed.weight[:, :, None, None],
        multimask_output=False,
    )[:2]
    return logits[0, 0, 0], float(iou[0, 0, 0])


@pytest.mark.parametrize("hw", [(64, 64), (30, 70), (5, 3)])
def test_boxes_are_answered_as_sam_does(hw: tuple[int, int]) -> None:
    model = toy()
    embedded = model.encode(noise(hw))
    boxes = random_boxes(5, hw)
    found = model.masks(embedded, boxes, at_once=2)
    assert found.logits.shape == (5, 16, 16)
    assert found.iou.dtype == np.float32
    for index, box in enumerate(boxes.tolist()):
        logits, iou = long_way(model, embedded, box)
        torch.testing.assert_close(found.logits[index], logits, atol=1e-3, rtol=1e-3)
        assert found.iou[index] == pytest.approx(iou, abs=1e-4)
    assert (found.logits[0] - found.logits[1]).abs().max() > 0.01  # boxes matter


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_how_many_at_once_does_not_matter(at_once: int) -> None:
    model = toy(1)
    embedded = model.encode(noise((40, 50)))
    boxes = random_boxes(7, (40, 50))
    found = model.masks(embedded, boxes, at_once=at_once)
    for index in range(7):
        alone = model.masks(embedded, boxes[index : index + 1])
        torch.testing.assert_close(found.logits[index], alone.logits[0], atol=1e-4, rtol=1e-4)
        assert found.iou[index] == pytest.approx(alone.iou[0], abs=1e-5)


@pytest.mark.parametrize("none", [np.empty((0, 4)), np.empty((0, 4), np.float32), np.array([])])
def test_no_boxes_no_masks(none: NDArray[Any]) -> None:
    model = toy()
    found = model.masks(model.encode(noise((8, 9))), none)
    assert len(found) == 0
    assert found.logits.shape == (0, 16, 16)
    assert found.iou.shape == (0,)
    assert found.in_px().shape == (0, 8, 9)


def test_boxes_are_cut_at_the_border_and_empty_outside() -> None:
    model = toy()
    embedded = model.encode(noise((20, 30)))
    inside = np.array([[0, 0, 30, 20], [3, 4, 30, 9]])
    beyond = np.array([[-50, -1, 1e6, 25], [3, 4, 44, 9]])
    nowhere = np.array([[30, 2, 50, 9], [-9, 2, 0, 9], [4, 5, 4, 9], [9, 9, 2, 12], [5, 30, 9, 40]])
    expected = model.masks(embedded, inside)
    found = model.masks(embedded, np.concatenate([nowhere[:2], beyond, nowhere[2:]]), at_once=1)
    torch.testing.assert_close(found.logits[2:4], expected.logits)
    np.testing.assert_allclose(found.iou[2:4], expected.iou, atol=1e-6)
    rest = [0, 1, 4, 5, 6]
    assert (found.logits[rest] == NOWHERE).all()
    assert (found.iou[rest] == 0).all()
    assert not found.in_px(rest).any()


@pytest.mark.parametrize(
    "boxes", [np.zeros((2, 5)), np.ones(4), np.array([[0, 0, np.nan, 3]]), np.full((1, 4), np.inf)]
)
def test_other_arrays_are_no_boxes(boxes: NDArray[Any]) -> None:
    model = toy()
    with pytest.raises(DataError, match=r"boxes of shape \("):
        model.masks(model.encode(noise((8, 9))), boxes)


@pytest.mark.parametrize("hw", SIZES)
def test_every_size_of_image_is_answered(hw: tuple[int, int]) -> None:
    model = toy()
    found = model.masks(model.encode(noise(hw)), np.array([[0, 0, hw[1], hw[0]]]))
    assert found.in_px().shape == (1, *hw)
    assert found.logits.isfinite().all()


# -- masks at the image's size ---------------------------------------------------------------------


def whole_way(logits: Tensor, geometry: Any) -> Tensor:
    """Two bilinear resizes of everything at once."""
    height, width = geometry.original_hw
    inner_h, inner_w = round(height * geometry.scale_xy[1]), round(width * geometry.scale_xy[0])
    large = F.interpolate(logits[None, None], geometry.net_hw, mode="bilinear")
    return F.interpolate(large[..., :inner_h, :inner_w], (height, width), mode="bilinear")[0, 0]


@pytest.mark.parametrize("hw", [*SIZES, (300, 200)])
@pytest.mark.parametrize("strip", [200, 1000, 2**22])
def test_strips_are_the_whole(
    hw: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobile_sam, "STRIP_VALUES", strip)
    geometry = corner_geometry(hw, 64)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(hw[0]))
    for one in logits:
        strips = list(upsampled(one, geometry))
        assert all(part.numel() <= max(strip, hw[1], 64) for _, part in strips)
        assert [top for top, _ in strips] == [
            sum(len(part) for _, part in strips[:index]) for index in range(len(strips))
        ]
        joined = torch.cat([part for _, part in strips])
        torch.testing.assert_close(joined, whole_way(one, geometry), atol=1e-5, rtol=1e-5)
    masks = BoxMasks(logits, np.zeros(3, np.float32), geometry)
    expected = torch.stack([whole_way(one, geometry) for one in logits])
    sure = (expected.abs() > 1e-5).numpy()
    assert np.array_equal(masks.in_px() & sure, (expected > 0).numpy() & sure)
    assert np.array_equal(masks.in_px([2, 0]), masks.in_px()[[2, 0]])


def test_a_wrong_size_is_told_early() -> None:
    with pytest.raises(ValidationError, match="side 70 is no multiple of 16"):
        MobileSamConfig(encoder=TinyVitConfig(), side=70)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(toy().state_dict(), tmp_path / "toy.safetensors")
    assert len(MobileSam.load(tmp_path / "toy.safetensors", TOY).state_dict()) > 100
    with pytest.raises(ModelError, match=r"toy\.safetensors"):
        MobileSam.load(tmp_path / "toy.safetensors")
    with pytest.raises(ModelError, match="no weights"):
        MobileSam.load(tmp_path / "nowhere.safetensors")
