"""Writing coordinates, the likeliest each time, for a whole batch and with everything kept.

The inputs are made as in training: the same lookup of content, the same positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refseg.methods.partial_res.decoder import Decoder
from refseg.methods.partial_res.places import Grid
from refseg.methods.partial_res.sequence import CORNERS
from refseg.methods.partial_res.transformer import Memory

#: Coordinates of three points, below which there is no polygon.
POLYGON = 6


@dataclass(frozen=True)
class Written:
    """tokens: [B, L] int64, part after part, END after the end. chances: [B, L] float32, the
    probability each was given, 1 behind the end. attention: [B, M, L, S], where the last layer
    looked for it; 0 behind the end.
    """

    tokens: Tensor
    chances: Tensor
    attention: Tensor


def generate(decoder: Decoder, memory: Memory, grid: Grid) -> Written:
    """Greedy decoding; stops early where every sequence has ended."""
    content, state = decoder.content(memory, grid), decoder.start(memory)
    batch, place = len(memory.tokens), 0
    device, end = memory.tokens.device, decoder.config.sequence.bins
    tokens, chances, attention = [], [], []
    for number, count in enumerate(decoder.layout.parts):
        embedded = decoder.task[number].expand(batch, 1, -1)
        ended = torch.zeros(batch, dtype=torch.bool, device=device)
        for at in range(count):
            states, looked = decoder.step(embedded, place, state)
            place += 1
            logits = decoder.predictor(states[:, 0]).float()
            allowed = may_end(decoder, number, at)
            token, chance = _likeliest(logits, end if not allowed else None)
            token = token.masked_fill(ended, end)
            chances.append(chance.masked_fill(ended, 1.0))
            tokens.append(token)
            attention.append(looked[:, :, 0].masked_fill(ended[:, None, None], 0.0))
            ended |= token == end
            if bool(ended.all()):
                _fill(tokens, chances, attention, count - at - 1)
                break
            axis = torch.tensor([at % 2], device=device)
            embedded = decoder.embed(token[:, None], axis, content)
        # More parts follow only behind a box, whose four coordinates never end early: its last
        # one is an input, too.
        if number + 1 < len(decoder.layout.parts):
            decoder.step(embedded, place, state)
            place += 1
    return Written(
        torch.stack(tokens, dim=1), torch.stack(chances, dim=1), torch.stack(attention, dim=2)
    )


def may_end(decoder: Decoder, part: int, at: int) -> bool:
    """Whether END may stand in place of the coordinate number `at` of a part."""
    if decoder.layout.parts[part] == CORNERS:  # a contour has more
        return False
    return not decoder.config.sequence.constrained or (at >= POLYGON and at % 2 == 0)


def _likeliest(logits: Tensor, forbidden: int | None) -> tuple[Tensor, Tensor]:
    """The likeliest id of [B, K + 1] and its probability among those that are allowed."""
    if forbidden is not None:
        logits[:, forbidden] = float("-inf")
    chance, token = logits.softmax(dim=-1).max(dim=-1)
    return token, chance


def _fill(tokens: list[Tensor], chances: list[Tensor], attention: list[Tensor], more: int) -> None:
    """Nothing more is written: END, surely, looking nowhere."""
    for _ in range(more):
        tokens.append(tokens[-1])
        chances.append(torch.ones_like(chances[-1]))
        attention.append(torch.zeros_like(attention[-1]))
