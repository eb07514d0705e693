"""The entity discovery module: patches of an image shatter into slots.

One iteration, its weights shared by all T:

    A = softmax over slots (Q K^T / sqrt d), per head;  A' = A / (sum over patches of A + 1e-7)
    S' = S + out(A' V);  S^ = S' + MLP(S')               aggregation
    S = S^ + attention within a group;  S = S + MLP(S)   interaction

Letters: I images, S draws, K slots (groups of K_s), N patches, D width, h heads, d their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refseg.methods.sag.config import SlotsConfig
from refseg.methods.sag.layers import Heads, mlp
from refseg.methods.sag.slots import FirstSlots, check_count
from refseg.nn.attention import attend

EPS = 1e-7


@dataclass(frozen=True)
class Entities:
    """slots: [I, S, K, D], Phi. attention: [I, S, K, N] float32, A^slot of the last iteration, mean
    over heads: how much of each patch is each slot's. (Its queries are the slots before the last.)
    """

    slots: Tensor
    attention: Tensor


@dataclass(frozen=True)
class Looked:
    """keys, values: [I, h, N, d] of the patches; the same in every iteration."""

    keys: Tensor
    values: Tensor


class Aggregation(nn.Module):
    """`look` at patches [I, N, D] once, `forward` for slots [I, S, K, D] once an iteration."""

    def __init__(self, config: SlotsConfig, width: int) -> None:
        super().__init__()
        self.over = config.over
        self.norm_slots, self.norm_patches = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = Heads(width, config.heads, config.head_width, config.drop)
        self.mlp = mlp(width, config.mlp_factor, config.drop)

    def look(self, patches: Tensor) -> Looked:
        """What no slot changes."""
        heads, normed = self.heads, self.norm_patches(patches)
        keys, values = (heads.split(part(normed)) for part in (heads.key, heads.value))
        return Looked(keys.transpose(1, 2), values.transpose(1, 2))

    def forward(self, slots: Tensor, looked: Looked) -> tuple[Tensor, Tensor]:
        """The slots after it, and A [I, h, S, K, N] float32."""
        heads, draws = self.heads, slots.shape[1:3]
        # The draws are more queries to the same patches; only the softmax must tell them apart.
        query = heads.split(heads.query(self.norm_slots(slots))).flatten(1, 2).transpose(1, 2)
        scores = query @ looked.keys.transpose(2, 3)  # [I, h, S K, N]
        # In float32: 1e-7 is nothing in half precision.
        scores = torch.unflatten(scores.float(), 2, draws) * heads.scale
        shares = scores.softmax(dim=3 if self.over == "slots" else 4)
        weights = shares / (shares.sum(dim=4, keepdim=True) + EPS)
        heard = weights.flatten(2, 3).to(looked.values.dtype) @ looked.values  # [I, h, S K, d]
        slots = slots + heads.joined(torch.unflatten(heard.transpose(1, 2), 1, draws))
        return slots + self.mlp(slots), shares


class Interaction(nn.Module):
    """slots [I, S, K, D] -> the same, after those of each group of `size` heard one another."""

    def __init__(self, config: SlotsConfig, width: int) -> None:
        super().__init__()
        self.size = config.group_size
        self.norm = nn.LayerNorm(width)
        heads = config.interaction_heads
        self.heads = Heads(width, heads, width // heads, config.drop)
        self.mlp = mlp(width, config.mlp_factor, config.drop)

    def forward(self, slots: Tensor) -> Tensor:
        heads = self.heads
        groups = torch.unflatten(slots, 2, (-1, self.size)).flatten(0, 2)  # [I S K_g, K_s, D]
        normed = self.norm(groups)
        query, key, value = (
            heads.split(part(normed)).transpose(1, 2)
            for part in (heads.query, heads.key, heads.value)
        )
        heard = attend(query, key, value, None)
        groups = groups + heads.joined(heard.transpose(1, 2))
        heard_and_thought: Tensor = groups + self.mlp(groups)
        return heard_and_thought.view_as(slots)


class EntityDiscovery(nn.Module):
    """patches [I, N, D] with their positions, noise [I, S, K, D] -> `Entities`."""

    def __init__(self, config: SlotsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.first = FirstSlots(config, width)
        self.aggregate = Aggregation(config, width)
        self.interact = Interaction(config, width) if config.interaction else None
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, patches: Tensor, noise: Tensor) -> Entities:
        return self.shatter(self.first(noise), self.aggregate.look(patches))

    def shatter(self, slots: Tensor, looked: Looked) -> Entities:
        """T iterations from first slots [I, S, K, D]. Raises ConfigError for another K."""
        check_count(slots.shape[2], self.config)
        shares = torch.zeros(())
        for _ in range(self.config.iterations):
            slots, shares = self.aggregate(slots, looked)
            if self.interact is not None:
                slots = self.interact(slots)
        return Entities(self.out(slots), shares.mean(dim=1))
