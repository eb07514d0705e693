"""CLIP's ResNet: equal to its definition written out, any size, the attention pool where asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from refseg.errors import ModelError
from refseg.nn.clip_resnet import AttentionPool, Block, ClipResNet, ClipResNetConfig, halved

SMALL = {"layers": (2, 1, 1, 1), "width": 4, "pool_heads": 4, "embed": 6, "image_size": 64}


def network(seed: int = 0, **changes: Any) -> ClipResNet:
    """A small one with statistics and norms that are not those of the beginning."""
    torch.manual_seed(seed)
    made = ClipResNet(ClipResNetConfig.model_validate({**SMALL, **changes}))
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.5)
                part.running_var.uniform_(0.5, 2.0)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.5)
    return made.eval()


def on_meta(**changes: Any) -> ClipResNet:
    with torch.device("meta"):
        return ClipResNet(ClipResNetConfig(**changes))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- written out -------------------------------------------------------------------------------


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{key}"][:, None, None]
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def mean_of_four(x: Tensor) -> Tensor:
    """Even sizes."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def literal_stem(state: dict[str, Tensor], images: Tensor) -> Tensor:
    x = F.conv2d(images, state["conv1.weight"], stride=2, padding=1)
    x = normed(x, state, "bn1").clamp(min=0)
    x = F.conv2d(x, state["conv2.weight"], padding=1)
    x = normed(x, state, "bn2").clamp(min=0)
    x = F.conv2d(x, state["conv3.weight"], padding=1)
    x = normed(x, state, "bn3").clamp(min=0)
    return mean_of_four(x)


