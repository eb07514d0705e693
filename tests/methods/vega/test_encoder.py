"""The encoder: stage shapes, where words enter, what goes to the decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.vega import VegaConfig
from refseg.methods.vega.model import Vega, VegaEncoder
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from tests.methods.toy import vega_config

SMALL = SwinVisionConfig(
    image_size=32, patch=2, width=8, depths=(1, 2, 1, 1), heads=(1, 2, 2, 2), window=4, drop_path=0
)


def encoder(seed: int = 0, **changes: Any) -> VegaEncoder:
    torch.manual_seed(seed)
    made = VegaEncoder(vega_config(vision=SMALL, **changes)).eval()
    with torch.no_grad():
        for norm in made.norms:
            norm.weight.normal_()
            norm.bias.normal_()
    return made


def words(batch: int = 1, length: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, length, 32, generator=generator), torch.ones(batch, length).bool()


@pytest.fixture(scope="module")
def at_paper_size() -> Vega:
    with torch.device("meta"):
        return Vega(VegaConfig(text=BertTextConfig(layers=1)))


@pytest.mark.parametrize(
    ("image_hw", "sizes"),
    [
        ((480, 480), [(120, 120), (60, 60), (30, 30), (15, 15)]),
        ((384, 384), [(96, 96), (48, 48), (24, 24), (12, 12)]),
        ((333, 250), [(84, 63), (42, 32), (21, 16), (11, 8)]),
    ],
)
def test_stage_shapes(
    at_paper_size: Vega, image_hw: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    with torch.device("meta"):
        state = at_paper_size.encoder.encode_image(torch.empty(1, 3, *image_hw))
        text, mask = torch.empty(1, 21, 768), torch.ones(1, 21, dtype=torch.bool)
        levels, found = at_paper_size.encoder(state, torch.zeros(1, dtype=torch.long), text, mask)
    assert found == sizes
    channels = (128, 256, 512, 1024)
    expected = [(1, h * w, c) for (h, w), c in zip(sizes, channels, strict=True)]
    assert [tuple(level.shape) for level in levels] == expected


def entering(made: VegaEncoder, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What each fusion module was given, what it said, and what the decoder gets."""
    given: list[Tensor] = []
    said: list[Tensor] = []

    def listen(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(inputs[0])
        said.append(output)

    for part in made.fusion.values():
        part.register_forward_hook(listen)
    with torch.no_grad():
        text, mask = words(len(images))
        levels, _ = made(made.encode_image(images), torch.arange(len(images)), text, mask)
    return given, said, levels


def test_a_shut_gate_leaves_plain_swin() -> None:
    images = torch.randn(2, 3, 32, 32)
    made = encoder()
    given, said, _ = entering(made, images)
    with torch.no_grad():
        plain = [tokens for tokens, _ in made.pyramid(images)]
    assert len(given) == 4
    for ours, theirs in zip(given, plain, strict=True):
        assert torch.equal(ours, theirs)
    assert all(residual.abs().mean() > 1e-4 for residual in said), "the residual itself is not zero"


def test_an_open_gate_does_not() -> None:
    images = torch.randn(2, 3, 32, 32)
    made = encoder(gate_zero_init=False)
    given, _, _ = entering(made, images)
    with torch.no_grad():
        plain = [tokens for tokens, _ in made.pyramid(images)]
    assert torch.equal(given[0], plain[0]), "the first stage has heard nothing yet"
    for ours, theirs in zip(given[1:], plain[1:], strict=True):
        assert not torch.allclose(ours, theirs, atol=1e-4)


def test_the_decoder_gets_the_normalised_residual_not_the_gated_sum() -> None:
    made = encoder(gate_zero_init=False)
    _, said, levels = entering(made, torch.randn(2, 3, 32, 32))
    for norm, residual, level in zip(made.norms, said, levels, strict=True):
        with torch.no_grad():
            assert torch.equal(level, norm(residual))


def test_the_next_stage_gets_the_gated_sum() -> None:
    made = encoder(gate_zero_init=False)
    given, said, _ = entering(made, torch.randn(1, 3, 32, 32))
    with torch.no_grad():
        for stage, side in enumerate((16, 8, 4)):
            summed = made.gates[str(stage)](given[stage], said[stage])
            merged, hw = made.pyramid.merge(stage, summed, (side, side))
            again = made.pyramid.blocks(stage + 1, merged, hw)
            torch.testing.assert_close(given[stage + 1], again)


def test_there_is_no_gate_that_nothing_uses() -> None:
    assert sorted(encoder().gates) == ["0", "1", "2"]


@pytest.mark.parametrize("mode", ["early", "late", "none"])
def test_expressions_of_one_image_share_what_they_can(mode: str) -> None:
    made = encoder(fusion=mode, gate_zero_init=False)
    images = torch.randn(2, 3, 32, 32)
    calls = []
    made.pyramid.swin.embeddings.patch_embeddings.register_forward_hook(
        lambda _, args, out: calls.append(args[0].shape[0])
    )
    text, mask = words(3)
    image_of = torch.tensor([1, 0, 1])
    with torch.no_grad():
        state = made.encode_image(images)
        shared, _ = made(state, image_of, text, mask)
        assert calls == [2], "the stem runs once an image"
        for row in range(3):
            alone = made.encode_image(images[image_of[row]][None])
            single, _ = made(alone, torch.tensor([0]), text[row : row + 1], mask[row : row + 1])
            for ours, theirs in zip(shared, single, strict=True):
                torch.testing.assert_close(ours[row], theirs[0], atol=1e-5, rtol=1e-5)
    assert len(state.levels) == (1 if mode == "early" else 4)


@pytest.mark.parametrize(("mode", "hears"), [("early", 4), ("late", 1), ("none", 0)])
def test_which_stages_hear_the_words(mode: str, hears: int) -> None:
    made = encoder(fusion=mode, gate_zero_init=False)
    image_of = torch.tensor([0])
    text, mask = words()
    with torch.no_grad():
        state = made.encode_image(torch.randn(1, 3, 32, 32))
        one, _ = made(state, image_of, text, mask)
        other, _ = made(state, image_of, -text, mask)
    changed = [not torch.allclose(a, b) for a, b in zip(one, other, strict=True)]
    assert changed == [False] * (4 - hears) + [True] * hears


def test_padded_words_reach_no_stage() -> None:
    made = encoder(gate_zero_init=False)
    state = made.encode_image(torch.randn(1, 3, 32, 32))
    text, mask = words()
    mask[0, 3:] = False
    junk = torch.where(mask[..., None], text, 7.0)
    image_of = torch.tensor([0])
    with torch.no_grad():
        one, _ = made(state, image_of, text, mask)
        other, _ = made(state, image_of, junk, mask)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_an_odd_size_runs_end_to_end() -> None:
    made = encoder()
    text, mask = words()
    with torch.no_grad():
        _, sizes = made(made.encode_image(torch.randn(1, 3, 45, 27)), torch.tensor([0]), text, mask)
    assert sizes == [(23, 14), (12, 7), (6, 4), (3, 2)]
