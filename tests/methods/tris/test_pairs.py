"""The pair loss of edges and displacements against loops over pairs of cells."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.methods.tris.pairs import highest_between, neighbours, pair_loss
from refseg.methods.tris.seeds import IGNORE
from refseg.ops.random_walk import offsets


def line_between(start, end):
    """Cells of the rectangle between two cells that lie nearer than 1 to the line."""
    (y0, x0), (y1, x1) = start, end
    dy, dx = y1 - y0, x1 - x0
    for y in range(min(y0, y1), max(y0, y1) + 1):
        for x in range(min(x0, x1), max(x0, x1) + 1):
            if abs(dy * (x - x0) - dx * (y - y0)) / math.hypot(dy, dx) < 1:
                yield y, x


def pairs_of(hw, radius):
    """Pairs of cells nearer than the radius, each once, the earlier cell first."""
    places = [(y, x) for y in range(hw[0]) for x in range(hw[1])]
    for n, one in enumerate(places):
        for other in places[n + 1 :]:
            if math.hypot(one[0] - other[0], one[1] - other[1]) < radius:
                yield one, other


def literal_loss(logits, displacement, labels, radius):
    """The notes' formula, a pair at a time; in the dtype of the logits."""
    eps = 1e-5
    sums = {
        name: [logits.new_zeros(()), 0]
        for name in ("background", "foreground", "apart", "moves", "stays")
    }

    def add(name, value):
        sums[name][0] = sums[name][0] + value
        sums[name][1] += 1

    for b in range(len(labels)):
        edge = logits[b].sigmoid()
        for one, other in pairs_of(labels.shape[1:], radius):
            first, second = int(labels[b][one]), int(labels[b][other])
            if IGNORE in (first, second):
                continue
            a = 1 - torch.stack([edge[place] for place in line_between(one, other)]).max()
            if first != second:
                add("apart", -torch.log(1 + eps - a))
                continue
            change = displacement[b, :, one[0], one[1]] - displacement[b, :, other[0], other[1]]
            add("foreground" if first else "background", -torch.log(a + eps))
            for axis in range(2):
                step = other[axis] - one[axis] if first else 0
                add("moves" if first else "stays", (change[axis] - step).abs())
    return {name: total / (count + eps) for name, (total, count) in sums.items()}


def literal_total(terms):
    same = terms["background"] / 2 + terms["foreground"] / 2
    return (same + terms["apart"]) / 2 + (terms["moves"] + terms["stays"]) / 2


def some_maps(hw, seed, count=2):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, *hw, generator=generator)
    displacement = 3 * torch.randn(count, 2, *hw, generator=generator)
    picked = torch.randint(4, (count, *hw), generator=generator)
    return logits, displacement, torch.tensor([0, 1, 1, IGNORE])[picked]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 5), st.integers(0, 10_000))
def test_loss_is_the_loop_over_pairs(height, width, radius, seed):
    logits, displacement, labels = some_maps((height, width), seed)
    found = pair_loss(logits, displacement, labels, radius)
    expected = literal_loss(logits.double(), displacement.double(), labels, radius)
    names = {
        "edge_background": "background",
        "edge_foreground": "foreground",
        "edge_apart": "apart",
        "displacement_foreground": "moves",
        "displacement_background": "stays",
    }
    for name, other in names.items():
        assert float(found[name]) == pytest.approx(float(expected[other]), rel=1e-4, abs=1e-5)
    total = float(literal_total(expected))
    assert float(found["total"]) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_gradients_are_those_of_the_loop():
    logits, displacement, labels = some_maps((4, 5), 3, count=1)
    found = [x.clone().requires_grad_() for x in (logits, displacement)]
    pair_loss(*found, labels, 4)["total"].backward()
    plain = [x.double().requires_grad_() for x in (logits, displacement)]
    literal_total(literal_loss(*plain, labels, 4)).backward()
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-3, atol=1e-6)


def test_highest_between_takes_lines_at_the_papers_radius():
    edge = torch.rand(1, 12, 23, generator=torch.Generator().manual_seed(0))
    found = highest_between(edge, 10)
    assert found.shape == (1, 152, 12, 23)
    for k, (dy, dx) in enumerate(offsets(10).tolist()):
        for y, x in ((0, 11), (2, 10), (1, 3)):
            if y + dy < 12 and 0 <= x + dx < 23:
                line = line_between((y, x), (y + dy, x + dx))
                assert found[0, k, y, x] == max(edge[0][place] for place in line)


def test_neighbours_outside_are_filled():
    x = torch.arange(1, 7).view(1, 2, 3)
    found = neighbours(x, 2, fill=9)
    assert offsets(2).tolist() == [[0, 1], [1, -1], [1, 0], [1, 1]]
    assert found[0, 0].tolist() == [[2, 3, 9], [5, 6, 9]]
    assert found[0, 1].tolist() == [[9, 4, 5], [9, 9, 9]]


def test_perfect_maps_cost_next_to_nothing():
    # Two halves, told apart by a wall of edges that no label lies on; the right one is the object.
    labels = torch.zeros(1, 8, 12, dtype=torch.int64)
    labels[:, :, 6:] = 1
    labels[:, :, 5:7] = IGNORE
    logits = torch.full((1, 8, 12), -30.0)
    logits[:, :, 5:7] = 30.0
    displacement = torch.zeros(1, 2, 8, 12)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    centre = torch.stack([3 - rows, 9 - columns]).float()
    displacement[0] = torch.where(labels[0] == 1, centre, 0.0)
    terms = pair_loss(logits, displacement, labels, 5)
    assert all(abs(float(value)) < 1e-4 for value in terms.values())
    # Without an edge the halves run together; with nothing but edges each falls apart.
    none = pair_loss(torch.full_like(logits, -30.0), displacement, labels, 5)
    assert float(none["edge_apart"]) == pytest.approx(-math.log(1e-5), abs=0.1)
    full = pair_loss(torch.full_like(logits, 30.0), displacement, labels, 5)
    assert float(full["edge_background"]) == pytest.approx(-math.log(1e-5), abs=0.1)
    assert float(full["edge_foreground"]) == pytest.approx(-math.log(1e-5), abs=0.1)


def test_nothing_known_costs_nothing():
    logits, displacement, labels = some_maps((5, 6), 0)
    logits.requires_grad_()
    total = pair_loss(logits, displacement, torch.full_like(labels, IGNORE), 4)["total"]
    total.backward()
    assert total.item() == 0
    assert float(logits.grad.abs().sum()) == 0


def test_extreme_logits_stay_finite():
    _, displacement, labels = some_maps((5, 6), 0)
    for value in (-200.0, 200.0):
        logits = torch.full(labels.shape, value, requires_grad=True)
        total = pair_loss(logits, displacement, labels, 4)["total"]
        total.backward()
        assert torch.isfinite(total)
        assert torch.isfinite(logits.grad).all()
