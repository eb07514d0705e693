"""What coordinates bring (CCTF): means of lines once and one gather, beside a loop in Python.

The loop is the papers': for every expression and every coordinate, a line of cells is cut out and
averaged. Training size: 64 expressions, 12 points, 20 x 20 cells, 256 wide, 1000 bins. Before
anything is timed, both must give the same, and the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import Table, compared, quietly, same
from refseg.methods.partial_res.content import Content
from refseg.methods.partial_res.places import Grid

BATCH, POINTS, SIDE, WIDTH, STRIDE, BINS = 64, 12, 20, 256, 32, 1000
LOOP, OURS = "loop in Python", "ours: one gather"
GRID = Grid((SIDE, SIDE), (SIDE * STRIDE, SIDE * STRIDE), STRIDE)
AXES = torch.tensor([0, 1] * POINTS)
Form = Callable[[Tensor, Tensor], Tensor]


def content(runs: int = 7) -> dict[str, Table]:
    """By what is done: the forms with "ms" a batch, "per_second" expressions, "as_fast"."""
    torch.manual_seed(0)
    memory = torch.randn(BATCH, SIDE, SIDE, WIDTH)
    tokens = torch.randint(0, BINS, (BATCH, 2 * POINTS))
    tokens[::4, -6:] = BINS  # END
    pull = torch.randn(BATCH, 2 * POINTS, WIDTH)
    tables = {}
    for told, swapped in (("intended", False), ("swapped", True)):
        forms: dict[str, Form] = {
            LOOP: partial(looped, swapped=swapped),
            OURS: partial(gathered, swapped=swapped),
        }
        same(forms[OURS](memory, tokens), forms[LOOP](memory, tokens), told)
        slopes = [learned(form, memory, tokens, pull) for form in forms.values()]
        same(slopes[1], slopes[0], f"{told}, gradients")
        size = f"{told}, {BATCH} expressions of {POINTS} points, {SIDE} x {SIDE} cells"
        tables[f"{size}: forward"] = timed(
            {n: partial(quietly, form, memory, tokens) for n, form in forms.items()}, runs
        )
        tables[f"{size}: forward and backward"] = timed(
            {n: partial(learned, form, memory, tokens, pull) for n, form in forms.items()}, runs
        )
    return tables


def timed(tasks: Mapping[str, Callable[[], object]], runs: int) -> Table:
    table = compared(tasks, runs)
    for row in table.values():
        row["per_second"] = 1000 * BATCH / row["ms"]
    return table


def gathered(memory: Tensor, tokens: Tensor, *, swapped: bool) -> Tensor:
    valid = torch.ones(memory.shape[:3], dtype=torch.bool)
    return Content.of(memory, valid, GRID, BINS, swapped=swapped).of_tokens(tokens, AXES)


def looped(memory: Tensor, tokens: Tensor, *, swapped: bool) -> Tensor:
    rows = []
    for cells, told in zip(memory, tokens.tolist(), strict=True):
        brought = []
        for at, token in enumerate(told):
            if swapped:
                line = token * (SIDE - 1) // BINS
            else:
                line = min((2 * token + 1) * SIDE // (2 * BINS), SIDE - 1)
            # An x reads a column, a y a row; the released code the other way round.
            found = cells[:, line] if (at % 2 == 0) != swapped else cells[line]
            mean = found.mean(dim=0)
            brought.append(mean if swapped or token < BINS else torch.zeros_like(mean))
        rows.append(torch.stack(brought))
    return torch.stack(rows)


def learned(form: Form, memory: Tensor, tokens: Tensor, pull: Tensor) -> Tensor:
    """The gradient with regard to the memory."""
    own = memory.detach().requires_grad_()
    (form(own, tokens) * pull).sum().backward()
    assert own.grad is not None
    return own.grad
