"""Places of an image by MaskCLIP's rule, against one place after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import ConfigError, ModelError
from refseg.nn.clip import ClipVision
from refseg.nn.clip_dense import cosines, look
from refseg.nn.clip_resnet import ClipResNet
from tests.nn.clip_toys import pair

EPS = 1e-5


def vit() -> ClipVision:
    """16 px, patches of 8."""
    vision = pair("vit").vision
    assert isinstance(vision, ClipVision)
    return vision


def linear(layer: Any, x: Tensor) -> Tensor:
    return layer.weight @ x if layer.bias is None else layer.weight @ x + layer.bias


def norm(layer: Any, x: Tensor) -> Tensor:
    spread = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / (spread + EPS).sqrt() * layer.weight + layer.bias


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def states_before_the_last_block(vision: ClipVision, image: Tensor) -> list[Tensor]:
    """Of each patch: the tower without its last block is a tower of one block less."""
    inside = vision.clip
    layers = inside.encoder.layers
    inside.encoder.layers = layers[:-1]
    try:
        found: Tensor = inside(pixel_values=image[None]).last_hidden_state[0]
    finally:
        inside.encoder.layers = layers
    return list(found[1:])


@torch.no_grad()
@pytest.mark.parametrize("residual", [False, True])
def test_a_vits_places_one_by_one(residual: bool) -> None:
    vision = vit()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    places, whole = look(vision, images, residual=residual)
    assert places.shape == (2, 6, 2, 2)
    block = vision.clip.encoder.layers[-1]
    for index, image in enumerate(images):
        for number, state in enumerate(states_before_the_last_block(vision, image)):
            value = linear(block.self_attn.v_proj, norm(block.layer_norm1, state))
            value = linear(block.self_attn.out_proj, value)
            if residual:
                value = value + state
                inner = quick_gelu(linear(block.mlp.fc1, norm(block.layer_norm2, value)))
                value = value + linear(block.mlp.fc2, inner)
            expected = linear(vision.projection, norm(vision.clip.post_layernorm, value))
            found = places[index, :, number // 2, number % 2]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(whole, vision(images)), "the whole is what the tower gives by itself"


@torch.no_grad()
def test_a_place_hears_no_other_in_the_last_block_alone() -> None:
    """What is left of the other patches came through the blocks before: with one block, nothing."""
    vision = vit()
    vision.clip.encoder.layers = vision.clip.encoder.layers[-1:]
    images = torch.randn(1, 3, 16, 16)
    other = images.clone()
    other[..., 8:, 8:] += 1
    before, after = (look(vision, one)[0][0] for one in (images, other))
    assert torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(before[:, 1, 0], after[:, 1, 0])
    assert not torch.isclose(before[:, 1, 1], after[:, 1, 1]).all()


@torch.no_grad()
def test_a_vit_sees_other_sizes() -> None:
    vision = vit()
    places, whole = look(vision, torch.randn(1, 3, 40, 24))
    assert places.shape == (1, 6, 5, 3)
    assert whole.shape == (1, 6)
    with pytest.raises(ConfigError, match="smaller than a patch of 8") as caught:
        look(vision, torch.randn(1, 3, 4, 40))
    assert "preprocess.size=16" in caught.value.remedy


@torch.no_grad()
def test_a_resnets_places_one_by_one() -> None:
    vision: Any = pair("resnet").vision
    images = torch.randn(2, 3, 64, 96)
    places, whole = look(vision, images, residual=True)
    last = vision(images)[-1]
    assert places.shape == (2, 6, *last.shape[2:])
    for index in range(2):
        for y in range(last.shape[2]):
            for x in range(last.shape[3]):
                value = linear(vision.attnpool.v_proj, last[index, :, y, x])
                expected = linear(vision.attnpool.c_proj, value)
                torch.testing.assert_close(places[index, :, y, x], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(whole, vision.pooled(last))


def test_without_a_pool_there_are_no_places() -> None:
    config: Any = pair("resnet").config.vision
    bare = ClipResNet(config.model_copy(update={"pool": False})).eval()
    with pytest.raises(ModelError, match="no attention pool"):
        look(bare, torch.randn(1, 3, 64, 64))


def test_each_text_is_compared_with_its_own_image() -> None:
    torch.manual_seed(0)
    places = F.normalize(torch.randn(2, 5, 3, 4), dim=1)
    texts = F.normalize(torch.randn(3, 5), dim=-1)
    image_of = torch.tensor([1, 0, 1])
    found = cosines(places, texts, image_of)
    for b, image in enumerate(image_of.tolist()):
        for y in range(3):
            for x in range(4):
                dot = sum(float(places[image, e, y, x] * texts[b, e]) for e in range(5))
                assert float(found[b, y, x]) == pytest.approx(dot, abs=1e-6)
