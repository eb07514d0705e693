"""The bilateral prompt against torch's own layers and loops, and its collapse with one text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from refseg.methods.tris.prompt import BilateralPrompt, SpaceNorm

WIDTH, PIXELS = 8, 9


@pytest.fixture
def prompt() -> BilateralPrompt:
    """With weights large enough to be seen above the norm's epsilon."""
    torch.manual_seed(0)
    made = BilateralPrompt(WIDTH)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * (4 if parameter.ndim > 1 else 0.5))
    return made


def near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=tolerance, rtol=1e-4)


def unit(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_the_norm_is_torchs_instance_norm() -> None:
    norm, other = SpaceNorm(WIDTH), nn.InstanceNorm2d(WIDTH, affine=True)
    with torch.no_grad():
        other.weight.copy_(norm.weight.uniform_(-2, 2))
        other.bias.copy_(norm.bias.uniform_(-2, 2))
    pixels = torch.randn(2, PIXELS, WIDTH)
    square = pixels.transpose(1, 2).unflatten(2, (3, 3))
    near(norm(pixels), other(square).flatten(2).transpose(1, 2), 1e-5)
    assert torch.equal(norm(pixels[:, :1]), norm.bias.expand(2, 1, -1))


@torch.no_grad()
def test_the_visual_half_is_its_loop(prompt: BilateralPrompt) -> None:
    pixels, texts = unit(2, PIXELS, WIDTH), unit(3, WIDTH, seed=2)
    queries = prompt.pixel_query(pixels)
    before = torch.zeros(2, PIXELS, WIDTH)
    for image in range(2):
        for p in range(PIXELS):
            scores = [
                float(queries[image, p] @ prompt.text_key(text).relu()) / WIDTH**0.5
                for text in texts
            ]
            shares = torch.tensor(scores).softmax(0)
            for share, text in zip(shares, texts, strict=True):
                before[image, p] += share * prompt.text_value(text).relu()
    expected = prompt.pixel_norm(prompt.to_pixels(before))
    near(prompt.together(pixels, texts), expected, 1e-4)


def test_the_text_half_is_its_loop(prompt: BilateralPrompt) -> None:
    pixels, texts = unit(2, PIXELS, WIDTH), unit(3, WIDTH, seed=2)
    expected = torch.zeros(2, 3, WIDTH)
    for image in range(2):
        keys, values = prompt.pixel_key(pixels)[image], prompt.pixel_value(pixels)[image]
        for b, text in enumerate(texts):
            shares = (keys @ prompt.text_query(text).relu() / WIDTH**0.5).softmax(0)
            expected[image, b] = prompt.to_texts(shares @ values)
    found = prompt.to_all(pixels, texts)
    near(found, expected, 1e-4)
    own = prompt.to_own(pixels, texts, torch.tensor([0, 1, 1]))
    near(own, expected[[0, 1, 1], [0, 1, 2]], 1e-4)


def test_with_one_text_the_visual_half_is_a_constant(prompt: BilateralPrompt) -> None:
    pixels = unit(2, PIXELS, WIDTH)
    for seed in (2, 3):
        added = prompt.together(pixels, unit(1, WIDTH, seed=seed))
        near(added, prompt.alone().expand(2, PIXELS, -1), 1e-3)
    two = prompt.together(pixels, unit(2, WIDTH, seed=2))
    assert (two - prompt.alone()).abs().max() > 0.1


def test_with_one_text_nothing_is_learned_of_pixels_and_keys(prompt: BilateralPrompt) -> None:
    def gradients(texts: int) -> dict[str, float]:
        prompt.zero_grad()
        added = prompt.together(unit(2, PIXELS, WIDTH), unit(texts, WIDTH, seed=2))
        (added * unit(2, PIXELS, WIDTH, seed=5)).sum().backward()
        parts = {
            "query": prompt.pixel_query.conv, "key": prompt.text_key, "value": prompt.text_value
        }  # fmt: skip
        grads = {name: part.weight.grad for name, part in parts.items()}
        return {name: float(g.abs().max()) for name, g in grads.items() if g is not None}

    one, two = gradients(1), gradients(2)
    assert one["query"] == one["key"] == 0
    assert one["value"] < 1e-3
    assert min(two.values()) > 1e-3


def test_words_are_heard_pair_by_pair_and_padding_is_not(prompt: BilateralPrompt) -> None:
    pixels, words = unit(2, PIXELS, WIDTH), unit(2, 4, WIDTH, seed=3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    own = torch.arange(2)
    found = prompt.heard(pixels, words, mask, own)
    for row in range(2):
        alone = prompt.together(pixels[row : row + 1], words[row][mask[row]])
        near(found[row : row + 1], alone, 1e-4)
    crossed = prompt.heard(pixels, words, mask, torch.tensor([1, 0]))
    near(crossed, prompt.heard(pixels.flip(0), words, mask, own), 1e-6)
    other = prompt.heard(pixels, torch.where(mask[..., None], words, 9.0), mask, own)
    assert torch.equal(found, other)


def pair_by_pair(
    prompt: BilateralPrompt, pixels: Tensor, words: Tensor, mask: Tensor, along: Tensor
) -> Tensor:
    """<dV, along> of every image and text, with dV itself."""
    images, texts = along.shape[:2]
    columns = [
        (
            prompt.heard(
                pixels,
                words[b].expand(images, -1, -1),
                mask[b].expand(images, -1),
                torch.arange(images),
            )
            * along[:, b, None]
        ).sum(dim=-1)
        for b in range(texts)
    ]
    return torch.stack(columns, dim=2)


def test_all_pairs_at_once_are_each_pair_alone(prompt: BilateralPrompt) -> None:
    prompt.double()
    words, mask = unit(3, 4, WIDTH, seed=3).double(), torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:], mask[2, 1:] = False, False
    losses, gradients = [], []
    for compared in (prompt.heard_along, lambda *args: pair_by_pair(prompt, *args)):
        pixels = unit(2, PIXELS, WIDTH).double().requires_grad_()
        along = unit(2, 3, WIDTH, seed=4).double().requires_grad_()
        prompt.zero_grad()
        found = compared(pixels, words, mask, along)
        found.square().sum().backward()
        losses.append(found.detach())
        parts = [p.grad for p in prompt.parameters() if p.grad is not None]
        assert pixels.grad is not None
        assert along.grad is not None
        gradients.append([pixels.grad, along.grad, *parts])
    assert losses[0].shape == (2, PIXELS, 3)
    torch.testing.assert_close(*losses, atol=1e-9, rtol=1e-9)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)


def test_one_word_or_one_pixel_leaves_the_norms_bias(prompt: BilateralPrompt) -> None:
    along = unit(2, 3, WIDTH, seed=4)
    for pixels, words in ((PIXELS, 1), (1, 4)):
        mask = torch.ones(3, words, dtype=torch.bool)
        found = prompt.heard_along(unit(2, pixels, WIDTH), unit(3, words, WIDTH), mask, along)
        expected = (along @ prompt.pixel_norm.bias)[:, None].expand(-1, pixels, -1)
        near(found, expected, 1e-3)


def test_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in BilateralPrompt(1024).parameters()) == 8_404_992
