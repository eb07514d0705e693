"""The loss against sums written out, torch's own smoothing, and the weights of SeqTR."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import LossConfig, SequenceConfig
from refseg.methods.partial_res.loss import (
    inside_loss,
    sequence_loss,
    smoothed_cross_entropy,
)
from refseg.methods.partial_res.places import Grid
from refseg.methods.partial_res.sequence import Targets, token_weights
from tests.methods.partial_res import literal
from tests.methods.toy import toy_batch, toy_method, toy_samples
from tests.methods.toy_configs import partial_res_config

BINS, POINTS = 10, 3
TASKS = {
    "rec": {"task": "rec", "task_token": "zero"},
    "res": {"task": "res", "task_token": "learnable"},
    "multi": {"task": "multi", "task_token": "task-wise"},
}


def config(task: str) -> PartialResConfig:
    written = SequenceConfig(points=POINTS, bins=BINS)
    return partial_res_config(**TASKS[task], sequence=written)


def told(task: str, rows: int = 4, seed: int = 0) -> tuple[Tensor, Targets]:
    """Random logits and targets, every row with an END, the last row of END alone."""
    made = config(task)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, made.length, BINS + 1, generator=generator)
    wanted = torch.randint(0, BINS, (rows, made.length), generator=generator)
    wanted[:, -1] = BINS
    wanted[-1] = BINS
    known = torch.ones(rows, dtype=torch.bool)
    return logits, Targets(wanted[:, :-1], wanted, token_weights(wanted, made), known)


def total(logits: Tensor, wanted: Targets, weights: Any = None, **changes: Any) -> Tensor:
    rows = torch.ones(len(logits)) if weights is None else torch.tensor(weights)
    terms = sequence_loss(logits, wanted, LossConfig(**changes), rows)
    assert terms.keys() == {"tokens", "total"}
    assert torch.equal(terms["tokens"], terms["total"])
    return terms["total"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("task", TASKS)
def test_it_is_the_sum_written_out(task: str, smoothing: float) -> None:
    logits, wanted = told(task)
    expected, each = literal.smoothed_loss(logits, wanted.wanted, wanted.weights, smoothing)
    found = smoothed_cross_entropy(logits, wanted.wanted, smoothing)
    torch.testing.assert_close(found, each, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total(logits, wanted, smoothing=smoothing), expected)


def test_torchs_smoothing_differs_by_its_share_of_the_true_id() -> None:
    """Torch gives the true id 1 - e + e / V, ours 1 - e: less by (e / V) * -log p, V = K + 1."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1001, generator=generator)
    wanted = torch.randint(0, 1001, (64,), generator=generator)
    ours = smoothed_cross_entropy(logits.double(), wanted, 0.1)
    theirs = F.cross_entropy(logits.double(), wanted, label_smoothing=0.1, reduction="none")
    surprise = F.cross_entropy(logits.double(), wanted, reduction="none")
    share = 0.1 / 1001 * surprise
    torch.testing.assert_close(theirs - ours, share, atol=2e-6, rtol=0, check_dtype=False)
    assert 5e-4 < float(share.max()) < 2e-3  # the notes measured 9.3e-4


def test_the_target_sums_to_a_little_less_than_one() -> None:
    """0.9 and a thousand times 0.1 / 1001: of equal chances, that share of log V."""
    found = smoothed_cross_entropy(torch.zeros(1, 1001), torch.tensor([7]), 0.1)
    assert float(found) / math.log(1001) == pytest.approx(1 - 0.1 / 1001, abs=1e-6)


def test_without_smoothing_it_is_cross_entropy() -> None:
    logits, wanted = told("rec")
    found = smoothed_cross_entropy(logits, wanted.wanted, 0.0)
    expected = F.cross_entropy(logits.transpose(1, 2), wanted.wanted, reduction="none")
    torch.testing.assert_close(found, expected)


def test_half_precision_is_summed_in_full() -> None:
    logits, wanted = told("res")
    rounded = logits.bfloat16()
    found = smoothed_cross_entropy(rounded, wanted.wanted, 0.1)
    assert found.dtype == torch.float32
    assert torch.equal(found, smoothed_cross_entropy(rounded.float(), wanted.wanted, 0.1))


