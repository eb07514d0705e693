"""LAVT's pixel-word attention and gate, against their own form written independently."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refseg.errors import ConfigError
from refseg.methods.vega.fusion import LanguageGate, PixelWordFusion, instance_norm
from tests.methods.vega.literal import PixelWordAttention


def fusion(channels: int = 12, width: int = 10, heads: int = 1) -> PixelWordFusion:
    torch.manual_seed(0)
    return PixelWordFusion(channels, width, heads).eval()


def test_instance_norm_against_torchs() -> None:
    x = torch.randn(3, 50, 7) * 4 + 2
    expected = nn.InstanceNorm1d(7)(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(instance_norm(x), expected, atol=1e-5, rtol=1e-5)


def test_instance_norm_of_one_pixel_is_zero() -> None:
    """torch's own refuses a single position; a tiny image reaches that at the last stage."""
    assert torch.equal(instance_norm(torch.randn(2, 1, 5)), torch.zeros(2, 1, 5))


def test_instance_norm_in_half_precision_sums_in_full() -> None:
    x = (torch.randn(1, 4096, 2) + 30).bfloat16()
    expected = instance_norm(x.float())
    assert instance_norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(instance_norm(x).float(), expected, atol=0.02, rtol=0.02)


def test_fusion_is_lavts() -> None:
    ours = fusion()
    theirs = PixelWordAttention(ours).eval()
    pixels, words = torch.randn(2, 30, 12), torch.randn(2, 6, 10)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 3:] = False
    with torch.no_grad():
        expected = theirs(pixels.transpose(1, 2), words.transpose(1, 2), mask)
        torch.testing.assert_close(
            ours(pixels, words, mask), expected.transpose(1, 2), atol=1e-5, rtol=1e-5
        )


def test_several_heads_against_a_loop_with_the_full_width_scale() -> None:
    ours = fusion(heads=3)
    pixels, words = torch.randn(1, 9, 12), torch.randn(1, 5, 10)
    mask = torch.tensor([[True, True, True, False, False]])
    with torch.no_grad():
        q, k, v = instance_norm(ours.query(pixels))[0], ours.key(words)[0], ours.value(words)[0]
        heard = torch.zeros(9, 12)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for n in range(9):
                scores = torch.stack([q[n, part] @ k[t, part] / 12**0.5 for t in range(3)])
                for t, share in enumerate(scores.softmax(0)):
                    heard[n, part] += share * v[t, part]
        said = instance_norm(ours.spread(heard[None]))
        expected = F.gelu(ours.mix[0](F.gelu(ours.visual[0](pixels)) * said))
        torch.testing.assert_close(ours(pixels, words, mask), expected, atol=1e-5, rtol=1e-5)


def test_padded_words_are_not_heard() -> None:
    ours = fusion()
    pixels, words = torch.randn(1, 9, 12), torch.randn(1, 5, 10)
    mask = torch.tensor([[True, True, False, False, False]])
    with torch.no_grad():
        full = ours(pixels, words, mask)
        torch.testing.assert_close(full, ours(pixels, words[:, :2], mask[:, :2]))


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ConfigError, match="12 channels are not a multiple of 5 heads"):
        PixelWordFusion(12, 10, heads=5)


def test_the_gate_against_its_formula() -> None:
    torch.manual_seed(0)
    gate = LanguageGate(4, zero_init=False)
    pixels, residual = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    for n in range(3):
        hidden = (gate.first.weight @ residual[0, n]).clamp(min=0)
        expected = pixels[0, n] + torch.tanh(gate.second.weight @ hidden) * residual[0, n]
        torch.testing.assert_close(gate(pixels, residual)[0, n], expected)
    assert [name for name, _ in gate.named_parameters()] == ["first.weight", "second.weight"]


def test_a_gate_that_starts_at_zero_is_shut_but_learns() -> None:
    gate = LanguageGate(4)
    pixels, residual = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    assert torch.equal(gate(pixels, residual), pixels)
    gate(pixels, residual).square().sum().backward()
    assert gate.second.weight.grad is not None
    assert gate.second.weight.grad.abs().sum() > 0
