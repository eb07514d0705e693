"""Patches made of slots again: the split decoder, beside slots laid on patches and all of it run.

Forward and backward, of all patches; our form mixes slots before the last map and adds positions
after the first.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import Table
from benchmarks.sag.forms import Case, Found, in_turn, learn
from benchmarks.sag.sizes import SIZES, Size
from refseg.methods.sag.reconstruction import BroadcastDecoder

PLAIN, OURS = "slots laid on patches", "ours: split"
WAYS = {PLAIN: partial(learn, plain=True), OURS: partial(learn, plain=False)}


def rebuilding(runs: int = 5) -> dict[str, Table]:
    """By size: both forms."""
    return {
        f"{size.name}, images: {size.images}": in_turn(partial(drawn, size), WAYS, runs)
        for size in SIZES
    }


def drawn(size: Size) -> Case:
    torch.manual_seed(0)
    config = size.config
    decoder = BroadcastDecoder(config.reconstruction, config.width, config.vision.width)
    slots = torch.randn(size.images, *size.slots).requires_grad_()
    return Case(decoder, (slots,), partial(rebuild, hw=size.grid))


def rebuild(decoder: BroadcastDecoder, slots: Tensor, hw: tuple[int, int]) -> Found:
    """Features and shares."""
    found: Found = decoder(slots, hw)
    return found
