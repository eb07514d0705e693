"""Boxes and masks as tokens: layouts, targets and weights written out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import SequenceConfig
from refseg.methods.partial_res.sequence import (
    Layout,
    Targets,
    contour_tokens,
    jittered,
    shuffled,
    targets,
)
from refseg.ops.contours import outer_contour
from refseg.types import Batch, Geometry
from tests.methods.toy import TOYS, rows_of, toy_batch, toy_method, toy_samples
from tests.methods.toy_configs import partial_res_config

END = 16  # bins, one a pixel
TASKS = {
    "rec": {"task": "rec", "task_token": "zero"},
    "res": {"task": "res", "task_token": "learnable"},
    "multi": {"task": "multi", "task_token": "task-wise"},
}


def config(task: str = "res", **sequence: Any) -> PartialResConfig:
    written = SequenceConfig(**{"points": 4, "bins": END, **sequence})
    return partial_res_config(**TASKS[task], sequence=written)


def batch_of(
    masks: list[np.ndarray | None], boxes: list[list[float]] | None = None, side: int = 16
) -> Batch:
    """Rows with these masks (None: not known) and boxes, net 16 x 16 px."""
    count = len(masks)
    filled = [np.zeros((side, side), bool) if mask is None else mask for mask in masks]
    geometry = Geometry((side, side), (side, side), (1.0, 1.0))
    return Batch(
        images=torch.zeros(count, 3, side, side),
        image_of=torch.arange(count),
        words=torch.ones(count, 2, dtype=torch.int64),
        word_mask=torch.ones(count, 2, dtype=torch.bool),
        geometry=(geometry,) * count,
        keys=tuple(map(str, range(count))),
        texts=("a b",) * count,
        weights=torch.ones(count),
        masks=torch.from_numpy(np.stack(filled)).float(),
        has_mask=torch.tensor([mask is not None for mask in masks]),
        boxes=None if boxes is None else torch.tensor(boxes),
    )


def rectangle(x0: int, y0: int, x1: int, y1: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# A rectangle of 6 x 2 px has 16 px of outline: a point every 4 px, down the left side first.
SMALL = rectangle(2, 3, 8, 5)
SMALL_POINTS = [2, 3, 4, 5, 8, 5, 6, 3]
SMALL_BOX = [2.0, 3.0, 8.0, 5.0]


def test_layouts_and_lengths() -> None:
    points = 7
    for task, parts, length in (
        ("rec", (4,), 5),
        ("res", (14,), 2 * points + 1),
        ("multi", (4, 14), 2 * points + 6),
    ):
        made = config(task, points=points)
        layout = Layout.of(made)
        assert layout.parts == parts
        assert layout.length == made.length == length
        assert layout.axes == [0, 1] * (sum(parts) // 2)
        tokens = torch.arange(2 * sum(parts)).reshape(2, -1)
        split = layout.split(tokens)
        assert [part.shape[1] for part in split] == list(parts)
        assert torch.equal(torch.cat(split, dim=1), tokens)


def test_targets_of_a_box() -> None:
    found = targets(batch_of([None], [SMALL_BOX]), config("rec"))
    assert found.tokens.tolist() == [[2, 3, 8, 5]]
    assert found.wanted.tolist() == [[2, 3, 8, 5, END]]
    torch.testing.assert_close(found.weights, torch.tensor([[1.5, 1, 1, 1, 1]]))
    assert found.known.tolist() == [True]


def test_targets_of_a_mask() -> None:
    found = targets(batch_of([SMALL]), config("res"))
    assert found.tokens.tolist() == [SMALL_POINTS]
    assert found.wanted.tolist() == [[*SMALL_POINTS, END]]
    torch.testing.assert_close(found.weights, torch.tensor([[1.0] * 8 + [0.1]]))
    assert found.known.tolist() == [True]


def test_targets_of_both() -> None:
    found = targets(batch_of([SMALL], [SMALL_BOX]), config("multi"))
    assert found.tokens.tolist() == [[2, 3, 8, 5, *SMALL_POINTS]]
    assert found.wanted.tolist() == [[2, 3, 8, 5, END, *SMALL_POINTS, END]]
    torch.testing.assert_close(found.weights, torch.tensor([[1.5] + [1.0] * 13]))
    assert found.known.tolist() == [True]


def test_what_goes_in_is_what_was_asked_for_before() -> None:
    """Each position's target is the next input: the only shift in teacher forcing."""
    method = toy_method("partial_res multi")
    batch = toy_batch(toy_samples(2))
    found = targets(batch, method.config)
    parts = Layout.of(method.config).split(found.tokens)
    ends = torch.full((len(batch), 1), method.config.sequence.bins)
    expected = torch.cat([parts[0], ends, parts[1], ends], dim=1)
    assert torch.equal(found.wanted, expected)
    assert found.wanted.shape[1] == method.config.length


