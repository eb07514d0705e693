"""Losses against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.nn.losses import binary_cross_entropy, dice, masked_mean, two_class_cross_entropy


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 10), st.floats(0.0, 4.0), st.booleans()), min_size=1, max_size=6
    )
)
def test_masked_mean_is_a_weighted_mean_over_the_known(
    rows: list[tuple[float, float, bool]],
) -> None:
    values, weights, known = (torch.tensor(column) for column in zip(*rows, strict=True))
    total = sum(w for _, w, k in rows if k)
    expected = sum(v * w for v, w, k in rows if k) / max(total, 1e-6)
    found = float(masked_mean(values.float(), weights.float(), known))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_masked_mean_of_nothing_is_zero_with_a_graph() -> None:
    values = torch.ones(2, requires_grad=True)
    result = masked_mean(values, torch.ones(2), torch.zeros(2, dtype=torch.bool))
    result.backward()
    assert float(result.detach()) == 0
    assert values.grad is not None
    assert not values.grad.any()


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0]], [[-1.0, 3.0]]])
    target = torch.tensor([[[0.0, 1.0]], [[1.0, 0.25]]])
    expected = []
    for row_l, row_t in zip(logits.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        p = [1 / (1 + math.exp(-x)) for x in row_l]
        terms = [
            -z * math.log(q) - (1 - z) * math.log(1 - q) for q, z in zip(p, row_t, strict=True)
        ]
        expected.append(sum(terms) / 2)
    torch.testing.assert_close(binary_cross_entropy(logits, target), torch.tensor(expected))


def test_half_precision_logits_are_summed_in_full() -> None:
    logits = torch.full((1, 100, 100), 0.001, dtype=torch.bfloat16)
    value = binary_cross_entropy(logits, torch.zeros(1, 100, 100))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(math.log(2) + 0.0005, abs=1e-5)


def test_two_classes_against_torchs_weighted_mean() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4), (torch.rand(3, 5, 4) > 0.4).float()
    weights = torch.tensor([0.9, 1.1])
    expected = [
        torch.nn.functional.cross_entropy(
            logits[i : i + 1], target[i : i + 1].long(), weight=weights
        )
        for i in range(3)
    ]
    torch.testing.assert_close(
        two_class_cross_entropy(logits, target, weights), torch.stack(expected)
    )


def test_dice_by_hand() -> None:
    target = torch.zeros(3, 2, 2)
    target[0] = 1
    target[1, 0] = 1
    probability = torch.stack([torch.ones(2, 2), torch.full((2, 2), 0.5), torch.zeros(2, 2)])
    expected = torch.tensor([1 - 9 / 9, 1 - (2 * 1 + 1) / (2 + 2 + 1), 1 - 1 / 1])
    torch.testing.assert_close(dice(probability, target), expected)
