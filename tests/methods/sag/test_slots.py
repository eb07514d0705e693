"""Where slots begin: the released code's distributions, and noise that follows an image."""

from __future__ import annotations

import math

import pytest
import torch

from refseg.methods.sag.config import SlotsConfig
from refseg.methods.sag.slots import FirstSlots, group_of, keyed_noise, pixel_keys

WIDTH = 512


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_entity_slots_start_as_in_the_released_code() -> None:
    """12 Gaussians of width 512: means of length 0.39, noise of length 1."""
    torch.manual_seed(0)
    first = FirstSlots(SlotsConfig(groups=12, per_group=3), WIDTH)
    bound = math.sqrt(6 / (12 * WIDTH + WIDTH))
    assert bound == pytest.approx(0.030, abs=5e-4)
    assert first.mean.abs().max() <= bound
    assert (first.spread - math.log(1 / WIDTH)).abs().max() <= bound + 1e-6
    assert float(first.mean.std()) == pytest.approx(0.017, abs=1e-3)
    assert float(first.mean.norm(dim=1).mean()) == pytest.approx(0.39, abs=0.02)
    with torch.no_grad():
        drawn = first(torch.randn(2, 1, 36, WIDTH))
        away = (drawn - first.mean.repeat_interleave(3, 0)).norm(dim=-1)
    assert float(away.mean()) == pytest.approx(1.0, abs=0.02)
    same = (drawn[0, 0, 0] - drawn[0, 0, 1]).norm()
    assert float(same) == pytest.approx(2**0.5, abs=0.15)


def test_means_may_start_far_apart() -> None:
    """As the switch says; the noise as ever, and so are random slots, which have one mean."""
    torch.manual_seed(0)
    config = SlotsConfig(groups=12, per_group=3, apart=2.0)
    first = FirstSlots(config, WIDTH)
    assert float(first.mean.std()) == pytest.approx(2.0, rel=0.05)
    assert float((first.spread / 2).exp().mean()) == pytest.approx(WIDTH**-0.5, rel=0.05)
    one = FirstSlots(config.model_copy(update={"kind": "random"}), WIDTH)
    assert one.mean.abs().max() < 0.2


def test_random_slots_are_of_one_gaussian_that_is_not_shrunk() -> None:
    torch.manual_seed(0)
    first = FirstSlots(SlotsConfig(kind="random"), WIDTH)
    assert first.mean.shape == first.spread.shape == (1, WIDTH)
    with torch.no_grad():
        drawn = first(torch.randn(20, 1, 36, WIDTH))
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)


def test_query_slots_have_no_noise() -> None:
    first = FirstSlots(SlotsConfig(kind="query"), 8)
    drawn = first(torch.randn(2, 3, 36, 8))
    assert drawn.shape == (2, 3, 36, 8)
    assert torch.equal(drawn[1, 2], first.query)
    assert {name for name, _ in first.named_parameters()} == {"query"}


def test_groups_lie_together() -> None:
    entity = SlotsConfig(groups=3, per_group=2)
    assert (entity.count, entity.group_size) == (6, 2)
    assert group_of(entity).tolist() == [0, 0, 1, 1, 2, 2]
    for kind in ("random", "query"):
        one = SlotsConfig.model_validate({"kind": kind, "groups": 3, "per_group": 2})
        assert (one.count, one.group_size) == (6, 6)
        assert group_of(one).tolist() == [0] * 6
    first = FirstSlots(entity, 4)
    with torch.no_grad():
        drawn = first(torch.zeros(1, 1, 6, 4))[0, 0]
    assert torch.equal(drawn, first.mean[group_of(entity)])


def test_noise_follows_the_pixels_and_nothing_else() -> None:
    seen = images()
    noise = keyed_noise(seen, 2, (5, 4), seed=0)
    assert noise.shape == (3, 2, 5, 4)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[[2, 0]], keyed_noise(seen[[2, 0]], 2, (5, 4), seed=0))
    assert torch.equal(noise[:, :1], keyed_noise(seen, 1, (5, 4), seed=0)), "draws are numbered"
    strided = seen.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(noise, keyed_noise(strided, 2, (5, 4), seed=0))
    assert torch.equal(noise, keyed_noise(seen + 1e-6, 2, (5, 4), seed=0)), "rounding is nothing"
    drawn = noise.flatten(0, 1)
    apart = torch.cdist(drawn.flatten(1), drawn.flatten(1)) + 9 * torch.eye(6)
    assert apart.min() > 1, "images and draws differ"
    other = keyed_noise(seen, 2, (5, 4), seed=1)
    assert not torch.isclose(noise, other).any()


def test_noise_is_normal() -> None:
    noise = keyed_noise(images(2), 8, (36, 64), seed=3)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_keys_tell_images_apart_by_any_pixel() -> None:
    seen = images(1).repeat(3, 1, 1, 1)
    seen[1, 2, 11, 15] += 0.05
    seen[2] = seen[2].flip(-1)
    keys = pixel_keys(seen)
    assert len(set(keys)) == 3
    assert pixel_keys(seen[:1]) == keys[:1]
    assert pixel_keys(1e9 * seen[:1]) == pixel_keys(1e9 * seen[:1]), "huge values are cut"
