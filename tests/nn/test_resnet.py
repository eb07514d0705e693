"""The ResNet adapter: transformers' own maps, any size, a last stage at either stride."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from refseg.errors import ModelError
from refseg.nn.resnet import ResNetPyramid, ResNetVisionConfig
from refseg.nn.weights import load_hub_part

SMALL = {"layers": (1, 2, 1, 2), "width": 4}


def pyramid(seed: int = 0, **changes: Any) -> ResNetPyramid:
    torch.manual_seed(seed)
    made = ResNetPyramid(ResNetVisionConfig.model_validate({**SMALL, **changes})).eval()
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                part.running_mean.normal_(0, 0.5)
                part.weight.uniform_(0.5, 1.5)
    return made


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_it_is_transformers_resnet(bottleneck: bool) -> None:
    made = pyramid(bottleneck=bottleneck)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = made.resnet(images, output_hidden_states=True)
        maps = made(images)
        fewer = made(images, stages=3)
    for found, one in zip(maps, expected.hidden_states[1:], strict=True):
        assert torch.equal(found, one)
    assert torch.equal(maps[-1], expected.last_hidden_state)
    assert len(fewer) == 3
    assert torch.equal(fewer[2], maps[2])
    assert tuple(m.shape[1] for m in maps) == made.channels
    assert made.channels[0] == (16 if bottleneck else 4)


def normed(x: Tensor, norm: Any) -> Tensor:
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_stride_of_the_last_stage_is_in_its_3_x_3(stride: int) -> None:
    """Its first block written out."""
    made = pyramid(last_stride=stride, layers=(1, 1, 1, 1))
    block = made.resnet.encoder.stages[3].layers[0]
    with torch.no_grad():
        *_, x, last = made(torch.randn(1, 3, 64, 64))
        one, two, three = block.layer
        out = normed(F.conv2d(x, one.convolution.weight), one.normalization).relu()
        out = F.conv2d(out, two.convolution.weight, stride=stride, padding=1)
        out = normed(out, two.normalization).relu()
        out = normed(F.conv2d(out, three.convolution.weight), three.normalization)
        short = F.conv2d(x, block.shortcut.convolution.weight, stride=stride)
        out = (out + normed(short, block.shortcut.normalization)).relu()
    torch.testing.assert_close(last, out, rtol=1e-4, atol=1e-5)


def test_a_last_stride_of_1_has_the_same_weights_and_twice_the_size() -> None:
    """IRNet's backbone: strides 4, 8, 16, 16."""
    coarse, fine = pyramid(1), pyramid(2, last_stride=1)
    assert not same(coarse, fine)
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        *three, last = coarse(images)
        *others, larger = fine(images)
    assert coarse.strides == (4, 8, 16, 32)
    assert fine.strides == (4, 8, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(three, others, strict=True))
    assert last.shape == (1, 128, 2, 3)
    assert larger.shape == (1, 128, 4, 6)


@pytest.mark.parametrize("hw", [(64, 96), (65, 97), (33, 1), (5, 3), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_sizes_round_up(hw: tuple[int, int], stride: int) -> None:
    made = pyramid(last_stride=stride)
    with torch.no_grad():
        maps = made(torch.randn(1, 3, *hw))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, -(-hw[0] // s), -(-hw[1] // s))
        for c, s in zip(made.channels, made.strides, strict=True)
    ]


def test_resnet_50_has_its_size() -> None:
    """25,557,032 with the classifier of 1,000 classes, whose layer has 2,049,000."""
    with torch.device("meta"):
        made = ResNetPyramid(ResNetVisionConfig())
    assert made.channels == (256, 512, 1024, 2048)
    assert sum(parameter.numel() for parameter in made.parameters()) == 25_557_032 - 2_049_000


@pytest.mark.parametrize("task", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_from_a_hub_folder(task: bool, stride: int, tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[1, 2, 1, 2], num_labels=3
    )
    torch.manual_seed(7)
    theirs = (ResNetForImageClassification if task else ResNetModel)(config).eval()
    theirs.save_pretrained(tmp_path)
    inner = theirs.resnet if task else theirs
    made = pyramid(last_stride=stride)
    load_hub_part(made.resnet, str(tmp_path), prefix="resnet.")
    assert same(made.resnet, inner)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = made(images)
        expected = inner(images, output_hidden_states=True).hidden_states[1:]
    assert torch.equal(found[2], expected[2])
    assert torch.equal(found[3], expected[3]) == (stride == 2)


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    pyramid(layers=(1, 1, 1, 1)).resnet.save_pretrained(tmp_path)
    made, before = pyramid(), pyramid()
    with pytest.raises(ModelError, match=r"missing encoder\.stages\.1\.layers\.1"):
        load_hub_part(made.resnet, str(tmp_path), prefix="resnet.")
    assert same(made, before)


def test_a_gradient_reaches_everything() -> None:
    made = pyramid().train()
    torch.stack([m.square().mean() for m in made(torch.randn(2, 3, 65, 63))]).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_channels_last_images_are_made_contiguous() -> None:
    """Some strided convolutions of torch 2.13 crash in their backward on this layout."""
    made = pyramid().train()
    made(torch.randn(2, 64, 64, 3).permute(0, 3, 1, 2))[-1].square().sum().backward()
    assert next(made.parameters()).grad is not None


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"last_stride": 4}, {"layers": (3, 4, 6)}, {"kind": "clip-resnet"}):
        with pytest.raises(ValidationError):
            ResNetVisionConfig.model_validate(wrong)
