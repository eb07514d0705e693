"""TinyViT: attention in windows against literal loops, windows and their filling, sizes."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from refseg.nn.tiny_vit import (
    Bottleneck,
    ChannelNorm,
    Merge,
    Mlp,
    TinyVit,
    TinyVitConfig,
    WindowAttention,
    WindowBlock,
    from_windows,
    places_apart,
    to_windows,
)

TOY = TinyVitConfig(
    widths=(4, 4, 6, 8), depths=(1, 1, 2, 1), heads=(2, 3, 2), windows=(2, 3, 2), out=5
)


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """All parameters random, those that start as zeros or ones too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


# -- attention, as written down ------------------------------------------------------------------


def offset_numbers(window: int) -> dict[tuple[int, int], int]:
    """Distances of two places, numbered as they turn up (the checkpoint's order of biases)."""
    places = list(product(range(window), range(window)))
    numbers: dict[tuple[int, int], int] = {}
    for one, other in product(places, places):
        numbers.setdefault((abs(one[0] - other[0]), abs(one[1] - other[1])), len(numbers))
    return numbers


def loop_attention(attention: WindowAttention, window: Tensor) -> Tensor:
    """[N, C] -> [N, C], a head and a pair at a time."""
    side, heads = attention.window, attention.heads
    size, numbers = attention.width // heads, offset_numbers(side)
    mapped = attention.qkv(attention.norm(window))
    places = list(product(range(side), range(side)))
    mixed = torch.zeros_like(window)
    for head in range(heads):
        block = mapped[:, 3 * size * head : 3 * size * (head + 1)]
        q, k, v = block[:, :size], block[:, size : 2 * size], block[:, 2 * size :]
        for i, here in enumerate(places):
            scores = []
            for j, there in enumerate(places):
                apart = (abs(here[0] - there[0]), abs(here[1] - there[1]))
                bias = attention.biases[head, numbers[apart]].item()
                scores.append(float(q[i] @ k[j]) / math.sqrt(size) + bias)
            total = sum(math.exp(score) for score in scores)
            for j, score in enumerate(scores):
                mixed[i, size * head : size * (head + 1)] += math.exp(score) / total * v[j]
    result: Tensor = attention.proj(mixed)
    return result


@pytest.mark.parametrize(("width", "heads", "window"), [(6, 2, 3), (4, 1, 2), (6, 3, 1), (8, 4, 4)])
def test_attention_is_its_formula(width: int, heads: int, window: int) -> None:
    attention = lively(WindowAttention(width, heads, window))
    assert isinstance(attention, WindowAttention)
    windows = torch.randn(2, window * window, width)
    expected = torch.stack([loop_attention(attention, one) for one in windows])
    torch.testing.assert_close(attention(windows), expected, atol=1e-5, rtol=1e-5)


def test_biases_matter_and_know_no_direction() -> None:
    attention = lively(WindowAttention(6, 2, 3))
    assert isinstance(attention, WindowAttention)
    windows = torch.randn(1, 9, 6)
    before = attention(windows)
    turned = windows.view(1, 3, 3, 6).flip(1, 2).reshape(1, 9, 6)
    back = attention(turned).view(1, 3, 3, 6).flip(1, 2).reshape(1, 9, 6)
    torch.testing.assert_close(back, before)
    attention.biases[:, 1] += 1  # of neighbours in a row
    assert (attention(windows) - before).abs().max() > 1e-3