def test_outlines_that_go_in_are_moved_and_boxes_are_not() -> None:
    """Against a loop over rows and coordinates, with the same draws."""
    rows, points, bins, spread = 5, 4, 50, 3.0
    layout = Layout((4, 2 * points))
    tokens = torch.randint(0, bins, (rows, 4 + 2 * points))
    tokens[2, 9:] = bins
    torch.manual_seed(7)
    found = jittered(tokens, layout, bins, spread)
    torch.manual_seed(7)
    whole, each = torch.randn(rows, 2), torch.randn(rows, 2 * points)
    expected = tokens.tolist()
    for row in range(rows):
        for place in range(2 * points):
            was = expected[row][4 + place]
            if was != bins:
                move = spread * (whole[row, place % 2] + each[row, place])
                expected[row][4 + place] = min(max(was + round(float(move)), 0), bins - 1)
    assert found.tolist() == expected
    assert (found != tokens).any()


def test_the_far_edge_is_in_the_last_bin() -> None:
    whole = targets(batch_of([rectangle(0, 0, 16, 16)], [[0.0, 0.0, 16.0, 16.0]]), config("multi"))
    assert whole.tokens[0, :4].tolist() == [0, 0, END - 1, END - 1]
    assert whole.tokens[0, 4:].tolist() == [0, 0, 0, END - 1, END - 1, END - 1, END - 1, 0]
    beyond = targets(batch_of([None], [[-3.0, 2.0, 40.0, 16.5]]), config("rec"))
    assert beyond.tokens.tolist() == [[0, 2, END - 1, END - 1]]


def test_width_and_height_have_their_own_scale() -> None:
    """Tokens tell the share of a side: net images need not be square."""
    mask = np.zeros((8, 16), bool)
    mask[2:6, 4:12] = True
    tokens = contour_tokens(mask, SequenceConfig(points=4, bins=32))
    assert tokens.tolist() == [8, 8, 12, 24, 24, 24, 20, 8]  # 24 px of outline


# -- masks that are no plain shape -----------------------------------------------------------


