"""SeqTR's transformer: a post-norm encoder, and a decoder that keeps its keys and values.

Positions are added to queries and keys only, as in DETR. Letters: B expressions, S memory tokens,
T positions of the sequence, D width, M heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.partial_res.config import PmcaConfig, TransformerConfig
from refseg.methods.partial_res.modulation import PointModulation
from refseg.nn.attention import split_heads


@dataclass(frozen=True)
class Memory:
    """What the decoder looks at. tokens: [B, S, D], the grid's cells row by row, then the sentence
    if it is one of them. positions: as tokens. seen: [B, S] bool, False on padding. extents:
    [B, 4], see `places.extents`. hw: the grid.
    """

    tokens: Tensor
    positions: Tensor
    seen: Tensor
    extents: Tensor
    hw: tuple[int, int]

    @property
    def cells(self) -> Tensor:
        """The grid's tokens, [B, H, W, D]."""
        height, width = self.hw
        return self.tokens[:, : height * width].reshape(len(self.tokens), height, width, -1)


class Heads(nn.Module):
    """Multi-head attention; keys are projected apart from the asking, so that they can be kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def keep(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] twice -> keys and values [B, M, S, D / M]."""
        return split_heads(self.k(keys), self.heads), split_heads(self.v(values), self.heads)

    def forward(
        self, query: Tensor, kept: tuple[Tensor, Tensor], bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """query: [B, T, D]. bias: added to the logits, broadcast to [B, M, T, S]; -inf hides.

        Returns the answer [B, T, D] and the attention [B, M, T, S] before dropout.
        """
        keys, values = kept
        q = split_heads(self.q(query), self.heads)
        logits = (q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        attention = (logits if bias is None else logits + bias).softmax(dim=-1).to(values.dtype)
        heard = F.dropout(attention, self.dropout, self.training) @ values
        return self.out(heard.transpose(1, 2).flatten(2)), attention


class Layer(nn.Module):
    """What encoder and decoder layers share: norms after sums, and the MLP."""

    def __init__(self, config: TransformerConfig, norms: int) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(norms)])
        self.drop = nn.Dropout(config.dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_width, width),
        )

    def add(self, x: Tensor, heard: Tensor, norm: int) -> Tensor:
        """LayerNorm(x + dropout(heard))."""
        added: Tensor = self.norms[norm](x + self.drop(heard))
        return added


class EncoderLayer(Layer):
    """Self-attention over cells and sentence."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, norms=2)
        self.attention = Heads(config.width, config.heads, config.dropout)

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        placed = x + positions
        heard, _ = self.attention(placed, self.attention.keep(placed, x), hidden)
        x = self.add(x, heard, 0)
        return self.add(x, self.mlp(x), 1)


class DecoderLayer(Layer):
    """Causal self-attention, modulated cross-attention, MLP."""

    def __init__(self, config: TransformerConfig, pmca: PmcaConfig) -> None:
        super().__init__(config, norms=3)
        self.own = Heads(config.width, config.heads, config.dropout)
        self.cross = Heads(config.width, config.heads, config.dropout)
        self.modulation = PointModulation(pmca, config.width, config.heads) if pmca.on else None

    def forward(self, x: Tensor, positions: Tensor, state: LayerState) -> tuple[Tensor, Tensor]:
        """x: [B, T, D], the next T positions; `state` takes in their keys.

        Returns x and the cross-attention [B, M, T, S].
        """
        placed = x + positions
        heard, _ = self.own(placed, state.take(*self.own.keep(placed, x)), state.causal(x))
        x = self.add(x, heard, 0)
        bias = state.hidden
        if self.modulation is not None:
            around = self.modulation(x, state.memory.extents, state.memory.hw)
            # The sentence's token is nowhere: nothing is taken from it.
            around = F.pad(around, (0, state.memory.tokens.shape[1] - around.shape[-1]))
            bias = around if bias is None else around + bias
        heard, attention = self.cross(x + positions, state.crossed, bias)
        x = self.add(x, heard, 1)
        return self.add(x, self.mlp(x), 2), attention


class LayerState:
    """The keys and values that one decoder layer keeps: of the memory, and of what is written."""

    def __init__(self, layer: DecoderLayer, memory: Memory) -> None:
        self.memory = memory
        keys, values = layer.cross.keep(memory.tokens + memory.positions, memory.tokens)
        # Contiguous: each step multiplies with them, and would make a copy of them first.
        self.crossed = keys.contiguous(), values.contiguous()
        self.hidden = hiding(memory.seen[:, None, None])
        self.own: tuple[Tensor, Tensor] | None = None

    def take(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the new ones last."""
        if self.own is not None:
            keys = torch.cat([self.own[0], keys], dim=2)
            values = torch.cat([self.own[1], values], dim=2)
        self.own = keys, values
        return self.own

    def causal(self, x: Tensor) -> Tensor | None:
        """What hides later positions from the T that were just taken in; None for a single one."""
        assert self.own is not None
        new, all_of_them = x.shape[1], self.own[0].shape[2]
        if new == 1:
            return None
        later = torch.ones(new, all_of_them, dtype=torch.bool, device=x.device)
        return hiding(~later.triu(1 + all_of_them - new))


def hiding(seen: Tensor) -> Tensor | None:
    """-inf where `seen` is False, 0 elsewhere; None if all is seen."""
    if bool(seen.all()):
        return None
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, float("-inf"))
