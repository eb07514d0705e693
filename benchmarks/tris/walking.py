"""The random walk of the refinement: step by step on neighbours, beside a dense matrix squared.

The dense form is IRNet's, as TRIS runs it: all pairs of cells, squared eight times in torch's
products. It is timed at 30 x 40 cells; at 120 x 160, those of an image of 480 x 640 px, it has
16^3 times the multiply-adds and 16^2 times the memory, and is counted only. There the steps run on
diagonals (ours) and on compressed rows of the same matrix. All find the affinities by our own
code, which the tests hold against a loop. Before anything is timed the forms must agree, by 1e-9
for float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.mutual.measuring import Table, Task, compared, weighed
from refseg.ops.random_walk import affinity, transition, walk

SMALL, LARGE = (30, 40), (120, 160)
RADIUS, BETA, SQUARINGS = 5, 10, 8
STEPS = 2**SQUARINGS
SQUARED, ROWS, OURS = "dense, squared (IRNet's)", "steps on compressed rows", "ours: on diagonals"
COUNTED = "dense, squared: counted, not run"
Floats = NDArray[np.floating[Any]]
Form = Callable[[Floats, Floats], Floats]


def walking(runs: int = 5) -> dict[str, Table]:
    """By size, dtype and number of maps: the forms, with "ms", "as_fast", "gmacs", memory."""
    tables = {}
    for hw, count, dtype in (
        (SMALL, 1, np.float64),
        (SMALL, 1, np.float32),
        (LARGE, 1, np.float64),
        (LARGE, 1, np.float32),
        (LARGE, 5, np.float64),
        (LARGE, 5, np.float32),
    ):
        title = f"{hw[0]} x {hw[1]} cells, {np.dtype(dtype)}, maps: {count}"
        tables[title] = measured(
            (SQUARED, OURS) if hw == SMALL else (ROWS, OURS), hw, count, dtype, runs
        )
        if hw == LARGE:
            tables[title][COUNTED] = counted(hw, count, dtype)
    return tables


def measured(
    names: tuple[str, ...], hw: tuple[int, int], count: int, dtype: type, runs: int
) -> Table:
    """The forms in turn, after they were seen to agree; memory is that of fresh processes."""
    pair = picture(hw, count, dtype)
    agree({name: FORMS[name](*pair) for name in names}, dtype)
    table = compared({name: partial(FORMS[name], *pair) for name in names}, runs)
    stepped = STEPS * transition_size(hw) * count / 1e9
    for name, row in table.items():
        row["gmacs"] = counted(hw, count, dtype)["gmacs"] if name == SQUARED else stepped
    return weighed(table, {name: partial(make, name, hw, count, dtype) for name in names})


def counted(hw: tuple[int, int], count: int, dtype: type) -> dict[str, float]:
    """What the dense form needs: its products, and a matrix beside its square."""
    cells = hw[0] * hw[1]
    return {
        "gmacs": (SQUARINGS * cells**3 + count * cells**2) / 1e9,
        "added_mib": 2 * cells**2 * np.dtype(dtype).itemsize / 2**20,
    }


def transition_size(hw: tuple[int, int]) -> int:
    """How many pairs of cells are neighbours, each cell its own among them."""
    return int(affinity(np.zeros(hw, np.float32), RADIUS).count_nonzero())


def agree(found: Mapping[str, Floats], dtype: type) -> None:
    """Stop the run where two forms differ by more than rounding."""
    one, other = found.values()
    apart = np.abs(one - other).max()
    assert apart < (1e-9 if dtype is np.float64 else 1e-3), f"{' and '.join(found)}: {apart:.3g}"


def picture(hw: tuple[int, int], count: int, dtype: type) -> tuple[Floats, Floats]:
    """Maps and edges: blobs that leak over the borders of patches, four from top to bottom."""
    rng = np.random.default_rng(0)
    height, width = hw
    y, x = np.mgrid[:height, :width]
    side = height // 4
    border = np.minimum(np.minimum(y % side, -y % side), np.minimum(x % side, -x % side))
    edge = 0.95 * np.exp(-(border**2)) * rng.uniform(0.6, 1, hw)
    centres = rng.uniform(0, 1, (count, 2, 1, 1)) * np.reshape(hw, (2, 1, 1))
    maps = np.exp(-((np.stack([y, x]) - centres) ** 2).sum(axis=1) / side**2)
    return maps.astype(dtype), edge.astype(dtype)


def make(name: str, hw: tuple[int, int], count: int, dtype: type) -> Task:
    return partial(FORMS[name], *picture(hw, count, dtype))


# -- the forms -------------------------------------------------------------------------------


def squared(maps: Floats, edge: Floats) -> Floats:
    chances = torch.from_numpy(affinity(edge, RADIUS).toarray()) ** BETA
    chances = chances / chances.sum(dim=0, keepdim=True)
    for _ in range(SQUARINGS):
        chances = chances @ chances
    rows = torch.from_numpy((maps * (1 - edge)).reshape(-1, edge.size))
    return (rows @ chances).numpy().reshape(maps.shape)


def on_rows(maps: Floats, edge: Floats) -> Floats:
    """All maps at once: columns of a dense factor."""
    chances = transition(affinity(edge, RADIUS), BETA).T.tocsr()
    columns = np.ascontiguousarray((maps * (1 - edge)).reshape(-1, edge.size).T)
    for _ in range(STEPS):
        columns = chances @ columns
    return columns.T.reshape(maps.shape)


FORMS: dict[str, Form] = {
    SQUARED: squared,
    ROWS: on_rows,
    OURS: partial(walk, radius=RADIUS, beta=BETA, steps=STEPS),
}
