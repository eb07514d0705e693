"""Pixel-word attention against a loop over the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from refseg.methods.tris.fusion import InstanceNorm, PixelWordFusion


def fusion(channels: int = 6, width: int = 5) -> PixelWordFusion:
    torch.manual_seed(0)
    made = PixelWordFusion(channels, width)
    with torch.no_grad():  # scales and shifts that are told apart
        for norm in (made.query[1], made.norm):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    return made.eval()


def normed(x: Tensor, norm: InstanceNorm) -> Tensor:
    """[C, N], each channel over its pixels."""
    mean, spread = x.mean(dim=1, keepdim=True), x.var(dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (spread + 1e-5).sqrt() * norm.weight[:, None] + norm.bias[:, None]


def literal(module: PixelWordFusion, v: Tensor, words: Tensor, heard: list[int]) -> Tensor:
    """One image v [C, h, w] and the words [L, D] that count: the formulas pixel by pixel."""

    def conv(part: nn.Module, x: Tensor) -> Tensor:
        bias = part.bias
        return part.weight.flatten(1) @ x + bias[:, None]

    flat = v.flatten(1)
    channels, pixels = flat.shape
    query = normed(conv(module.query[0], flat), module.query[1])
    keys, values = module.key(words), module.value(words)
    gathered = torch.zeros(channels, pixels)
    for n in range(pixels):
        scores = torch.stack([query[:, n] @ keys[t] / channels**0.5 for t in heard])
        for share, t in zip(scores.softmax(0), heard, strict=True):
            gathered[:, n] += share * values[t]
    said = normed(conv(module.spread, gathered), module.norm)
    visual = conv(module.visual[0], flat).clamp(min=0)
    out = conv(module.mix[0], visual * said).clamp(min=0)
    return (out + flat).view_as(v)


def test_the_norm_is_torchs() -> None:
    torch.manual_seed(0)
    x, ours, theirs = torch.randn(3, 7, 5, 4) * 4 + 2, InstanceNorm(7), nn.InstanceNorm2d(7)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert [p.shape for p in ours.parameters()] == [(7,), (7,)]


def test_a_channel_that_hardly_varies_keeps_its_digits() -> None:
    torch.manual_seed(0)
    x = 100 + 1e-3 * torch.randn(1, 3, 8, 8)
    exact = nn.InstanceNorm2d(3).double()(x.double())
    torch.testing.assert_close(InstanceNorm(3)(x).double(), exact, atol=1e-5, rtol=0)


def test_one_pixel_becomes_the_shift() -> None:
    """torch's own refuses a single place; a small image has no more at the last level."""
    norm = InstanceNorm(5)
    with torch.no_grad():
        norm.bias.normal_()
        for batch in (1, 2):
            found = norm(torch.randn(batch, 5, 1, 1))
            assert torch.equal(found, norm.bias[None, :, None, None].expand(batch, -1, 1, 1))


@pytest.mark.parametrize("hw", [(3, 4), (1, 1), (1, 5)])
def test_the_fusion_is_its_formula(hw: tuple[int, int]) -> None:
    ours = fusion()
    v, words = torch.randn(2, 6, *hw), torch.randn(2, 4, 5)
    with torch.no_grad():
        found = ours(ours.look(v), words, None)
        for row in range(2):
            expected = literal(ours, v[row], words[row], [0, 1, 2, 3])
            torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=1e-4)


def test_places_that_do_not_count_are_not_heard() -> None:
    ours = fusion()
    v, words = torch.randn(2, 6, 3, 4), torch.randn(2, 4, 5)
    heard = torch.tensor([[True, True, False, False], [True, True, True, False]])
    with torch.no_grad():
        found = ours(ours.look(v), words, heard)
        for row, places in enumerate(([0, 1], [0, 1, 2])):
            expected = literal(ours, v[row], words[row], places)
            torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=1e-4)


def test_several_expressions_share_what_is_seen() -> None:
    ours = fusion()
    v, words, image_of = torch.randn(2, 6, 3, 4), torch.randn(3, 4, 5), torch.tensor([1, 0, 1])
    with torch.no_grad():
        shared = ours(ours.look(v).of(image_of), words, None)
        torch.testing.assert_close(shared, ours(ours.look(v[image_of]), words, None))


def test_gradients_reach_all_but_what_a_norm_takes_away() -> None:
    ours = fusion()
    words = torch.randn(2, 4, 5, requires_grad=True)
    ours(ours.look(torch.randn(2, 6, 3, 4)), words, None).square().sum().backward()
    assert words.grad is not None
    assert words.grad.abs().sum(dim=2).min() > 0
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or name.endswith("bias"), name
