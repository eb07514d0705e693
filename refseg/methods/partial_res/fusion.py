"""Image and sentence to one map: tanh(V) * tanh(y) (SeqTR, bottom-up fusion).

Letters: I images, B expressions, C channels, h x w grid cells.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.partial_res.config import FusionConfig, strides_of
from refseg.nn.attention import tokens_to_map
from refseg.nn.darknet import DarkNet, DarkNetVisionConfig
from refseg.nn.vision import SwinPyramid, SwinVisionConfig

#: Groups of a group norm in the fusion's convolutions.
GROUPS = 8


class Levels(nn.Module):
    """A backbone behind one face: images [I, 3, H, W] -> maps [I, C, ceil(H / s), ceil(W / s)].

    strides: of the levels that are given, finest first. frozen: a Swin keeps its weights. Stages
    of a Swin behind the last level that is given are neither run nor trained.
    """

    def __init__(
        self,
        config: SwinVisionConfig | DarkNetVisionConfig,
        strides: tuple[int, ...],
        *,
        frozen: bool,
    ) -> None:
        super().__init__()
        swin = isinstance(config, SwinVisionConfig)
        self.backbone: SwinPyramid | DarkNet
        self.backbone = SwinPyramid(config) if swin else DarkNet(config)  # type: ignore[arg-type]
        places = [strides_of(config).index(stride) for stride in strides]
        self.places = places
        self.channels = tuple(self.backbone.channels[place] for place in places)
        self.frozen = frozen and swin
        if self.frozen:
            self.backbone.requires_grad_(False)
        if isinstance(self.backbone, SwinPyramid):
            self.backbone.rest(self.places[-1] + 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad() if self.frozen else nullcontext():
            maps = self._maps(images)
        return [maps[place] for place in self.places]

    def _maps(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.backbone, SwinPyramid):
            return [tokens_to_map(*level) for level in self.backbone(images, self.places[-1] + 1)]
        found: list[Tensor] = self.backbone(images)
        return found


class BottomUp(nn.Module):
    """Levels [I, C_i, h_i, w_i] -> V [I, width, h, w] on the grid of the level `grid`.

    A finer level is pooled and convolved, then joined with the next, up to the grid's (SeqTR).
    Coarser ones are narrowed to half the channels of the grid's, enlarged and joined as well.
    """

    def __init__(self, config: FusionConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = config.strides.index(config.grid)
        width, down = 0, []
        for level in range(self.grid):
            width += channels[level]
            down.append(_convolved(width, width, 3, config.norm))
        self.down = nn.ModuleList(down)
        self.factors = [
            config.strides[level + 1] // config.strides[level] for level in range(self.grid)
        ]
        width += channels[self.grid]
        narrow = max(channels[self.grid] // 2, 1)
        coarse = channels[self.grid + 1 :]
        self.narrow = nn.ModuleList([nn.Conv2d(count, narrow, 1) for count in coarse])
        width += narrow * len(coarse)
        self.join = nn.Sequential(
            _convolved(width, width, 3, config.norm), nn.Conv2d(width, config.width, 1)
        )
        if config.normed:
            self.join.append(nn.GroupNorm(_groups(config.width), config.width))

    def forward(self, levels: list[Tensor]) -> Tensor:
        joined = levels[0]
        for level, (convolved, factor) in enumerate(zip(self.down, self.factors, strict=True)):
            pooled = F.avg_pool2d(joined, factor, ceil_mode=True)
            joined = torch.cat([convolved(pooled), levels[level + 1]], dim=1)
        for narrow, coarse in zip(self.narrow, levels[self.grid + 1 :], strict=True):
            enlarged = F.interpolate(narrow(coarse), joined.shape[-2:], mode="nearest")
            joined = torch.cat([joined, enlarged], dim=1)
        fused: Tensor = self.join(joined)
        return fused


def _convolved(channels: int, out: int, size: int, norm: str) -> nn.Sequential:
    normed = nn.BatchNorm2d(out) if norm == "batch" else nn.GroupNorm(_groups(out), out)
    return nn.Sequential(
        nn.Conv2d(channels, out, size, padding=size // 2, bias=False), normed, nn.LeakyReLU(0.1)
    )


def _groups(channels: int) -> int:
    """The most groups up to `GROUPS` that the channels fall into."""
    return next(count for count in range(GROUPS, 0, -1) if channels % count == 0)