def line(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    for t in range(17):
        mask[round(y0 + (y1 - y0) * t / 16), round(x0 + (x1 - x0) * t / 16)] = True
    return mask


THIN = {
    "one pixel": rectangle(5, 6, 6, 7),
    "two pixels": rectangle(5, 6, 7, 7),
    "a row": line(2, 5, 12, 5),
    "a column": line(3, 1, 3, 14),
    "a slope": line(2, 2, 11, 11),
}


@pytest.mark.parametrize("rule", ["stride", "rays"])
@pytest.mark.parametrize("thin", THIN)
def test_through_centres_a_line_encloses_nothing(thin: str, rule: Any) -> None:
    """The papers' form: END alone, also where the walk along the line and back is long."""
    tokens = contour_tokens(THIN[thin], SequenceConfig(points=4, bins=END, contour=rule))
    assert tokens.tolist() == [END] * 8


@pytest.mark.parametrize("thin", THIN)
def test_along_edges_every_pixel_has_an_outline(thin: str) -> None:
    tokens = contour_tokens(THIN[thin], SequenceConfig(points=4, bins=END))
    assert len(tokens) == 8
    assert (tokens < END).all()


@pytest.mark.parametrize("rule", ["uniform", "stride", "rays"])
def test_no_mask_is_end_alone(rule: Any) -> None:
    """A known mask without pixels: the row is known, and is learned as nothing."""
    empty = np.zeros((16, 16), bool)
    tokens = contour_tokens(empty, SequenceConfig(points=4, bins=END, contour=rule))
    assert tokens.tolist() == [END] * 8
    found = targets(batch_of([empty]), config("res", contour=rule))
    assert found.known.tolist() == [True]
    torch.testing.assert_close(found.weights, torch.full((1, 9), 0.1))


@pytest.mark.parametrize("rule", ["uniform", "stride", "rays"])
def test_holes_are_filled_and_the_largest_part_is_drawn(rule: Any) -> None:
    settings = SequenceConfig(points=4, bins=END, contour=rule)
    large = rectangle(1, 2, 8, 9)
    holed = large & ~rectangle(3, 4, 6, 7)
    many = holed | rectangle(10, 1, 14, 4) | rectangle(11, 11, 15, 14) | rectangle(15, 15, 16, 16)
    expected = contour_tokens(large, settings).tolist()
    assert len(set(expected)) > 2
    assert contour_tokens(holed, settings).tolist() == expected
    assert contour_tokens(many, settings).tolist() == expected


def test_more_points_than_the_outline_has() -> None:
    """Under "stride" END fills what is missing, under "uniform" nothing is."""
    mask = rectangle(4, 4, 7, 7)  # eight boundary pixels, twelve px of edges
    few = contour_tokens(mask, SequenceConfig(points=10, bins=END, contour="stride"))
    walk = [4, 4, 4, 5, 4, 6, 5, 6, 6, 6, 6, 5, 6, 4, 5, 4]
    assert few.tolist() == [*walk, END, END, END, END]
    full = contour_tokens(mask, SequenceConfig(points=24, bins=2 * END))
    assert (full < 2 * END).all()
    points = full.reshape(-1, 2)
    assert len(np.unique(points, axis=0)) == 24  # one each half pixel
    assert np.abs(np.diff(points, axis=0, append=points[:1])).sum(axis=1).tolist() == [1] * 24


@pytest.mark.parametrize(("pixels", "expected"), [(13, 7), (25, 9), (50, 10)])
def test_the_papers_rule_leaves_small_outlines_short(pixels: int, expected: int) -> None:
    """ceil(M / ceil(M / 12)) points: what taught END early."""
    side = 32
    mask = rectangle(1, 1, 1 + pixels // 2, 2, side) | rectangle(1, 2, 1 + -(-pixels // 2), 3, side)
    assert len(outer_contour(mask, edges=False)) == pixels
    tokens = contour_tokens(mask, SequenceConfig(points=12, bins=side, contour="stride"))
    assert (tokens < side).sum() == 2 * expected
    assert (tokens[2 * expected :] == side).all()
    exactly = contour_tokens(mask, SequenceConfig(points=12, bins=side))
    assert (exactly < side).all()


# -- rows whose label is not known -----------------------------------------------------------


def learned_from(method: PartialRes, batch: Batch) -> torch.Tensor:
    return method.loss(method(batch), batch)["total"]


def partly_known(task: str) -> tuple[PartialRes, Batch, list[int]]:
    """A toy, four rows of which two lack a label that the task needs, and the other two."""
    name = {"rec": "partial_res rec", "res": "partial_res", "multi": "partial_res multi"}[task]
    batch = toy_batch(toy_samples(2))
    assert batch.boxes is not None
    assert batch.has_mask is not None
    boxes, has_mask = batch.boxes.clone(), batch.has_mask.clone()
    if task == "multi":
        boxes[0], has_mask[2] = torch.nan, False
    elif task == "rec":
        boxes[0], boxes[2, 3] = torch.nan, torch.inf
    else:
        has_mask[[0, 2]] = False
    known = [1, 3]
    return toy_method(name).eval(), replace(batch, boxes=boxes, has_mask=has_mask), known


@pytest.mark.parametrize("task", TASKS)
def test_unknown_rows_are_not_learned_from(task: str) -> None:
    method, batch, known = partly_known(task)
    assert targets(batch, method.config).known.tolist() == [False, True, False, True]
    alone = rows_of(batch, known)
    torch.testing.assert_close(
        learned_from(method, batch), learned_from(method, alone), atol=1e-5, rtol=1e-5
    )
    assert method.loss_weight(batch) == method.loss_weight(alone) == 2.0
    # Whatever stands in the place of the label.
    assert batch.masks is not None
    junk = replace(batch, masks=torch.where(batch.has_mask[:, None, None], batch.masks, 1.0))
    assert torch.equal(learned_from(method, junk), learned_from(method, batch))


@pytest.mark.parametrize("missing", ["rows", "all of it"])
@pytest.mark.parametrize("task", TASKS)
def test_nothing_known_is_a_loss_of_zero_with_a_graph(task: str, missing: str) -> None:
    method, batch, _ = partly_known(task)
    assert batch.boxes is not None
    assert batch.has_mask is not None
    blind = replace(
        batch,
        boxes=torch.full_like(batch.boxes, torch.nan),
        has_mask=torch.zeros_like(batch.has_mask),
    )
    if missing == "all of it":
        blind = replace(batch, boxes=None, masks=None, has_mask=None)
    total = learned_from(method, blind)
    assert float(total.detach()) == 0.0
    assert 0 < method.loss_weight(blind) <= 1e-6  # next to nothing, so that means can be taken
    total.backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)


def test_boxes_that_are_not_stated_are_no_tokens() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [[nan] * 4, [1.0, 2.0, nan, 4.0], [1.0, 2.0, 3.0, inf], [1.0, 2.0, 3.0, 4.0]]
    found = targets(batch_of([None] * 4, boxes), config("rec"))
    assert found.known.tolist() == [False, False, False, True]
    assert found.tokens.tolist() == [[END] * 4] * 3 + [[1, 2, 3, 4]]


# -- another order ---------------------------------------------------------------------------


def test_whole_points_are_moved_in_one_order_for_all_rows() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, END, (5, 24))
    moved = shuffled(tokens, 12, np.random.default_rng(1))
    points, after = tokens.reshape(5, 12, 2), moved.reshape(5, 12, 2)
    order = np.random.default_rng(1).permutation(12)
    assert (order != np.arange(12)).any()
    np.testing.assert_array_equal(after, points[:, order])


