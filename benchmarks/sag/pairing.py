"""psi of all sentences and images of a batch at once, beside sentences repeated for each image.

Forward and backward, slots and sentences random; the slots' keys and values are in both forms.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import Table
from benchmarks.sag.forms import Case, Found, in_turn, learn
from benchmarks.sag.sizes import SIZES, Size
from refseg.methods.sag.fusion import Fusion

PLAIN, OURS = "sentences repeated", "ours: all pairs at once"
WAYS = {PLAIN: partial(learn, plain=True), OURS: partial(learn, plain=False)}


def pairing(runs: int = 5) -> dict[str, Table]:
    """By size: both forms."""
    return {
        f"{size.name}, {size.pairs * size.each} sentences x {size.pairs} images": in_turn(
            partial(drawn, size), WAYS, runs
        )
        for size in SIZES
    }


def drawn(size: Size) -> Case:
    torch.manual_seed(0)
    fusion = Fusion(size.config.fusion, size.config.width).eval()
    sentences = torch.randn(size.pairs * size.each, size.config.width).requires_grad_()
    slots = torch.randn(size.pairs, 1, *size.slots).requires_grad_()
    return Case(fusion, (sentences, slots), pair)


def pair(fusion: Fusion, sentences: Tensor, slots: Tensor) -> Found:
    """psi alone."""
    return (fusion.pairs(sentences, fusion.look(slots)),)
