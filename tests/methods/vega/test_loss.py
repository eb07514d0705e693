"""VEGA's losses: numbers known beforehand, a temperature that learns, masks that are unknown."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.vega.config import LossConfig
from refseg.methods.vega.loss import VegaLoss
from refseg.models import build_method
from refseg.types import Batch
from tests.methods.toy import rows_of, toy_batch, toy_method, toy_samples, vega_config

HW = (8, 8)


def batch_of(masks: Tensor, known: Tensor | None = None, weights: Tensor | None = None) -> Batch:
    count = len(masks)
    base = rows_of(toy_batch(toy_samples(2)), [0] * count)
    return replace(
        base,
        masks=masks.float(),
        has_mask=torch.ones(count, dtype=torch.bool) if known is None else known,
        weights=torch.ones(count) if weights is None else weights,
    )


def half_masks(count: int = 1) -> Tensor:
    masks = torch.zeros(count, *HW)
    masks[:, :, 4:] = 1
    return masks


def loss(**changes: Any) -> VegaLoss:
    return VegaLoss(LossConfig(**changes), contrastive=True)


def contrastive(scores: Tensor, masks: Tensor, **changes: Any) -> float:
    terms = loss(**changes)(torch.zeros(len(masks), 1, *HW), scores.flatten(1), HW, batch_of(masks))
    return float(terms["contrastive"].detach())


@pytest.mark.parametrize("target", ["upsample", "downsample"])
def test_contrastive_numbers(target: str) -> None:
    masks = half_masks()
    perfect = 2 * masks - 1
    assert contrastive(perfect, masks, tau_init=0.07, contrastive_target=target) < 1e-5
    nothing = contrastive(torch.zeros(1, *HW), masks, contrastive_target=target)
    assert nothing == pytest.approx(math.log(2), abs=1e-6)
    wrong = contrastive(-perfect, masks, tau_init=0.07, contrastive_target=target)
    assert wrong == pytest.approx(1 / 0.07, rel=1e-3)


def test_a_temperature_stuck_at_one_bounds_the_loss() -> None:
    """Cosines end at 1, so without a learned temperature a perfect map still costs 0.3133."""
    masks = half_masks()
    bound = math.log(1 + math.exp(-1))
    assert bound == pytest.approx(0.3133, abs=1e-4)
    assert contrastive(2 * masks - 1, masks, tau_init=1.0) == pytest.approx(bound, abs=1e-5)


def test_contrastive_against_a_loop() -> None:
    torch.manual_seed(0)
    scores, masks = torch.rand(2, *HW) * 2 - 1, (torch.rand(2, *HW) > 0.5).float()
    total = 0.0
    for b in range(2):
        for y in range(8):
            for x in range(8):
                p = 1 / (1 + math.exp(-float(scores[b, y, x]) / 0.3))
                z = float(masks[b, y, x])
                total -= (z * math.log(p) + (1 - z) * math.log(1 - p)) / 128
    assert contrastive(scores, masks, tau_init=0.3) == pytest.approx(total, rel=1e-5)


def test_contrastive_targets_of_another_size() -> None:
    """upsample: scores to the mask, as CrossVLT; downsample: the share of each cell's mask."""
    masks = torch.zeros(1, *HW)
    masks[:, :, 2:] = 1
    scores = torch.tensor([[[0.1, 0.9], [0.2, 0.8]]])
    made = loss(contrastive_target="downsample", tau_init=1.0)
    cells = torch.tensor([[[0.5, 1.0], [0.5, 1.0]]])
    expected = torch.nn.functional.binary_cross_entropy(scores.sigmoid(), cells)
    found = made.contrastive(scores.flatten(1), (2, 2), masks)
    torch.testing.assert_close(found, expected[None])
    up = torch.nn.functional.interpolate(scores[None], HW, mode="bilinear")[0]
    expected = torch.nn.functional.binary_cross_entropy(up.sigmoid(), masks)
    found = loss(tau_init=1.0).contrastive(scores.flatten(1), (2, 2), masks)
    torch.testing.assert_close(found, expected[None])


@pytest.mark.parametrize("tau", [1.0, 0.07, 0.01])
def test_the_temperature_gets_a_gradient_even_at_its_bounds(tau: float) -> None:
    made = loss(tau_init=tau)
    scores = torch.linspace(-1, 1, 64)[None]
    terms = made(torch.zeros(1, 1, *HW), scores, HW, batch_of(half_masks()))
    terms["total"].backward()
    assert made.log_tau is not None
    assert made.log_tau.grad is not None
    assert abs(float(made.log_tau.grad)) > 1e-6


def test_the_temperature_is_in_a_group_and_moves() -> None:
    method = build_method("vega", vega_config(loss=LossConfig(tau_init=0.5))).train()
    groups = method.parameter_groups()
    tau = method.objective.log_tau
    home = [g for g in groups if any(p is tau for p in g.parameters)]
    assert len(home) == 1
    assert home[0].decay_scale == 0, "decay would pull the temperature to one"
    optimiser = torch.optim.AdamW([{"params": g.parameters} for g in groups], lr=1e-3)
    batch = toy_batch(toy_samples(2))
    method.loss(method(batch), batch)["total"].backward()
    optimiser.step()
    assert float(tau.detach()) != pytest.approx(math.log(0.5), abs=1e-5)
    assert float(method.objective.tau.detach()) != pytest.approx(0.5, abs=1e-5)


