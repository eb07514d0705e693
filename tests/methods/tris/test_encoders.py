"""Three kinds of image encoder behind one face, as far as they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refseg.methods.tris.encoders import Pyramid, build_pyramid
from refseg.nn.attention import tokens_to_map
from refseg.nn.resnet import ResNetVisionConfig
from refseg.nn.vision import SwinPyramid
from tests.methods.toy_configs import toy_vision
from tests.methods.tris.toys import clip_vision

KINDS: dict[str, Any] = {
    "clip": clip_vision(),
    "resnet": ResNetVisionConfig(layers=(1, 1, 1, 1), width=4, bottleneck=False),
    "swin": toy_vision(),
}


def pyramid(kind: str, stages: int = 4) -> Pyramid:
    torch.manual_seed(0)
    return build_pyramid(KINDS[kind], stages).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_four_maps_of_the_channels_that_are_said(kind: str) -> None:
    sees = pyramid(kind)
    with torch.no_grad():
        maps = sees(torch.randn(2, 3, 64, 96))
    assert tuple(x.shape[1] for x in maps) == tuple(sees.channels) == KINDS[kind].channels
    first = 2 if kind == "swin" else 4  # the toy's patches are of 2 px
    for place, x in enumerate(maps):
        assert x.shape[2:] == (64 // (first << place), 96 // (first << place))


def test_a_swins_tokens_lie_row_by_row() -> None:
    sees, images = pyramid("swin"), torch.randn(1, 3, 64, 96)
    assert isinstance(sees.trunk, SwinPyramid)
    with torch.no_grad():
        for x, (tokens, hw) in zip(sees(images), sees.trunk(images), strict=True):
            assert torch.equal(x, tokens_to_map(tokens, hw))
            assert torch.equal(x[0, :, 1, 2], tokens[0, hw[1] + 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [1, 3])
def test_what_is_not_asked_for_is_neither_run_nor_trained(kind: str, stages: int) -> None:
    sees, images = pyramid(kind, stages), torch.randn(2, 3, 64, 64)
    maps = sees(images)
    with torch.no_grad():
        whole = pyramid(kind)(images)
    assert len(maps) == stages
    for ours, theirs in zip(maps, whole, strict=False):
        torch.testing.assert_close(ours, theirs)
    maps[-1].square().sum().backward()
    for name, parameter in sees.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not all(p.requires_grad for p in sees.parameters())
    assert all(p.requires_grad for p in pyramid(kind).parameters())


def test_a_pool_is_not_trained() -> None:
    sees = Pyramid(clip_vision(pool=True, pool_heads=4, embed=32))
    frozen = [name for name, p in sees.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("trunk.attnpool.") for name in frozen)


def test_what_may_start_from_others_weights() -> None:
    for kind, inner, prefix in (
        ("clip", "", ""),
        ("resnet", "resnet", "resnet."),
        ("swin", "swin", "swin."),
    ):
        sees = pyramid(kind)
        part, said = sees.hub_part()
        assert part is (getattr(sees.trunk, inner) if inner else sees.trunk)
        assert said == prefix