# -- what the papers have not ----------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_neighbours_share_the_mass_of_a_coordinate(spread: float) -> None:
    """A Gaussian about the true bin, cut off at the ends; END has it all; smoothing on all ids."""
    logits = 2 * torch.randn(BINS + 1, BINS + 1, generator=torch.Generator().manual_seed(0))
    wanted = torch.arange(BINS + 1)
    found = smoothed_cross_entropy(logits, wanted, 0.1, spread)
    for true in range(BINS + 1):
        mass = [math.exp(-(((v - true) / spread) ** 2) / 2) for v in range(BINS)]
        share = [m / sum(mass) for m in mass] + [0.0]
        if true == BINS:
            share = [0.0] * BINS + [1.0]
        chance = logits[true].softmax(dim=0)
        expected = -sum(
            (0.9 * share[v] + 0.1 / (BINS + 1)) * math.log(chance[v]) for v in range(BINS + 1)
        )
        assert float(found[true]) == pytest.approx(expected, rel=1e-5)
    narrow = smoothed_cross_entropy(logits, wanted, 0.0, 0.01)
    torch.testing.assert_close(narrow, smoothed_cross_entropy(logits, wanted, 0.0))


def test_cells_are_asked_for_the_box() -> None:
    """The share of each cell that lies in it; rows without a box are left out."""
    grid = Grid((2, 3), (16, 20), 8)
    boxes = torch.tensor([[2.0, 4.0, 12.0, 16.0], [0.0, 0.0, 20.0, 16.0], [torch.nan] * 4])
    covered = grid.covered(boxes)
    expected = torch.tensor([[6 / 8, 4 / 8, 0.0], [6 / 8, 4 / 8, 0.0]])
    torch.testing.assert_close(covered[0], expected * torch.tensor([[4 / 8], [1.0]]))
    torch.testing.assert_close(covered[1], torch.tensor([[1.0, 1.0, 0.5]] * 2))
    logits = torch.randn(3, 2, 3)
    found = inside_loss(logits, covered, torch.ones(3), torch.tensor([True, True, False]))
    terms = []
    for b in range(2):
        for i in range(2):
            for j in range(3):
                chance, share = float(logits[b, i, j].sigmoid()), float(covered[b, i, j])
                terms.append(-share * math.log(chance) - (1 - share) * math.log(1 - chance))
    assert float(found) == pytest.approx(sum(terms) / 12, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_only_where_boxes_are_learned(task: str) -> None:
    made = partial_res_config(**TASKS[task], loss=LossConfig(inside=2.0))
    torch.manual_seed(0)
    method = PartialRes(made).eval()
    batch = toy_batch(toy_samples(2))
    with torch.no_grad():
        terms = method.loss(method(batch), batch)
        blind = method.loss(method(batch), replace(batch, boxes=None))
    if task == "res":
        assert not made.asks_inside
        assert terms.keys() == {"tokens", "total"}
        return
    assert float(terms["inside"]) > 0
    torch.testing.assert_close(terms["total"], terms["tokens"] + 2 * terms["inside"])
    assert float(blind["total"]) == 0.0  # nothing is known


# -- weights of tokens -----------------------------------------------------------------------


def test_end_weighs_a_tenth_in_res_alone() -> None:
    wanted = torch.tensor([[3, 4, 5, BINS, BINS], [BINS] * 5])
    light = torch.tensor([[1, 1, 1, 0.1, 0.1], [0.1] * 5])
    torch.testing.assert_close(token_weights(wanted, config("res")), light)
    heavy = torch.tensor([[1.5, 1, 1, 1, 1]] * 2)
    for task in ("rec", "multi"):
        torch.testing.assert_close(token_weights(wanted, config(task)), heavy)


def test_settings_change_these_weights() -> None:
    wanted = torch.tensor([[3, 4, BINS]])
    for task, expected in (("res", [1, 1, 0.5]), ("rec", [3, 1, 1]), ("multi", [3, 1, 1])):
        made = config(task).model_copy(update={"loss": LossConfig(end=0.5, first=3.0)})
        assert token_weights(wanted, made).tolist() == [expected]


def test_a_sample_of_end_alone_contributes_a_tenth_of_itself() -> None:
    logits, wanted = told("res")
    _, each = literal.smoothed_loss(logits, wanted.wanted, wanted.weights, 0.1)
    only = [0.0, 0.0, 0.0, 1.0]
    torch.testing.assert_close(total(logits, wanted, only), 0.1 * each[3].mean())
    torch.testing.assert_close(
        total(logits, wanted, only, normalise="weights"), each[3].mean()
    )  # there the tenth cancels


def test_the_first_coordinate_of_a_box_counts_half_as_much_again() -> None:
    logits, wanted = told("rec")
    _, each = literal.smoothed_loss(logits, wanted.wanted, wanted.weights, 0.1)
    expected = ((1.5 * each[:, 0] + each[:, 1:].sum(dim=1)) / 5).mean()
    torch.testing.assert_close(total(logits, wanted), expected)


def test_tokens_or_weights_under_the_line() -> None:
    logits, wanted = told("res")
    _, each = literal.smoothed_loss(logits, wanted.wanted, wanted.weights, 0.1)
    weighted = each * wanted.weights
    by_tokens = (weighted.sum(dim=1) / 7).mean()
    by_weights = (weighted.sum(dim=1) / wanted.weights.sum(dim=1)).mean()
    torch.testing.assert_close(total(logits, wanted), by_tokens)
    torch.testing.assert_close(total(logits, wanted, normalise="weights"), by_weights)
    assert not torch.isclose(by_tokens, by_weights)
    # Without weights the two are the same.
    plain = replace(wanted, weights=torch.ones_like(wanted.weights))
    torch.testing.assert_close(total(logits, plain), total(logits, plain, normalise="weights"))


def test_no_weight_at_all_is_no_division_by_zero() -> None:
    logits, wanted = told("res")
    nothing = replace(wanted, weights=torch.zeros_like(wanted.weights))
    for rule in ("tokens", "weights"):
        assert float(total(logits, nothing, normalise=rule)) == 0.0


# -- weights of rows -------------------------------------------------------------------------


def test_rows_count_by_their_weight() -> None:
    logits, wanted = told("rec")
    rows = [float(total(logits, wanted, [float(n == row) for n in range(4)])) for row in range(4)]
    weights = [1.0, 0.25, 0.0, 2.0]
    expected = sum(w * r for w, r in zip(weights, rows, strict=True)) / 3.25
    assert float(total(logits, wanted, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(total(logits, wanted, [0.5] * 4)) == pytest.approx(sum(rows) / 4, rel=1e-5)


def test_unknown_rows_do_not_count_even_if_they_are_not_finite() -> None:
    logits, wanted = told("rec")
    logits[1] = torch.nan
    known = torch.tensor([True, False, True, True])
    found = total(logits.requires_grad_(), replace(wanted, known=known), [1.0, 9.0, 1.0, 1.0])
    expected = total(logits.detach()[[0, 2, 3]], _rows(wanted, [0, 2, 3]))
    torch.testing.assert_close(found, expected)


def _rows(wanted: Targets, rows: list[int]) -> Targets:
    return Targets(
        wanted.tokens[rows], wanted.wanted[rows], wanted.weights[rows], wanted.known[rows]
    )


@pytest.mark.parametrize("name", ["partial_res", "partial_res rec", "partial_res multi"])
@torch.no_grad()
def test_a_method_weighs_its_batch(name: str) -> None:
    method = toy_method(name).eval()
    batch = toy_batch(toy_samples(2))
    alone = []
    for row in range(4):
        only = torch.zeros(4)
        only[row] = 1.0
        one = replace(batch, weights=only)
        alone.append(float(method.loss(method(one), one)["total"]))
        assert method.loss_weight(one) == 1.0
    weighted = replace(batch, weights=torch.tensor([2.0, 1.0, 0.5, 0.0]))
    found = float(method.loss(method(weighted), weighted)["total"])
    expected = (2 * alone[0] + alone[1] + 0.5 * alone[2]) / 3.5
    assert found == pytest.approx(expected, rel=1e-5)
    assert method.loss_weight(weighted) == 3.5
