"""Colours for objects that nobody photographed, drawn by what words tell of them.

An object that is called "woman in red" gets the colours of a recorded object of its class, the
likelier the more that has of red; one of which nothing is told, those of any; and one of its own
class that the expression does not mean, the likelier the less it has of red. Some of the draws pay
no heed, as words are about small parts and sometimes wrong. So that vivid colours do not give away
who is spoken of, objects of which nothing is told have, as often, some colour made up for them.
Letters: I images, K objects, S of all of them that are there, R records, Q classes, A numbers that
tell of colours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refseg.methods.mutual.draws import drawn, share
from refseg.ops.colours import COLOURS, ZONES

#: How often a draw pays no heed to the words.
HEEDLESS = 0.15
#: Weight of a record of another class: enough where none of the class has the colour.
OTHERS = 0.01
#: How often a colour is made up, and which: as the training expressions of RefCOCO and RefCOCO+
#: tell colours of their objects (counted again by tests/methods/mutual/test_simulated_looks.py).
MADE_UP = 0.43
OFTEN = {
    "white": 0.21, "black": 0.16, "blue": 0.15, "red": 0.14, "green": 0.07, "brown": 0.07,
    "yellow": 0.05, "gray": 0.045, "orange": 0.045, "pink": 0.04, "purple": 0.02,
}  # fmt: skip


def draw_looks(
    looks: Tensor,
    kinds: Tensor,
    kind: Tensor,
    ids: Tensor,
    told: Tensor,
    salt: int,
    *,
    there: Tensor | None = None,
) -> Tensor:
    """[I, K, A] colours of objects.

    looks: [R, A] and kinds: [R] of the records. kind: [I, K] class of each object, ids: [I, K].
    told: [I, K, ZONES, 11], see `told_of_objects`. there: [I, K] bool, False on padding, which gets
    none (and costs nothing: most places of a batch are padding). Two records are mixed, so that
    none is learned by heart.
    """
    there = torch.ones_like(ids, dtype=torch.bool) if there is None else there
    zones = looks.view(len(looks), ZONES, -1)
    seen = torch.cat([zones.amax(dim=1, keepdim=True), zones[:, 1:]], dim=1)  # [R, ZONES, 11]
    own = told.flatten(2).any(dim=2)
    wanted = torch.where(own[..., None, None], told, _made_up(ids, salt))[there]
    rivals, ids = _rivals(told, kind)[there], ids[there]
    summed = _weights(seen, kinds, kind[there], wanted, rivals, ids, salt).cumsum(dim=-1)
    rows = []
    for turn in range(2):
        at = share(ids, salt ^ (0xC0105 + turn))[:, None].to(summed) * summed[:, -1:]
        rows.append(torch.searchsorted(summed, at, right=True).clamp(max=len(looks) - 1)[:, 0])
    part = (0.5 + 0.5 * share(ids, salt ^ 0xB1E4D))[:, None].to(looks)
    colours = looks.new_zeros(*there.shape, looks.shape[1])
    colours[there] = part * looks[rows[0]] + (1 - part) * looks[rows[1]]
    return colours


def _weights(
    seen: Tensor,
    kinds: Tensor,
    kind: Tensor,
    wanted: Tensor,
    rivals: Tensor,
    ids: Tensor,
    salt: int,
) -> Tensor:
    """[S, R] how likely each record is drawn for each of S objects, not normalised."""
    weight = torch.where(kinds == kind[:, None], 1.0, OTHERS)
    count = wanted.flatten(1).sum(dim=1).clamp(min=1)[:, None]
    # In float32 whatever autocast says: draws must not hang on the precision of a training.
    with torch.autocast(seen.device.type, enabled=False):
        much = wanted.flatten(1) @ seen.flatten(1).T / count  # the mean share of what is told
        less = rivals @ (1 - seen[:, 0]).clamp(min=0.05).log().T
    heeded = wanted.flatten(1).any(dim=1) & (share(ids, salt ^ 0x4EED) >= HEEDLESS)
    weight = weight * torch.where(heeded[:, None], much**2 + 1e-6, 1.0)
    return weight * less.exp()


def _rivals(told: Tensor, kind: Tensor) -> Tensor:
    """[I, K, 11] what is told of others of an object's class and not of itself."""
    alike = (kind[:, :, None] == kind[:, None]).to(told.dtype)
    colours = told.amax(dim=2)
    return ((alike @ colours) > 0).to(told.dtype) * (1 - colours)


def _made_up(ids: Tensor, salt: int) -> Tensor:
    """[I, K, ZONES, 11] a colour here and there, anywhere in the object."""
    chances = torch.tensor([OFTEN[name] for name in COLOURS], device=ids.device).cumsum(dim=0)
    colour = torch.searchsorted(chances, share(ids, salt ^ 0xFAB1E).to(chances) * chances[-1])
    told = torch.zeros(*ids.shape, ZONES, len(COLOURS), device=ids.device)
    told[..., 0, :] = torch.nn.functional.one_hot(colour, len(COLOURS)).to(told.dtype)
    return told * (drawn(ids, salt ^ 0xAAAA, 1000) < 1000 * MADE_UP)[..., None, None]
