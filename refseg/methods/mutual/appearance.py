"""What a proposal looks like, beside what it is: a repair, off by default (not in the paper).

The paper's proposal is the extractor's output vector O_i alone. An extractor taught by masks and
categories need not keep in it what its losses never ask for: in a small one colours are lost
(docs/decisions/0025). Here the backbone's features, averaged under the proposal's own mask, are
added to O_i by a linear map.
Letters: I images, N proposals, C width, D channels of all stages together, h x w a stage's grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.mutual.proposals import Proposals


class Appearance(nn.Module):
    """channels: of each of the backbone's stages. width: C."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sum(channels))
        self.project = nn.Linear(sum(channels), width)

    def forward(self, proposals: Proposals) -> Tensor:
        """What is added to O: [I, N, C]. Masks are taken as they are; they learn nothing here."""
        added: Tensor = self.project(self.norm(pool(proposals)))
        return added


def pool(proposals: Proposals) -> Tensor:
    """Mean of every stage's features under each proposal's mask, float32 [I, N, D]."""
    weight = proposals.levels[-1].masks.detach().float().sigmoid()
    parts = []
    for features in proposals.maps:
        share = F.interpolate(weight, features.shape[2:], mode="area").flatten(2)  # [I, N, h * w]
        share = share / share.sum(dim=2, keepdim=True).clamp(min=1e-4)
        parts.append(torch.einsum("inp,icp->inc", share, features.float().flatten(2)))
    return torch.cat(parts, dim=2)
