"""An answer about one image and sentence, without and with the reconstruction decoder.

No answer needs it; the released code runs it at every evaluation and throws away what it makes.
Weights, pixels and words are random.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.mutual.measuring import Table
from benchmarks.sag.forms import Found, in_turn
from benchmarks.sag.plain import formed
from benchmarks.sag.sizes import SIZES, Size
from refseg.methods.sag import Sag
from refseg.methods.sag.decode import relevance
from refseg.types import Batch

PLAIN, BETWEEN, OURS = "decoder, plain parts", "decoder, our parts", "ours: no decoder"
Asked = tuple[Sag, Batch]


def decoding(runs: int = 5) -> dict[str, Table]:
    """By size: the forms with "ms" a pair."""
    ways = {
        PLAIN: partial(respond, plain=True, rebuilt=True),
        BETWEEN: partial(respond, plain=False, rebuilt=True),
        OURS: partial(respond, plain=False, rebuilt=False),
    }
    return {size.name: in_turn(partial(drawn, size), ways, runs) for size in SIZES}


def drawn(size: Size) -> Asked:
    return size.built(), size.batch([1])


@torch.no_grad()
def respond(asked: Asked, *, plain: bool, rebuilt: bool) -> Found:
    """M of the pair."""
    method, batch = asked
    formed(method, plain=plain)
    outputs = method(batch)
    if rebuilt:
        assert method.decoder is not None
        method.decoder(outputs.slots[:, 0], outputs.hw)
    return (relevance(outputs, method.config.answer.scheme),)
