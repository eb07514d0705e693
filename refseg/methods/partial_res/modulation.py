"""Point-modulated cross-attention (PMCA): each head of a query looks around a place of its own.

After SMCA. Letters: B expressions, T queries, M heads, H x W cells, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refseg.methods.partial_res.config import PmcaConfig


class PointModulation(nn.Module):
    """queries [B, T, D] -> the bias G of attention logits [B, M, T, H * W], 0 at most.

    G = -(s_x^2 (mu_x - (j + 0.5))^2 + s_y^2 (mu_y - (i + 0.5))^2) / 8 for the cell in row i and
    column j. The centre mu lies within the cells that hold the image (`extents`).
    """

    def __init__(self, config: PmcaConfig, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.config = heads, config
        self.mlp = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, width // 4),
            nn.ReLU(),
            nn.Linear(width // 4, 4 * heads),
        )

    def start(self) -> None:
        """First weights: centres near the middle, scales that are small and not zero."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=self.config.noise)
        with torch.no_grad():
            last.bias[: 2 * self.heads] = 0.0
            last.bias[2 * self.heads :] = self.config.scale

    def forward(self, queries: Tensor, extents: Tensor, hw: tuple[int, int]) -> Tensor:
        """extents: [B, 4], see `places.extents`. Computed in float32 whatever the autocast type."""
        centre, scale = self.centres(queries, extents)
        with torch.autocast(queries.device.type, enabled=False):
            # No cross term: one parabola for the columns and one for the rows, added.
            parts = []
            for axis, count in ((1, hw[0]), (0, hw[1])):
                cells = torch.arange(count, device=queries.device) + 0.5
                distance = centre[..., axis, None] - cells
                parts.append(-((scale[..., axis, None] * distance) ** 2) / 8)
            bias = parts[0][..., :, None] + parts[1][..., None, :]  # [B, T, M, H, W]
        return bias.flatten(-2).transpose(1, 2)

    def centres(self, queries: Tensor, extents: Tensor) -> tuple[Tensor, Tensor]:
        """The centre mu [B, T, M, 2] in cells and the scale s [B, T, M, 2], x and y."""
        told = self.mlp(queries).float()
        places, scales = told.split(2 * self.heads, dim=-1)
        shape = (*queries.shape[:2], self.heads, 2)
        first, size = extents[:, None, None, :2], extents[:, None, None, 2:]
        return first + places.reshape(shape).sigmoid() * size, scales.reshape(shape)
