"""The slow, plain forms of Shatter and Gather's parts, with the weights of the fast ones.

They are the released code's: keys and values of the patches are projected anew in each iteration,
every slot is laid on every patch and goes through the whole decoder, and the sentences are repeated
for every image, queries and all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.sag.discovery import Entities, EntityDiscovery
from refseg.methods.sag.fusion import Fusion, Heard
from refseg.methods.sag.reconstruction import BroadcastDecoder


class PlainDiscovery(EntityDiscovery):
    """Looks at the patches once an iteration."""

    def forward(self, patches: Tensor, noise: Tensor) -> Entities:
        slots, shares = self.first(noise), torch.zeros(())
        for _ in range(self.config.iterations):
            slots, shares = self.aggregate(slots, self.aggregate.look(patches))
            if self.interact is not None:
                slots = self.interact(slots)
        return Entities(self.out(slots), shares.mean(dim=1))


class PlainDecoder(BroadcastDecoder):
    """Slots are laid on patches before the first map, and mixed after the last."""

    def forward(
        self, slots: Tensor, hw: tuple[int, int], asked: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden = slots[:, :, None] + self._places(hw, asked)  # [I, K, n, D]
        for layer in (self.first, *self.inner):
            hidden = F.relu(layer(hidden))
        made = self.last(hidden)
        shares = made[..., -1].float().softmax(dim=1)
        return (shares[..., None] * made[..., :-1]).sum(dim=1), shares


class PlainFusion(Fusion):
    """As many queries to the slots of each image as there are sentences."""

    def pairs(self, sentences: Tensor, heard: Heard) -> Tensor:
        keys, values = heard.keys[:, 0].transpose(1, 2), heard.values[:, 0].transpose(1, 2)
        repeated = sentences.repeat(len(keys), 1, 1)  # [I, B, D]
        query = self._query(repeated).transpose(1, 2)  # [I, h, B, d]
        weights = self._weights(query @ keys.transpose(2, 3)).to(values.dtype)
        y = repeated + self.heads.joined((weights @ values).transpose(1, 2))
        z: Tensor = y + self.mlp(y)
        return F.normalize(z.float(), dim=-1).transpose(0, 1)


TWINS: dict[type, type] = {
    EntityDiscovery: PlainDiscovery,
    BroadcastDecoder: PlainDecoder,
    Fusion: PlainFusion,
}


def formed(module: nn.Module, *, plain: bool) -> None:
    """Make twins of all its parts that have one, or what they were of twins."""
    swap = TWINS if plain else {twin: own for own, twin in TWINS.items()}
    for part in module.modules():
        part.__class__ = swap.get(type(part), type(part))
