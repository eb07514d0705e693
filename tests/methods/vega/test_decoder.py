"""The decoder: order of its steps, sizes, and who listens to what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.vega.config import DecoderConfig
from refseg.methods.vega.decoder import GuidedDecoder
from tests.methods.vega.literal import _decode

CHANNELS = (4, 6, 8, 10)
WIDTH = 12


def decoder(seed: int = 0, **changes: Any) -> GuidedDecoder:
    torch.manual_seed(seed)
    config = DecoderConfig(**{"widths": (16, 16, 8, 8), "heads": 4, "norm": "group", **changes})
    return GuidedDecoder(config, CHANNELS, WIDTH).eval()


def features(batch: int = 2, hw: tuple[int, int] = (16, 16), seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, w = hw
    sizes = [(-(-h // 2**i), -(-w // 2**i)) for i in range(4)]
    return [
        torch.randn(batch, c, *size, generator=generator)
        for c, size in zip(CHANNELS, sizes, strict=True)
    ]


def guidance(batch: int = 2, length: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[-1, 3:] = False
    return torch.randn(batch, length, WIDTH, generator=generator), mask


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_against_the_literal_walk(norm: str) -> None:
    made = decoder(norm=norm)
    maps, (tokens, _) = features(1), guidance(1)
    everyone = torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            made(maps, tokens, everyone), _decode(made, maps, tokens), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("hw", [(16, 16), (15, 9), (8, 24), (2, 1)])
def test_logits_lie_on_the_finest_level(hw: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = decoder()(features(hw=hw), *guidance())
    assert logits.shape == (2, 1, *hw)


def test_two_classes_and_finer_cells() -> None:
    with torch.no_grad():
        assert decoder(head="two-class")(features(), *guidance()).shape == (2, 2, 16, 16)
        made = decoder(head="two-class", subpixel=3)
        seen: list[Tensor] = []
        made.head.register_forward_hook(lambda _, args, out: seen.append(out))
        logits = made(features(), *guidance())
    assert logits.shape == (2, 2, 48, 48)
    for k in range(2):
        for dy in range(3):
            for dx in range(3):
                assert torch.equal(logits[:, k, dy::3, dx::3], seen[0][:, 9 * k + 3 * dy + dx])


@pytest.mark.parametrize("corners", [True, False])
def test_upsampling_follows_align_corners(corners: bool) -> None:
    made = decoder(align_corners=corners)
    maps = features()
    entered: list[Tensor] = []
    made.refine[0].register_forward_hook(lambda _, args, out: entered.append(args[0]))
    with torch.no_grad():
        made(maps, *guidance())
        x = made._ask(0, made.reduce(maps[3]), *guidance())
        up = F.interpolate(x, (4, 4), mode="bilinear", align_corners=corners)
    torch.testing.assert_close(entered[0], torch.cat([up, maps[2]], dim=1))


def test_masked_guidance_is_not_heard() -> None:
    made, maps = decoder(), features()
    tokens, mask = guidance()
    junk = torch.where(mask[..., None], tokens, 50.0)
    with torch.no_grad():
        assert torch.equal(made(maps, tokens, mask), made(maps, junk, mask))
        heard = made(maps, junk, torch.ones_like(mask))
    assert not torch.allclose(heard[1], made(maps, tokens, mask)[1], atol=1e-3)


def test_every_level_listens_and_the_finest_only_if_asked() -> None:
    assert len(decoder().listen) == 4
    assert len(decoder(attend_finest=False).listen) == 3
    assert lengths_heard(decoder()) == [4, 16, 64, 256]
    assert lengths_heard(decoder(attend_finest=False)) == [4, 16, 64]


def lengths_heard(made: GuidedDecoder) -> list[int]:
    """How many pixels asked at each level, in order."""
    heard: list[int] = []
    for block in made.listen:
        block.register_forward_hook(lambda _, args, out: heard.append(args[0].shape[1]))
    with torch.no_grad():
        made(features(), *guidance())
    return heard


def test_guidance_changes_the_logits_at_each_level() -> None:
    maps, (tokens, mask) = features(), guidance()
    for level in range(4):
        made = decoder()
        with torch.no_grad():
            for other, block in enumerate(made.listen):
                if other != level:
                    block.attention.out.weight.zero_()
            one, other_logits = made(maps, tokens, mask), made(maps, -tokens, mask)
        assert not torch.allclose(one, other_logits, atol=1e-6), level


def test_encoder_features_of_each_level_reach_the_logits() -> None:
    made, maps = decoder(), features()
    with torch.no_grad():
        base = made(maps, *guidance())
        for level in range(4):
            changed = [-m if i == level else m for i, m in enumerate(maps)]
            assert not torch.allclose(base, made(changed, *guidance()), atol=1e-5), level


def test_convolutions_have_no_bias_before_a_norm() -> None:
    for refine in decoder().refine:
        assert refine[0].bias is None
        assert refine[3].bias is None