def test_the_temperature_stays_in_its_range_and_comes_back() -> None:
    made = loss(tau_init=1.0, tau_min=0.05, tau_max=1.0)
    assert made.log_tau is not None
    for raw, expected in [(3.0, 1.0), (0.5, 0.5), (0.001, 0.05)]:
        with torch.no_grad():
            made.log_tau.fill_(math.log(raw))
        assert float(made.tau.detach()) == pytest.approx(expected, rel=1e-5)
    perfect, masks = (2 * half_masks() - 1).flatten(1), half_masks()
    with torch.no_grad():
        made.log_tau.fill_(math.log(1.3))
    optimiser = torch.optim.SGD(made.parameters(), lr=0.5)
    for _ in range(20):
        optimiser.zero_grad()
        made(torch.zeros(1, 1, *HW), perfect, HW, batch_of(masks))["total"].backward()
        optimiser.step()
    assert float(made.tau.detach()) < 0.9


def test_segmentation_is_the_mean_over_pixels() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 1, *HW), half_masks(2)
    terms = loss()(logits, None, HW, batch_of(masks))
    expected = torch.nn.functional.binary_cross_entropy(logits[:, 0].sigmoid(), masks)
    torch.testing.assert_close(terms["segmentation"], expected)
    assert set(terms) == {"segmentation", "total"}


def test_logits_are_brought_to_the_mask() -> None:
    coarse = torch.tensor([[[[-5.0, 5.0], [-5.0, 5.0]]]])
    full = torch.nn.functional.interpolate(coarse, HW, mode="bilinear", align_corners=False)
    masks = half_masks()
    ours = loss()(coarse, None, HW, batch_of(masks))["segmentation"]
    torch.testing.assert_close(ours, loss()(full, None, HW, batch_of(masks))["segmentation"])


def test_weights_of_the_terms() -> None:
    torch.manual_seed(0)
    logits, scores = torch.randn(1, 1, *HW), torch.rand(1, 64)
    terms = loss(segmentation=2.0, contrastive=0.5, dice=0.25)(
        logits, scores, HW, batch_of(half_masks())
    )
    parts = 2 * terms["segmentation"] + 0.5 * terms["contrastive"] + 0.25 * terms["dice"]
    torch.testing.assert_close(terms["total"], parts)
    silent = VegaLoss(LossConfig(contrastive=0), contrastive=True)
    assert list(silent.parameters()) == []
    assert set(silent(logits, scores, HW, batch_of(half_masks()))) == {"segmentation", "total"}


def test_unknown_masks_add_nothing_even_if_they_are_junk() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 1, *HW, requires_grad=True)
    scores, masks = torch.rand(3, 64), half_masks(3)
    masks[1] = float("nan")
    known = torch.tensor([True, False, True])
    terms = loss(dice=1.0)(logits, scores, HW, batch_of(masks, known))
    pair = batch_of(half_masks(2))
    both = loss(dice=1.0)(logits[[0, 2]], scores[[0, 2]], HW, pair)
    for name, value in both.items():
        torch.testing.assert_close(terms[name], value)


def test_no_known_mask_is_a_zero_loss_with_a_graph() -> None:
    logits = torch.randn(2, 1, *HW, requires_grad=True)
    none = torch.zeros(2, dtype=torch.bool)
    terms = loss()(logits, torch.rand(2, 64), HW, batch_of(half_masks(2), none))
    assert float(terms["total"].detach()) == 0
    terms["total"].backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weighted_samples() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 1, *HW), half_masks(2)
    one, two = (
        float(loss()(logits[i : i + 1], None, HW, batch_of(masks[:1]))["total"]) for i in range(2)
    )
    mixed = loss()(logits, None, HW, batch_of(masks, weights=torch.tensor([3.0, 1.0])))["total"]
    assert float(mixed) == pytest.approx((3 * one + two) / 4, rel=1e-5)


def test_two_classes_as_lavt_weighs_them() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 2, *HW), (torch.rand(2, *HW) > 0.7).float()
    terms = loss()(logits, None, HW, batch_of(masks))
    per_item = [
        torch.nn.functional.cross_entropy(
            logits[i : i + 1], masks[i : i + 1].long(), weight=torch.tensor([0.9, 1.1])
        )
        for i in range(2)
    ]
    torch.testing.assert_close(terms["segmentation"], torch.stack(per_item).mean())


def test_slices_weighted_by_loss_weight_make_the_whole() -> None:
    """Gradient accumulation: micro-batches with unequal numbers of known masks."""
    method = toy_method("vega").eval()
    batch = toy_batch(toy_samples(2))
    batch = replace(
        batch,
        has_mask=torch.tensor([True, True, True, False]),
        weights=torch.tensor([1.0, 0.5, 2.0, 1.0]),
    )
    with torch.no_grad():
        whole = method.loss(method(batch), batch)["total"]
        slices = [rows_of(batch, rows) for rows in ([0, 1], [2, 3])]
        shares = [method.loss_weight(part) for part in slices]
        parts = [method.loss(method(part), part)["total"] for part in slices]
    assert shares == [1.5, 2.0]
    joined = sum(s * p for s, p in zip(shares, parts, strict=True)) / sum(shares)
    torch.testing.assert_close(whole, joined, atol=1e-5, rtol=1e-5)
    assert method.loss_weight(replace(batch, has_mask=torch.zeros(4).bool())) > 0


def test_a_batch_without_masks_is_refused_by_name() -> None:
    method = toy_method("vega").eval()
    batch = toy_batch(toy_samples(1, labelled=False))
    assert batch.masks is None
    with pytest.raises(ValueError, match="needs masks"):
        method.loss(method(batch), batch)


def test_language_only_guidance_has_no_contrastive_loss() -> None:
    method = build_method("vega", vega_config(guidance="language"))
    assert method.objective.log_tau is None
    batch = toy_batch(toy_samples(1))
    assert set(method.loss(method(batch), batch)) == {"segmentation", "total"}
