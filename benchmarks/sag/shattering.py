"""The slots of images: keys and values of patches once, beside once in each iteration."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import Table
from benchmarks.sag.forms import Case, Found, answer, in_turn, learn
from benchmarks.sag.sizes import SIZES, Size
from refseg.methods.sag.discovery import EntityDiscovery

PLAIN, OURS = "in each iteration", "ours: once"


def shattering(runs: int = 5) -> dict[str, Table]:
    """By size, forward alone and with the backward pass: both forms."""
    tables = {}
    for size in SIZES:
        about = f"{size.name}, {size.config.slots.iterations} iterations, images:"
        for title, images, way in (
            (f"{about} 1", 1, answer),
            (f"{about} {size.images}, forward and backward", size.images, learn),
        ):
            ways = {PLAIN: partial(way, plain=True), OURS: partial(way, plain=False)}
            tables[title] = in_turn(partial(drawn, size, images), ways, runs)
    return tables


def drawn(size: Size, images: int) -> Case:
    torch.manual_seed(0)
    discover = EntityDiscovery(size.config.slots, size.config.width).eval()
    patches = torch.randn(images, size.grid[0] * size.grid[1], size.config.width)
    return Case(discover, (patches.requires_grad_(), torch.randn(images, 1, *size.slots)), shatter)


def shatter(discover: EntityDiscovery, patches: Tensor, noise: Tensor) -> Found:
    """Phi and A^slot."""
    entities = discover(patches, noise)
    return entities.slots, entities.attention
