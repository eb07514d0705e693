"""What seeds say about pairs of near cells, and the loss that edges and displacements learn by.

Two cells of one label have no edge between them, two of different labels have one; displacements
inside a foreground lead to one point, those of the background are alike. (IRNet, CVPR 2019, as
TRIS trains it: one class of foreground.)
Letters: B seed maps, K offsets of half of the plane, h x w cells.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.tris.seeds import BACKGROUND, IGNORE
from refseg.ops.random_walk import line, offsets

EPS = 1e-5


def pair_loss(
    logits: Tensor, displacement: Tensor, labels: Tensor, radius: int
) -> dict[str, Tensor]:
    """Named terms and "total", each a mean over the pairs that it is about, 0 without any.

    logits: [B, h, w] of the edges. displacement: [B, 2, h, w] (dy, dx) in cells. labels: [B, h, w]
    int64, `BACKGROUND`, `FOREGROUND` or `IGNORE`. radius: see `offsets`. With a_ij = 1 - the
    highest edge on the line from i to j:

        edge_background, edge_foreground    -ln(a + eps)          pairs of one label
        edge_apart                          -ln(1 + eps - a)      pairs of two labels
        displacement_foreground             |d_i - d_j - (j - i)|
        displacement_background             |d_i - d_j|
        total = ((edge_background + edge_foreground) / 2 + edge_apart) / 2
                + (displacement_foreground + displacement_background) / 2

    All pairs count whose two cells are in the map; IRNet drops those that start less than a radius
    from its sides and its lower border.
    """
    displacement = displacement.float()
    background, foreground, apart = _pairs(labels, radius)
    free = 1 - highest_between(logits.float().sigmoid(), radius)
    joined, parted = -(free + EPS).log(), -(1 + EPS - free).log()
    change = displacement[:, :, None] - neighbours(displacement, radius)
    steps = torch.from_numpy(offsets(radius)).to(change).T[None, :, :, None, None]
    terms = {
        "edge_background": _mean(joined, background),
        "edge_foreground": _mean(joined, foreground),
        "edge_apart": _mean(parted, apart),
        "displacement_foreground": _mean_2d(change - steps, foreground),
        "displacement_background": _mean_2d(change, background),
    }
    same = (terms["edge_background"] + terms["edge_foreground"]) / 2
    fields = (terms["displacement_foreground"] + terms["displacement_background"]) / 2
    return {**terms, "total": (same + terms["edge_apart"]) / 2 + fields}


def neighbours(x: Tensor, radius: int, fill: int = 0) -> Tensor:
    """[..., h, w] -> [..., K, h, w]: what stands at each offset of a cell; `fill` outside."""
    hw = (x.shape[-2], x.shape[-1])
    padded = _padded(x, radius, fill)
    return torch.stack([_shifted(padded, hw, cell) for cell in offsets(radius).tolist()], dim=-3)


def highest_between(edge: Tensor, radius: int) -> Tensor:
    """The highest edge on the line from each cell to each of its neighbours.

    [B, h, w] probabilities -> [B, K, h, w]; nothing outside of the map is an edge. The gradient
    goes to the highest cell, to one of equals.
    """
    hw = (edge.shape[-2], edge.shape[-1])
    padded = _padded(edge, radius, 0)
    flat = padded.flatten(1)
    # Which cell is highest is searched for by ranks, small whole numbers, so that nothing is kept
    # for the backward pass but one gather of those cells. (Some ten times as fast on a CPU as
    # looking the cells of each line up.)
    with torch.no_grad():
        order = flat.argsort(dim=1, stable=True)
        ranks = order.argsort(dim=1).int().view_as(padded)
        found = []
        for dy, dx in offsets(radius).tolist():
            parts = [_shifted(ranks, hw, cell) for cell in line(dy, dx).tolist()]
            found.append(reduce(torch.maximum, parts))
        index = order.gather(1, torch.stack(found, dim=1).flatten(1).long())
    return flat.gather(1, index).view(len(edge), -1, *hw)


def _padded(x: Tensor, radius: int, fill: int) -> Tensor:
    """[..., h, w] with room for what lies less than a radius to the sides and below."""
    reach = radius - 1
    return F.pad(x, (reach, reach, 0, reach), value=fill)


def _shifted(padded: Tensor, hw: tuple[int, int], cell: list[int]) -> Tensor:
    """What stands (dy, dx) from each cell of a map hw that `_padded` made room around."""
    (height, width), (dy, dx) = hw, cell
    reach = (padded.shape[-1] - width) // 2
    return padded[..., dy : dy + height, reach + dx : reach + dx + width]


def _pairs(labels: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of background, of foreground, and of both: three times [B, K, h, w] bool."""
    here, there = labels[:, None], neighbours(labels, radius, fill=IGNORE)
    known = (here != IGNORE) & (there != IGNORE)
    same = known & (here == there)
    background = same & (here == BACKGROUND)
    return background, same & ~background, known & ~same


def _mean(values: Tensor, pairs: Tensor) -> Tensor:
    """Of values [B, K, h, w] over pairs."""
    return (values * pairs).sum() / (pairs.sum() + EPS)


def _mean_2d(vectors: Tensor, pairs: Tensor) -> Tensor:
    """Of the sizes of both components of vectors [B, 2, K, h, w] over pairs."""
    return (vectors.abs() * pairs[:, None]).sum() / (2 * pairs.sum() + EPS)
