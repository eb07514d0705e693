"""Attention used unchanged by two or more places.

Letters: B batch, Q queries, K keys, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError

#: Up to so many keys the plain form is faster on a CPU, forward and backward.
FEW_KEYS = 64


class Attention(nn.Module):
    """Multi-head attention, queries and keys of their own widths; masks are boolean.

    query: [B, Q, width]; keys: [B, K, key_width]; allowed: [B, K] or [B, Q, K] bool, True where
    a key may be looked at. A query that may look at nothing gets a zero answer (never NaN).
    Returns [B, Q, width].
    """

    def __init__(self, width: int, heads: int, key_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"width {width} is not a multiple of {heads} heads",
                remedy="choose a number of heads that divides the width",
            )
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(key_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, keys: Tensor, allowed: Tensor | None = None) -> Tensor:
        q = split_heads(self.q(query), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.kv(keys).chunk(2, dim=-1))
        if allowed is None:
            return self._join(attend(q, k, v, None))
        mask = allowed[:, None] if allowed.ndim == 2 else allowed  # [B, Q or 1, K]
        seen = mask.any(dim=-1, keepdim=True)
        mask = (mask | ~seen)[:, None]
        # Masked after the last map, whose bias would otherwise speak for what nobody saw.
        return self._join(attend(q, k, v, mask)) * seen

    def _join(self, attended: Tensor) -> Tensor:
        batch, _, length, _ = attended.shape
        joined: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        return joined


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k') v per head, [B, heads, Q, D / heads]. mask: broadcast to [B, heads, Q, K]."""
    if q.device.type != "cpu" or k.shape[-2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # torch's fused CPU kernel spends most of its time on bookkeeping when pixels ask a few words.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    attended: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return attended


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, heads, L, D / heads]."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Pre-norm residual attention: x + Attention(LN(x), keys), with an optional MLP after it.

    Without `keys` the normalised queries are their own keys (self-attention).
    norm_keys: normalise the keys too (for keys that come straight from a linear map).
    norm_eps: of the queries' norm, far below the variance of the smallest query to be told
    apart; None leaves the queries as they are.
    residual: False gives the attention's answer alone, without x.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_width: int | None = None,
        mlp_ratio: float = 0.0,
        norm_keys: bool = False,
        norm_eps: float | None = 1e-5,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)
        self.norm_keys = nn.LayerNorm(key_width or width) if norm_keys else nn.Identity()
        self.attention = Attention(width, heads, key_width)
        hidden = int(width * mlp_ratio)
        self.mlp = (
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
            )
            if hidden
            else None
        )

    def forward(
        self, query: Tensor, keys: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        normed = self.norm(query)
        heard = self.attention(normed, normed if keys is None else self.norm_keys(keys), allowed)
        query = query + heard if self.residual else heard
        return query if self.mlp is None else query + self.mlp(query)


def channels_last_tokens(feature: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W, C]."""
    return feature.flatten(2).transpose(1, 2)


def tokens_to_map(tokens: Tensor, hw: tuple[int, int]) -> Tensor:
    """[B, H*W, C] -> [B, C, H, W], contiguous."""
    batch, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, channels, *hw).contiguous()
