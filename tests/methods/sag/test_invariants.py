"""What can be known of Shatter and Gather beforehand, a test for each fact."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.sag import Sag
from refseg.methods.sag.config import AnswerConfig, LossConfig, ReconstructionConfig, SlotsConfig
from refseg.methods.sag.decode import relevance
from refseg.methods.sag.discovery import EPS, Aggregation, EntityDiscovery
from refseg.methods.sag.loss import cycle_consistency
from refseg.methods.sag.reconstruction import BroadcastDecoder, reconstruction_loss
from refseg.ops.masks import stretched
from refseg.types import Batch
from tests.methods.sag.toys import made, sag_config, slots_config
from tests.methods.toy import answers, rows_of, toy_batch, toy_samples

WIDTH, PATCHES = 16, 20


def slots(**changes: Any) -> SlotsConfig:
    """4 x 3 slots, 4 iterations."""
    return slots_config(**{"groups": 4, "per_group": 3, "iterations": 4, **changes})


def discovery(**changes: Any) -> EntityDiscovery:
    torch.manual_seed(0)
    made = EntityDiscovery(slots(**changes), WIDTH).eval()
    with torch.no_grad():
        made.first.spread += math.log(WIDTH)  # slots of a group far apart
    return made


def noise(seed: int = 1) -> Tensor:
    return torch.randn(2, 1, 12, WIDTH, generator=torch.Generator().manual_seed(seed))


def patches(seed: int = 2) -> Tensor:
    return torch.randn(2, PATCHES, WIDTH, generator=torch.Generator().manual_seed(seed))


def near(found: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


# -- the slots' maps -------------------------------------------------------------------------------


@torch.no_grad()
def test_slots_share_each_patch() -> None:
    attention = discovery()(patches(), noise()).attention
    near(attention.sum(dim=2), torch.ones(2, 1, PATCHES), atol=1e-6)
    assert attention.min() >= 0


@torch.no_grad()
def test_the_plain_mean_of_the_slots_maps_is_the_same_everywhere() -> None:
    attention = discovery()(patches(), noise()).attention
    assert attention.std() > 1e-2
    mean = attention.mean(dim=2)
    near(mean, torch.full_like(mean, 1 / 12), atol=1e-7)


@torch.no_grad()
def test_the_weights_of_a_slot_add_up_to_one_over_the_patches() -> None:
    """Not A^slot, but what values are summed by: an answer to values of one is one."""
    block = discovery().aggregate
    looked = block.look(patches())
    ones = replace(looked, values=torch.ones_like(looked.values))
    _, shares = block(torch.randn(2, 1, 12, WIDTH), ones)
    weights = shares / (shares.sum(dim=4, keepdim=True) + EPS)
    near(weights.sum(dim=4), torch.ones(2, 2, 1, 12), atol=1e-5)
    assert not torch.allclose(shares.sum(dim=4), torch.ones(2, 2, 1, 12), atol=1e-2)


@torch.no_grad()
def test_with_one_iteration_maps_depend_on_noise_and_patches_alone() -> None:
    """One aggregation, of the first slots; nothing behind it."""
    one = discovery(iterations=1)
    expected = one.aggregate(one.first(noise()), one.aggregate.look(patches()))[1].mean(dim=1)
    for part in (one.aggregate.mlp, one.aggregate.heads.out, one.interact, one.out):
        assert part is not None
        for parameter in part.parameters():
            parameter.normal_()
    assert torch.equal(one(patches(), noise()).attention, expected)


# -- symmetries ------------------------------------------------------------------------------------


def inside_groups() -> Tensor:
    """Another order of 4 x 3 slots within each group."""
    return torch.tensor([2, 0, 1, 3, 5, 4, 7, 8, 6, 11, 10, 9])


def whole_groups() -> Tensor:
    return torch.tensor([6, 7, 8, 0, 1, 2, 9, 10, 11, 3, 4, 5])


def across_groups() -> Tensor:
    """Slots 0 and 5, of the groups 0 and 1, change places."""
    return torch.tensor([5, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 11])


@torch.no_grad()
def test_noise_in_another_order_within_groups() -> None:
    method, order = discovery(), inside_groups()
    before, after = method(patches(), noise()), method(patches(), noise()[:, :, order])
    near(after.slots, before.slots[:, :, order])
    near(after.attention, before.attention[:, :, order])


@torch.no_grad()
def test_whole_groups_with_their_gaussians_in_another_order() -> None:
    method, order = discovery(), whole_groups()
    before = method(patches(), noise())
    gaussians = order[::3] // 3
    for parameter in (method.first.mean, method.first.spread):
        parameter.copy_(parameter[gaussians].clone())
    after = method(patches(), noise()[:, :, order])
    near(after.slots, before.slots[:, :, order])
    near(after.attention, before.attention[:, :, order])


@torch.no_grad()
@pytest.mark.parametrize("interaction", [True, False])
def test_slots_that_change_groups_hear_others_unless_nobody_hears(interaction: bool) -> None:
    method, order = discovery(interaction=interaction), across_groups()
    first, looked = method.first(noise()), method.aggregate.look(patches())
    before, after = method.shatter(first, looked), method.shatter(first[:, :, order], looked)
    apart = float((after.slots - before.slots[:, :, order]).abs().max())
    assert (apart > 1e-2) == interaction, apart
    if not interaction:
        near(after.slots, before.slots[:, :, order])


@torch.no_grad()
def test_without_noise_the_slots_of_a_group_are_one() -> None:
    for iterations in (1, 2, 5):
        method = discovery(interaction=True)
        method.config = slots().model_copy(update={"iterations": iterations})
        groups = method(patches(), torch.zeros(2, 1, 12, WIDTH)).slots.unflatten(2, (4, 3))
        assert torch.equal(groups, groups[:, :, :, :1].expand_as(groups))
        assert (groups[:, :, 0] - groups[:, :, 1]).abs().max() > 1e-2


@torch.no_grad()
def test_patches_in_another_order_with_their_positions() -> None:
    method, order = discovery(), torch.randperm(PATCHES)
    before, after = method(patches(), noise()), method(patches()[:, order], noise())
    near(after.slots, before.slots)
    near(after.attention, before.attention[..., order])


# -- relevance -------------------------------------------------------------------------------------


def four() -> Batch:
    return toy_batch(toy_samples(2), share_images=True)


@torch.no_grad()
def test_relevance_adds_up_to_one_and_m_is_a_share() -> None:
    outputs = made()(four())
    near(outputs.fuse.sum(dim=2), torch.ones(4, 1), atol=1e-6)
    m = relevance(outputs, "sum")
    assert 0 <= float(m.min()) <= float(m.max()) <= 1


@torch.no_grad()
def test_m_of_one_slot_is_its_map_and_of_all_alike_is_flat() -> None:
    outputs = made()(four())
    one = torch.zeros_like(outputs.fuse)
    one[:, :, 3] = 1
    assert outputs.attention is not None
    found = relevance(replace(outputs, fuse=one), "sum").flatten(1)
    near(found, outputs.attention[outputs.image_of, 0, 3], atol=0)
    alike = relevance(replace(outputs, fuse=torch.full_like(one, 1 / 6)), "sum")
    near(alike, torch.full_like(alike, 1 / 6), atol=1e-7)


# -- the losses ------------------------------------------------------------------------------------


@torch.no_grad()
def test_slots_that_say_nothing_leave_the_logarithm_of_the_images() -> None:
    method, batch = made(sag_config(loss=LossConfig(others="all"))), toy_batch(toy_samples(3))
    for parameter in method.fusion.heads.out.parameters():
        parameter.zero_()
    contrast = method.loss(method(batch), batch)["contrast"]
    assert float(contrast) == pytest.approx(math.log(len(batch.images)), abs=1e-6)


@torch.no_grad()
def test_rows_are_sentences_and_columns_images() -> None:
    """Sentences that find their own image lose nothing; those that find another lose all."""
    batch = four()
    target = 30 * torch.eye(2)[batch.image_of]  # the sentences about image i all say i
    found = torch.eye(2).expand(4, 2, 2)
    counted = torch.ones(4, 2).bool()
    assert float(cycle_consistency(target, found, counted, batch, 1.0)) < 1e-6
    wrong = cycle_consistency(target, found.flip(1), counted, batch, 1.0)
    assert float(wrong) == pytest.approx(30, abs=1e-4)


@torch.no_grad()
def test_the_order_of_a_batch_does_not_matter() -> None:
    method, batch = made(), toy_batch(toy_samples(2))
    turned = rows_of(batch, [2, 0, 3, 1])
    before, after = method.loss(method(batch), batch), method.loss(method(turned), turned)
    for name, value in before.items():
        assert float(after[name]) == pytest.approx(float(value), abs=1e-5), name


def gradients(method: Sag, *, detached: bool) -> tuple[Tensor, Tensor]:
    """Of L_C3 by the sentences and the slots, the target detached or not."""
    batch = four()
    outputs = method(batch)
    sentences = outputs.sentences.detach().requires_grad_()
    heard = outputs.heard
    keys = heard.keys.detach().requires_grad_()
    values = heard.values.detach().requires_grad_()
    found = method.fusion.pairs(sentences, replace(heard, keys=keys, values=values))
    target = sentences.detach() if detached else sentences
    counted = torch.ones(4, 2).bool()
    cycle_consistency(target, found, counted, batch, 1.0).backward()
    assert sentences.grad is not None
    assert keys.grad is not None
    assert values.grad is not None
    return sentences.grad, torch.cat([keys.grad.flatten(), values.grad.flatten()])


def test_the_sentence_is_a_detached_target_and_still_learns() -> None:
    method = made()
    text, of_slots = gradients(method, detached=True)
    free_text, free_slots = gradients(method, detached=False)
    assert text.abs().max() > 0, "through the query and the residual"
    assert not torch.allclose(text, free_text, rtol=1e-2), "the target's own would be another"
    near(of_slots, free_slots, atol=1e-8)
    # And it is detached in the method: through psi alone, nothing comes back.
    batch = four()
    outputs = method(batch)
    sentences = outputs.sentences.detach().requires_grad_()
    method.fusion.pairs = lambda *_: F.normalize(torch.ones(4, 2, 32), dim=-1)  # type: ignore[method-assign]
    total = method.loss(replace(outputs, sentences=sentences), batch)["contrast"]
    assert not total.requires_grad


def test_features_learn_to_be_rebuilt_through_the_slots_alone() -> None:
    decoder = BroadcastDecoder(ReconstructionConfig(layers=3, width=12), WIDTH, 10)
    seen = torch.randn(2, 6, 10, requires_grad=True)
    of_slots = torch.randn(2, 5, WIDTH, requires_grad=True)
    reconstruction_loss(decoder, of_slots, seen, (2, 3), 1.0).backward()
    assert seen.grad is None
    assert of_slots.grad is not None
    assert of_slots.grad.abs().max() > 0
    method, batch = made(), four()
    method.loss(method(batch), batch)["reconstruction"].backward()
    gradient = next(method.vision.parameters()).grad
    assert gradient is not None
    assert gradient.abs().max() > 0


@torch.no_grad()
def test_shares_of_the_decoder_add_up_to_one() -> None:
    decoder = BroadcastDecoder(ReconstructionConfig(layers=3, width=12), WIDTH, 10)
    _, shares = decoder(3 * torch.randn(2, 5, WIDTH), (2, 3))
    near(shares.sum(dim=1), torch.ones(2, 6), atol=1e-6)


@torch.no_grad()
def test_the_decoders_first_map_of_a_sum_is_the_sum() -> None:
    decoder = BroadcastDecoder(ReconstructionConfig(layers=2, width=12), WIDTH, 10)
    slot, place = torch.randn(7, WIDTH), torch.randn(7, WIDTH)
    apart = decoder.first(slot) + F.linear(place, decoder.first.weight)
    near(apart, decoder.first(slot + place), atol=1e-6)


@torch.no_grad()
def test_keys_and_values_projected_once_are_those_of_every_iteration() -> None:
    method = discovery()
    class_forward = Aggregation.forward
    expected = method(patches(), noise())

    def anew(self: Aggregation, of: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        return class_forward(self, of, self.look(patches()))

    method.aggregate.forward = anew.__get__(method.aggregate)  # type: ignore[method-assign]
    found = method(patches(), noise())
    assert torch.equal(found.slots, expected.slots)
    assert torch.equal(found.attention, expected.attention)


# -- masks -----------------------------------------------------------------------------------------


def test_a_higher_threshold_gives_no_larger_mask_and_never_none() -> None:
    batch = toy_batch(toy_samples(2, ((37, 91), (80, 53))))
    before: list[np.ndarray] | None = None
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        config = sag_config(answer=AnswerConfig(threshold=threshold))
        masks = [p.mask for p in answers(made(config), batch)]
        assert all(mask.any() for mask in masks)
        if before is not None:
            assert all((low | ~high).all() for low, high in zip(before, masks, strict=True))
            assert sum(m.sum() for m in masks) < sum(m.sum() for m in before)
        before = masks


@pytest.mark.parametrize(("factor", "shift"), [(2.0, 0.0), (0.25, 0.5), (100.0, -3.0)])
def test_a_mask_is_the_same_of_a_map_on_another_scale(factor: float, shift: float) -> None:
    one = np.random.default_rng(0).random((24, 24), np.float32)
    other = np.float32(factor) * one + np.float32(shift)
    assert ((stretched(one) >= 0.5) != (stretched(other) >= 0.5)).mean() < 0.005


# -- noise -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_answers_repeat_bit_for_bit_and_learning_draws_anew() -> None:
    method, batch = made(), four()
    assert torch.equal(method(batch).fuse, method(batch).fuse)
    method.train()
    one, other = method(batch), method(batch)
    assert not torch.allclose(one.slots, other.slots, atol=1e-3)
    torch.manual_seed(3)
    one = method(batch)
    torch.manual_seed(3)
    assert torch.equal(one.slots, method(batch).slots)


# -- half precision --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_normalisations_stay_in_float32_in_half_precision(dtype: torch.dtype) -> None:
    assert torch.tensor(EPS, dtype=torch.float16) < torch.finfo(torch.float16).smallest_normal
    method = discovery()
    with torch.autocast("cpu", dtype):
        found = method(patches(), noise())
        relevant = made()(four()).fuse
    assert found.attention.dtype == relevant.dtype == torch.float32
    near(found.attention.sum(dim=2), torch.ones(2, 1, PATCHES), atol=1e-6)
    near(relevant.sum(dim=2), torch.ones(4, 1), atol=1e-6)
    expected = method(patches(), noise())
    assert (found.attention - expected.attention).abs().max() < 0.1
