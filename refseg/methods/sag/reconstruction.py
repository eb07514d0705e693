"""The spatial broadcast decoder: what slots must hold so that patches can be made of them again.

Each slot is laid on all patches, with their positions, through an MLP whose last map gives a
patch's feature and a logit; the slots of a patch are mixed by the softmax of their logits.

Two of the MLP's maps are computed apart, with the same numbers. The first is linear in slot plus
position, so each goes through it alone. The features of the last are linear, and shares add up to
1, so slots are mixed before it.

Letters: I images, K slots, N patches (n of them asked), D width of slots, F of patches, H inside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.methods.sag.config import ReconstructionConfig
from refseg.nn.positions import sine_positions

HW = tuple[int, int]
#: Rows and columns that learned positions know.
PLACES = 50


class BroadcastDecoder(nn.Module):
    """slots [I, K, D] -> features [I, n, F] and shares [I, K, n] float32, which add up to 1."""

    def __init__(self, config: ReconstructionConfig, width: int, features: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(width, config.width)
        self.inner = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.layers - 2)
        )
        self.last = nn.Linear(config.width, features + 1)
        self.rows: nn.Embedding | None = None
        self.columns: nn.Embedding | None = None
        if config.position == "learned":
            self.rows = nn.Embedding(PLACES, width // 2)
            self.columns = nn.Embedding(PLACES, width - width // 2)
            for table in (self.rows, self.columns):
                nn.init.uniform_(table.weight)

    def forward(self, slots: Tensor, hw: HW, asked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """asked: [n] int64, the patches to make; None: all N."""
        hidden = self._hidden(slots, self._places(hw, asked))
        weight, bias = self.last.weight, self.last.bias
        shares = (hidden @ weight[-1] + bias[-1]).float().softmax(dim=1)
        mixed = torch.einsum("ikn,iknh->inh", shares.to(hidden.dtype), hidden)
        return F.linear(mixed, weight[:-1], bias[:-1]), shares

    def _hidden(self, slots: Tensor, places: Tensor) -> Tensor:
        """[I, K, n, H] before the last map."""
        of_slots = self.first(slots)[:, :, None]
        of_places = F.linear(places, self.first.weight)
        hidden = F.relu(of_slots + of_places)
        for layer in self.inner:
            hidden = F.relu(layer(hidden))
        return hidden

    def _places(self, hw: HW, asked: Tensor | None) -> Tensor:
        """[n, D], where the patches are. Raises ConfigError for more than learned ones know."""
        device = self.last.weight.device
        if self.rows is None or self.columns is None:
            valid = torch.ones(1, *hw, dtype=torch.bool, device=device)
            places = sine_positions(valid, self.width)[0].flatten(0, 1)
        else:
            if max(hw) > PLACES:
                raise ConfigError(
                    f"{hw[0]} x {hw[1]} patches, but learned positions know {PLACES} of a side",
                    remedy='set reconstruction.position="sine", a smaller preprocess.size or '
                    "larger patches",
                )
            rows = self.rows.weight[: hw[0], None].expand(-1, hw[1], -1)
            columns = self.columns.weight[None, : hw[1]].expand(hw[0], -1, -1)
            places = torch.cat([rows, columns], dim=-1).flatten(0, 1)
        return places if asked is None else places[asked]


def reconstruction_loss(
    decoder: BroadcastDecoder, slots: Tensor, features: Tensor, hw: HW, share: float
) -> Tensor:
    """Mean squared error of what the decoder makes of slots [I, K, D] against features [I, N, F].

    The features are a target alone: no gradient goes into them but through the slots. share: of
    the patches, drawn for all images alike; 1 draws nothing.
    """
    asked = None
    if share < 1:
        count = max(round(share * features.shape[1]), 1)
        asked = torch.randperm(features.shape[1], device=features.device)[:count]
    made, _ = decoder(slots, hw, asked)
    target = features.detach() if asked is None else features.detach()[:, asked]
    return F.mse_loss(made.float(), target.float())