def test_apart_numbers_are_those_of_the_checkpoint() -> None:
    for window in (1, 2, 3, 7):
        numbers = offset_numbers(window)
        assert len(numbers) == window * window
        table = places_apart(window)
        for i, j in product(range(window * window), repeat=2):
            rows, columns = abs(i // window - j // window), abs(i % window - j % window)
            assert table[i, j] == numbers[rows, columns]


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", [(6, 6), (5, 7), (1, 1), (3, 8), (2, 4)])
@pytest.mark.parametrize("window", [1, 3, 4])
def test_windows_hold_their_places(hw: tuple[int, int], window: int) -> None:
    tokens = torch.randn(2, *hw, 3)
    windows = to_windows(tokens, window)
    down, across = math.ceil(hw[0] / window), math.ceil(hw[1] / window)
    assert windows.shape == (2 * down * across, window * window, 3)
    for image, row, column in product(range(2), range(down * window), range(across * window)):
        index = (image * down + row // window) * across + column // window
        place = windows[index, row % window * window + column % window]
        inside = row < hw[0] and column < hw[1]
        expected = tokens[image, row, column] if inside else torch.zeros(3)
        assert torch.equal(place, expected)
    assert torch.equal(from_windows(windows, window, hw), tokens)


def loop_block(block: WindowBlock, x: Tensor) -> Tensor:
    """[C, H, W]: each window cut out by hand, what is missing at its right and below is zeros."""
    channels, height, width = x.shape
    side, mixed = block.attn.window, x.clone()
    for top, left in product(range(0, height, side), range(0, width, side)):
        window = torch.zeros(side * side, channels)
        inside = [
            (i, top + i // side, left + i % side)
            for i in range(side * side)
            if top + i // side < height and left + i % side < width
        ]
        for i, row, column in inside:
            window[i] = x[:, row, column]
        answer = loop_attention(block.attn, window)
        for i, row, column in inside:
            mixed[:, row, column] += answer[i]
    mixed = block.local_conv(mixed[None])[0]
    for row, column in product(range(height), range(width)):
        mixed[:, row, column] = mixed[:, row, column] + block.mlp(mixed[:, row, column])
    return mixed


@pytest.mark.parametrize("hw", [(3, 3), (4, 5), (2, 7)])
def test_a_block_is_its_description(hw: tuple[int, int]) -> None:
    block = lively(WindowBlock(WindowAttention(6, 2, 3), Mlp(6, 2)))
    assert isinstance(block, WindowBlock)
    x = torch.randn(2, 6, *hw)
    expected = torch.stack([loop_block(block, one) for one in x])
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


# -- convolutions, norms ---------------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def test_a_bottleneck_adds_before_its_last_activation() -> None:
    block = lively(Bottleneck(4, 3))
    assert isinstance(block, Bottleneck)
    x = torch.randn(1, 4, 5, 6)
    inner = gelu(block.conv2(gelu(block.conv1(x))))
    torch.testing.assert_close(block(x), gelu(x + block.conv3(inner)))
    assert block.conv2.groups == 12


@pytest.mark.parametrize(("stride", "hw"), [(1, (5, 6)), (2, (3, 3))])
def test_merging_halves_or_does_not(stride: int, hw: tuple[int, int]) -> None:
    merge = lively(Merge(4, 6, stride))
    assert isinstance(merge, Merge)
    x = torch.randn(1, 4, 5, 6)
    expected = merge.conv3(gelu(merge.conv2(gelu(merge.conv1(x)))))
    torch.testing.assert_close(merge(x), expected)
    assert merge(x).shape == (1, 6, *hw)


def test_channel_norm_is_over_channels() -> None:
    norm = lively(ChannelNorm(5, eps=1e-6))
    x = torch.randn(2, 5, 3, 4)
    mean, spread = x.mean(dim=1, keepdim=True), x.var(dim=1, unbiased=False, keepdim=True)
    scale, offset = norm.weight[:, None, None], norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), (x - mean) / (spread + 1e-6).sqrt() * scale + offset)


# -- the whole -------------------------------------------------------------------------------------


def test_published_sizes() -> None:
    with torch.device("meta"):
        encoder = TinyVit(TinyVitConfig())
    assert sum(p.numel() for p in encoder.parameters()) == 5_738_964
    assert TinyVitConfig().stride == 16


@pytest.mark.parametrize("hw", [(64, 64), (32, 80), (33, 50), (1, 1)])
def test_any_size_gives_its_places(hw: tuple[int, int]) -> None:
    encoder = lively(TinyVit(TOY))
    assert TOY.stride == 16
    found = encoder(torch.randn(2, 3, *hw))
    assert found.shape == (2, 5, math.ceil(hw[0] / 16), math.ceil(hw[1] / 16))
    assert found.isfinite().all()


def test_images_of_a_batch_and_the_order_in_memory_do_not_matter() -> None:
    encoder = lively(TinyVit(TOY))
    images = torch.randn(3, 3, 48, 48)
    together = encoder(images)
    for image, expected in zip(images, together, strict=True):
        torch.testing.assert_close(encoder(image[None])[0], expected, atol=1e-5, rtol=1e-5)
    last = encoder(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, together, atol=1e-5, rtol=1e-5)


def test_heads_must_share_the_channels() -> None:
    with pytest.raises(ValidationError, match="6 channels do not go into 4 heads"):
        TinyVitConfig(widths=(4, 4, 6, 8), heads=(2, 4, 2))
