"""CLIP's own ResNet: four maps of an image, and the attention that makes one vector of the last.

What it changes in a ResNet with bottleneck blocks:

    stem      3 x 3 at stride 2 to w / 2; 3 x 3 to w / 2; 3 x 3 to w; each with norm and ReLU;
              then the mean of 2 x 2 instead of a maximum (w is `width`, 64 in RN50 and RN101)
    strides   no convolution behind the stem's first has one: the mean of 2 x 2 stands before the
              block's last 1 x 1, and before the 1 x 1 of its shortcut ("anti-aliased")
    pool      the mean of the last map asks all its places, itself among them, by attention with
              learned positions; a linear layer brings the answer into the space of the texts

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, section 2.4. Parameters have the names of OpenAI's files. TRIS needs the maps alone.
Letters: I images, C channels, h x w places.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refseg.errors import ModelError

GROWTH = 4  # a block gives so many times the channels of its 3 x 3
STEM_STRIDE = 4

Depth = Annotated[int, Field(ge=1)]
Stride = Literal[1, 2]


class ClipResNetConfig(BaseModel):
    """CLIP's image tower of ResNet kind. Defaults are RN50 (23.53 M parameters, pool 14.79 M more).

    RN101: layers (3, 4, 23, 3), embed 512. kind: tells it from other vision encoders. layers:
    blocks of the four stages. width: channels behind the stem. strides: of the stages; 1 keeps the
    resolution, with the same weights. pool: with the attention pool, which the maps do not need;
    pool_heads, embed (length of its vector) and image_size (px of the square its position table is
    for) are its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["clip-resnet"] = "clip-resnet"
    layers: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    width: int = Field(default=64, ge=2, multiple_of=2)
    strides: tuple[Stride, Stride, Stride, Stride] = (1, 2, 2, 2)
    pool: bool = False
    pool_heads: int = Field(default=32, ge=1)
    embed: int = Field(default=1024, ge=1)
    image_size: int = Field(default=224, ge=1)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four maps, finest first."""
        first = GROWTH * self.width
        return (first, 2 * first, 4 * first, 8 * first)

    @property
    def map_strides(self) -> tuple[int, int, int, int]:
        """Pixels between two places of each map: 4, 8, 16, 32 by default."""
        one, two, three, four = self.strides
        first = STEM_STRIDE * one
        return (first, first * two, first * two * three, first * two * three * four)


class Block(nn.Module):
    """x [I, C, h, w] -> [I, GROWTH * width, ceil(h / stride), ceil(w / stride)]; stride 1 or 2."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = GROWTH * width
        self.stride = stride
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.bn1(self.conv1(x)))
        found = F.relu(self.bn2(self.conv2(found)))
        if self.stride > 1:
            found, x = halved(found), halved(x)
        found = self.bn3(self.conv3(found))
        return F.relu(found + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """map [I, C, h, w] of any size -> [I, embed]; side: places a side of the position table."""

    def __init__(self, channels: int, heads: int, embed: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        # The mean's position first, then those of the places, row by row.
        table = torch.randn(side * side + 1, channels) * channels**-0.5
        self.positional_embedding = nn.Parameter(table)
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=channels**-0.5)

    def forward(self, last: Tensor) -> Tensor:
        height, width = last.shape[-2:]
        places = last.flatten(2).transpose(1, 2)  # [I, h * w, C]
        tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
        tokens = tokens + self._positions(height, width)
        query, key, value = (
            layer(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [I, heads, T, C / heads]
            for layer, part in (
                (self.q_proj, tokens[:, :1]),
                (self.k_proj, tokens),
                (self.v_proj, tokens),
            )
        )
        answer = F.scaled_dot_product_attention(query, key, value)  # [I, heads, 1, C / heads]
        pooled: Tensor = self.c_proj(answer.flatten(1))
        return pooled

    def _positions(self, height: int, width: int) -> Tensor:
        """[1 + height * width, C]: the table, resized bilinearly where its grid is another."""
        table = self.positional_embedding
        if (height, width) == (self.side, self.side):
            return table
        grid = table[1:].T.reshape(1, -1, self.side, self.side)
        grid = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        return torch.cat([table[:1], grid[0].flatten(1).T])


class ClipResNet(nn.Module):
    """images [I, 3, H, W] -> four maps [I, channels[i], ceil(H / strides[i]), ceil(W / ...)].

    strides: 4, 8, 16, 32 unless configured. stages: how many of the four are run, from the finest
    on. H and W may be any. Where they are multiples of the last stride every 2 x 2 is whole and the
    maps are OpenAI's; elsewhere sizes round up, and a mean at the far edge is over the pixels there
    are (there: rounded down, the rest of the picture dropped, and no map for small ones).
    Weights by OpenAI expect PIXEL_MEAN and PIXEL_STD of `refseg.nn.clip`. Norms that are trained
    need two places or more in all: torch raises ValueError for one image of 32 px or less.
    """

    def __init__(self, config: ClipResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.strides = config.map_strides
        half, width = config.width // 2, config.width
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        (one, two, three, four), strides = config.layers, config.strides
        self.layer1 = _stage(width, width, one, strides[0])
        self.layer2 = _stage(self.channels[0], 2 * width, two, strides[1])
        self.layer3 = _stage(self.channels[1], 4 * width, three, strides[2])
        self.layer4 = _stage(self.channels[2], 8 * width, four, strides[3])
        self.attnpool: AttentionPool | None = None
        if config.pool:
            side = -(-config.image_size // self.strides[-1])
            self.attnpool = AttentionPool(self.channels[-1], config.pool_heads, config.embed, side)

    def forward(self, images: Tensor, stages: int = 4) -> list[Tensor]:
        x = self.stem(images)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[:stages]:
            x = stage(x)
            maps.append(x)
        return maps

    def stem(self, images: Tensor) -> Tensor:
        """[I, 3, H, W] -> [I, width, ceil(H / 4), ceil(W / 4)]."""
        # Channels last, which all that follows keeps: narrow convolutions are faster so.
        x = F.relu(self.bn1(self.conv1(images.contiguous(memory_format=torch.channels_last))))
        x = F.relu(self.bn2(self.conv2(x)))
        return halved(F.relu(self.bn3(self.conv3(x))))

    def pooled(self, last: Tensor) -> Tensor:
        """The last map [I, channels[3], h, w] as one vector [I, embed], not of unit length.

        Raises ModelError without an attention pool.
        """
        if self.attnpool is None:
            raise ModelError("this CLIP ResNet has no attention pool", remedy="set pool=true")
        vector: Tensor = self.attnpool(last)
        return vector


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2, [..., h, w] -> [..., ceil(h / 2), ceil(w / 2)]; at an odd edge, of less."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _stage(channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    rest = (Block(GROWTH * width, width, 1) for _ in range(depth - 1))
    return nn.Sequential(Block(channels, width, stride), *rest)
