"""The transformer decoder layer of both heads: attend among ourselves, to a memory, then an MLP.

Paper map (both heads: "4-layer standard transformer decoder", add & norm):
  self-attention, masked for words       -> `DecoderLayer.look`
  cross-attention to the memory, MLP     -> `DecoderLayer.hear`
We differ in form, never in value: keys and values are made apart from the questions, so that
they can be kept (words already written) or shared (proposals of one image). Dropout is after each
part and inside the MLP, not on the attention weights.
Letters: G groups that share a memory, S sequences of a group, L places, K keys, M memory places,
C width, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.nn.attention import Attention, attend, split_heads


@dataclass(frozen=True)
class KeysValues:
    """keys, values: [G, h, K, C / h], ready to be attended to."""

    keys: Tensor
    values: Tensor

    def __getitem__(self, rows: Tensor) -> KeysValues:
        return KeysValues(self.keys[rows], self.values[rows])

    def then(self, more: KeysValues) -> KeysValues:
        """These keys and behind them `more`."""
        return KeysValues(
            torch.cat([self.keys, more.keys], dim=2), torch.cat([self.values, more.values], dim=2)
        )


class PreparedAttention(Attention):
    """Attention in two halves, `prepare` and `ask`; their composition is `Attention.forward`."""

    def prepare(self, keys: Tensor) -> KeysValues:
        """keys [G, K, key_width] -> `KeysValues`."""
        k, v = (split_heads(part, self.heads) for part in self.kv(keys).chunk(2, dim=-1))
        return KeysValues(k, v)

    def ask(self, query: Tensor, ready: KeysValues, allowed: Tensor | None = None) -> Tensor:
        """query [G, Q, width]; allowed: bool, broadcast to [G, Q, K] -> [G, Q, width].

        Who may look at nothing hears zeros.
        """
        q = split_heads(self.q(query), self.heads)
        if allowed is None:
            return self._join(attend(q, ready.keys, ready.values, None))
        seen = allowed.any(dim=-1, keepdim=True)
        mask = (allowed | ~seen)[:, None]  # [G or 1, 1, Q or 1, K]
        return self._join(attend(q, ready.keys, ready.values, mask)) * seen


class DecoderLayer(nn.Module):
    """Post-norm layer of `width`, whose memory is `memory_width` wide. Use `look`, then `hear`."""

    def __init__(
        self, width: int, heads: int, mlp_width: int, dropout: float, memory_width: int
    ) -> None:
        super().__init__()
        self.own = PreparedAttention(width, heads)
        self.memory = PreparedAttention(width, heads, memory_width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def look(
        self, x: Tensor, past: KeysValues | None = None, allowed: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x [R, L, C] attends to `past` and itself; allowed: bool, broadcast to [R, L, K].

        Returns the new x and all keys there are now.
        """
        now = self.own.prepare(x)
        ready = now if past is None else past.then(now)
        return self._add(0, x, self.own.ask(x, ready, allowed)), ready

    def hear(self, x: Tensor, memory: KeysValues, allowed: Tensor | None = None) -> Tensor:
        """x [G * S, L, C] attends to its group's `memory` [G, h, M, C / h], then thinks.

        allowed: [G, M] bool. The sequences of a group ask as one, so no memory is copied.
        """
        together = x.reshape(len(memory.keys), -1, x.shape[-1])
        mask = None if allowed is None else allowed[:, None]
        x = self._add(1, x, self.memory.ask(together, memory, mask).view_as(x))
        return self._add(2, x, self.mlp(x))

    def _add(self, part: int, x: Tensor, heard: Tensor) -> Tensor:
        added: Tensor = self.norms[part](x + self.drop(heard))
        return added