def literal_block(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    found = normed(F.conv2d(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1").clamp(min=0)
    found = F.conv2d(found, state[f"{name}.conv2.weight"], padding=1)
    found = normed(found, state, f"{name}.bn2").clamp(min=0)
    if stride == 2:
        found = mean_of_four(found)
    found = normed(F.conv2d(found, state[f"{name}.conv3.weight"]), state, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in state:
        x = mean_of_four(x) if stride == 2 else x
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"])
        x = normed(x, state, f"{name}.downsample.1")
    return (found + x).clamp(min=0)


def literal_pool(pool: AttentionPool, last: Tensor) -> Tensor:
    """One image, one head, one place after another; a grid of the table's own size."""
    images, channels = last.shape[:2]
    a_head = channels // pool.heads
    rows = []
    for image in range(images):
        places = [last[image, :, y, x] for y in range(pool.side) for x in range(pool.side)]
        tokens = [sum(places) / len(places), *places]
        tokens = [t + p for t, p in zip(tokens, pool.positional_embedding, strict=True)]
        query = F.linear(tokens[0], pool.q_proj.weight, pool.q_proj.bias)
        keys = [F.linear(token, pool.k_proj.weight, pool.k_proj.bias) for token in tokens]
        values = [F.linear(token, pool.v_proj.weight, pool.v_proj.bias) for token in tokens]
        answer = []
        for head in range(pool.heads):
            own = slice(head * a_head, (head + 1) * a_head)
            scores = torch.stack([query[own] @ key[own] / a_head**0.5 for key in keys])
            weights = scores.softmax(dim=0)
            answer.append(sum(w * value[own] for w, value in zip(weights, values, strict=True)))
        rows.append(F.linear(torch.cat(answer), pool.c_proj.weight, pool.c_proj.bias))
    return torch.stack(rows)


def test_the_stem_is_three_convolutions_and_a_mean() -> None:
    made = network()
    images = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        found = made.stem(images)
    assert found.shape == (2, 4, 4, 6)
    torch.testing.assert_close(found, literal_stem(made.state_dict(), images))


def test_the_maps_are_the_definition_block_by_block() -> None:
    made = network()
    state = made.state_dict()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = made(images)
        fewer = made(images, stages=2)
    x = literal_stem(state, images)
    names = ["layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]
    outputs = {}
    for name in names:
        x = literal_block(state, name, x, stride=2 if name in names[2:] else 1)
        outputs[name] = x
    for found, name in zip(maps, names[1:], strict=True):
        torch.testing.assert_close(found, outputs[name], rtol=1e-4, atol=1e-5)
    shapes = [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    assert [tuple(m.shape[1:]) for m in maps] == shapes
    assert len(fewer) == 2
    assert torch.equal(fewer[1], maps[1])


def test_the_attention_pool_is_the_definition_head_by_head() -> None:
    made = network(pool=True)
    assert made.attnpool is not None
    with torch.no_grad():
        for parameter in made.attnpool.parameters():
            parameter.normal_(0, 0.3)
        last = torch.randn(2, 128, 2, 2)
        found = made.pooled(last)
        expected = literal_pool(made.attnpool, last)
    assert found.shape == (2, 6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_the_stem_has_a_strided_convolution() -> None:
    """Elsewhere a mean of 2 x 2 halves, before the last convolution and before the shortcut's."""
    made = network()
    strided = [
        n for n, p in made.named_modules() if isinstance(p, nn.Conv2d) and p.stride != (1, 1)
    ]
    assert strided == ["conv1"]
    block = made.layer2[0]
    assert isinstance(block, Block)
    assert block.downsample is not None
    sizes: dict[str, tuple[int, ...]] = {}
    for name, part in (("conv2", block.conv2), ("conv3", block.conv3), ("s", block.downsample[0])):
        part.register_forward_hook(
            lambda _, args, out, name=name: sizes.update({name: args[0].shape})
        )
    with torch.no_grad():
        block(torch.randn(1, 16, 8, 8))
    assert sizes == {"conv2": (1, 8, 8, 8), "conv3": (1, 8, 4, 4), "s": (1, 16, 4, 4)}


# -- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", [(64, 96), (65, 97), (63, 40), (33, 1), (5, 3), (1, 1)])
def test_sizes_round_up(hw: tuple[int, int]) -> None:
    made = network(pool=True)
    assert made.channels == (16, 32, 64, 128)
    assert made.strides == (4, 8, 16, 32)
    with torch.no_grad():
        maps = made(torch.randn(1, 3, *hw))
        assert made.pooled(maps[-1]).shape == (1, 6)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, -(-hw[0] // s), -(-hw[1] // s))
        for c, s in zip(made.channels, made.strides, strict=True)
    ]


def test_other_strides_have_the_same_weights() -> None:
    made, fine = network(1), network(2, strides=(1, 2, 2, 1), pool=True)
    assert fine.strides == (4, 8, 16, 16)
    assert fine.attnpool is not None
    assert fine.attnpool.side == 4
    state = fine.state_dict() | made.state_dict()
    fine.load_state_dict(state)
    images = torch.randn(1, 3, 64, 70)
    with torch.no_grad():
        *three, last = made(images)
        *others, larger = fine(images)
    assert all(torch.equal(a, b) for a, b in zip(three, others, strict=True))
    assert (last.shape[2:], larger.shape[2:]) == ((2, 3), (4, 5))


def test_an_odd_edge_is_the_mean_of_what_is_there() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    expected = [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    assert halved(x)[0, 0].tolist() == expected


def test_positions_follow_the_grid() -> None:
    pool = AttentionPool(8, heads=2, embed=4, side=3)
    table = pool.positional_embedding
    assert pool._positions(3, 3) is table
    with torch.no_grad():
        table.copy_(torch.arange(10.0)[:, None].expand(-1, 8))
        wide = pool._positions(3, 6)
    assert wide.shape == (19, 8)
    assert torch.equal(wide[0], table[0]), "the mean's own stays"
    # A grid of 1 2 3 / 4 5 6 / 7 8 9 at twice the width: a ramp between the columns' centres.
    assert wide[1:, 0].view(3, 6)[1].tolist() == [4, 4.25, 4.75, 5.25, 5.75, 6]
    assert wide[1:, 5].view(3, 6)[:, 0].tolist() == [1, 4, 7]


def test_published_sizes() -> None:
    """tris.md, fact 17; RN101 has 17 blocks more."""
    rn50 = on_meta(pool=True)
    assert rn50.attnpool is not None
    assert rn50.channels == (256, 512, 1024, 2048)
    assert count(rn50.attnpool) == 14_789_632
    assert count(rn50) - count(rn50.attnpool) == count(on_meta()) == 23_527_264
    rn101 = on_meta(layers=(3, 4, 23, 3), embed=512, pool=True)
    assert len(rn101.layer3) == 23
    assert count(rn101) - count(rn50) == 17 * count(rn50.layer3[1]) - 512 * 2049
    with torch.device("meta"):
        maps = rn50(torch.empty(1, 3, 320, 320))
    assert [tuple(m.shape[2:]) for m in maps] == [(80, 80), (40, 40), (20, 20), (10, 10)]


def test_wrong_sizes_are_refused() -> None:
    for wrong in ({"width": 5}, {"layers": (1, 1, 1)}, {"strides": (1, 2, 2, 4)}, {"depth": 3}):
        with pytest.raises(ValidationError):
            ClipResNetConfig.model_validate(wrong)


# -- use ---------------------------------------------------------------------------------------


def test_no_pool_is_built_where_none_is_asked_for() -> None:
    made = network()
    assert not any("attnpool" in name for name in made.state_dict())
    with pytest.raises(ModelError, match="no attention pool"):
        made.pooled(torch.zeros(1, 128, 2, 2))


def test_a_gradient_reaches_everything() -> None:
    made = network(pool=True).train()
    maps = made(torch.randn(2, 3, 65, 63))
    (sum(m.square().mean() for m in maps) + made.pooled(maps[-1]).square().sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        if name != "attnpool.k_proj.bias":  # the same for all places: the softmax cancels it
            assert parameter.grad.abs().sum() > 0, name


def test_images_in_any_layout_can_be_trained_on() -> None:
    """Some strided convolutions of torch 2.13 crash in their backward on channels last."""
    wide = torch.randn(2, 70, 69, 4)
    images = wide[:, 3:68, 2:65, :3].permute(0, 3, 1, 2)
    grads = []
    for layout in (
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.contiguous(),
    ):
        made, asked = network().train(), layout.detach().requires_grad_()
        made(asked)[-1].square().sum().backward()
        assert made.conv1.weight.grad is not None
        assert asked.grad is not None
        grads.append((made.conv1.weight.grad, asked.grad))
    for weight, pixels in grads[1:]:
        assert torch.equal(weight, grads[0][0])
        assert torch.equal(pixels, grads[0][1])


def test_all_maps_are_channels_last() -> None:
    """Narrow convolutions are faster so; a layer that loses the layout slows all that follow."""
    for level in network().eval()(torch.randn(2, 3, 64, 64)):
        assert level.is_contiguous(memory_format=torch.channels_last)
