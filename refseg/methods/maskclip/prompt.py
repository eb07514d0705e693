"""An expression inside a prompt, in token ids. Letters: B texts, T words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from refseg.errors import ConfigError


def framed(
    words: Tensor, word_mask: Tensor, front: Sequence[int], behind: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T'] with `front` after the start of each text and `behind` before its end.

    words, word_mask: [B, T], real ids in front, the first the start and the last the end.
    """
    if not front and not behind:
        return words, word_mask
    before, after = (torch.tensor(ids, dtype=words.dtype) for ids in (front, behind))
    before, after = before.to(words.device), after.to(words.device)
    rows = [
        torch.cat([row[:1], before, row[1 : count - 1], after, row[count - 1 : count]])
        for row, count in zip(words, word_mask.sum(dim=1).tolist(), strict=True)
    ]
    real = [torch.ones_like(row, dtype=torch.bool) for row in rows]
    return pad_sequence(rows, batch_first=True), pad_sequence(real, batch_first=True)


def check_length(words: Tensor, places: int) -> None:
    """Raise ConfigError for texts [B, T] that are longer than there are places."""
    if words.shape[1] > places:
        raise ConfigError(
            f"texts of {words.shape[1]} tokens, prompt included, and places for {places}",
            remedy="lower tokens.max_words, or shorten method.prompt",
        )