def told_in_order(share: float, seed: int | None, rule: Any = "uniform") -> Targets:
    masks = [rectangle(1 + n % 3, 2, 8 + n % 5, 9 + n % 4) for n in range(40)]
    masks[7] = rectangle(4, 4, 6, 6)  # four boundary pixels: END fills "stride" up
    rng = None if seed is None else np.random.default_rng(seed)
    return targets(batch_of(masks), config(points=6, shuffle=share, contour=rule), rng)


def test_a_share_of_the_rows_is_moved() -> None:
    straight = told_in_order(0.0, None)
    assert torch.equal(told_in_order(1.0, None).tokens, straight.tokens)  # not learning
    assert torch.equal(told_in_order(0.0, 3).tokens, straight.tokens)
    for share, least, most in ((0.2, 2, 16), (1.0, 40, 40)):
        moved = told_in_order(share, 3)
        changed = (moved.tokens != straight.tokens).any(dim=1)
        assert least <= int(changed.sum()) <= most
        for row in changed.nonzero()[:, 0]:
            before = straight.tokens[row].reshape(6, 2).tolist()
            after = moved.tokens[row].reshape(6, 2).tolist()
            assert sorted(before) == sorted(after)
        assert torch.equal(moved.wanted[:, :-1], moved.tokens)


def test_end_stays_at_the_end() -> None:
    """In the papers' code, filling is moved into the middle."""
    straight, moved = (told_in_order(1.0, seed, "stride") for seed in (None, 3))
    short = (straight.tokens == END).any(dim=1)
    assert short[7]
    assert torch.equal(moved.tokens[short], straight.tokens[short])
    assert not torch.equal(moved.tokens[~short], straight.tokens[~short])


def test_only_while_training_and_by_torchs_seed() -> None:
    made = TOYS["partial_res"].config()
    written = made.sequence.model_copy(update={"shuffle": 1.0})
    torch.manual_seed(0)
    method = PartialRes(made.model_copy(update={"sequence": written})).eval()
    batch = toy_batch(toy_samples(2))

    def told(seed: int) -> float:
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(learned_from(method, batch))

    assert told(1) == told(2)
    method.train()
    assert told(1) == told(1)
    assert told(1) != told(2)
