"""TinyViT, the image encoder of MobileSAM: convolutions first, attention inside windows after.

Four stages over a convolutional stem of stride 4. The first stage is made of inverted bottlenecks;
the others alternate attention within windows, a depthwise 3 x 3 convolution (the only way from
window to window) and an MLP. Between two stages the map is halved, but for the last pair in
MobileSAM, so that 1024 px give 64 x 64 places. A neck brings them to SAM's width.

It is made to be used, not trained: batch norms are folded into the convolutions before them
(`refseg.nn.sam_convert`), and there is neither dropout nor stochastic depth.

Sources: Wu et al., "TinyViT", ECCV 2022, section 4.2 (the 5 M model); Zhang et al., "Faster
Segment Anything", arXiv:2306.14289 (stride 1 at the end, the neck); Kirillov et al., "Segment
Anything", ICCV 2023 (the neck's form). Letters: B images, H x W places, C channels, M windows,
N places of a window, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

NECK_EPS = 1e-6  # SAM's; all other layer norms have torch's 1e-5


class TinyVitConfig(BaseModel):
    """Sizes of the encoder. Defaults are MobileSAM's (TinyViT-5M, 5.74 M parameters).

    widths, depths: channels and blocks of the four stages. heads, windows: of the three stages
    with attention. strides: between the stages. out: channels of the neck.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int] = (4, 5, 10)
    windows: tuple[int, int, int] = (7, 14, 7)
    strides: tuple[int, int, int] = (2, 2, 1)
    expansion: int = 4
    out: int = 256

    @model_validator(mode="after")
    def _heads_share_channels(self) -> TinyVitConfig:
        for width, heads in zip(self.widths[1:], self.heads, strict=True):
            if width % heads:
                raise ValueError(f"{width} channels do not go into {heads} heads")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input to a place of the output, per axis."""
        first, second, third = self.strides
        return 4 * first * second * third


class TinyVit(nn.Module):
    """Images [B, 3, H, W] float, normalised, to embeddings [B, out, H / stride, W / stride].

    Any size works; sides that the strides do not divide are rounded up at each of them.
    """

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        self.config = config
        widths, grow = config.widths, config.expansion
        first = widths[0]
        self.stem = nn.Sequential(
            conv(3, first // 2, 3, 2), nn.GELU(), conv(first // 2, first, 3, 2)
        )
        stages: list[nn.Module] = [
            Stage([Bottleneck(first, grow) for _ in range(config.depths[0])], self._merge(0))
        ]
        for index, (heads, window) in enumerate(zip(config.heads, config.windows, strict=True), 1):
            width = widths[index]
            blocks = [
                WindowBlock(WindowAttention(width, heads, window), Mlp(width, grow))
                for _ in range(config.depths[index])
            ]
            stages.append(Stage(blocks, self._merge(index) if index < 3 else nn.Identity()))
        self.stages = nn.ModuleList(stages)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[3], config.out, 1, bias=False),
            ChannelNorm(config.out, eps=NECK_EPS),
            nn.Conv2d(config.out, config.out, 3, padding=1, bias=False),
            ChannelNorm(config.out, eps=NECK_EPS),
        )

    def _merge(self, index: int) -> nn.Module:
        config = self.config
        return Merge(config.widths[index], config.widths[index + 1], config.strides[index])

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        embedding: Tensor = self.neck(x)
        return embedding


def conv(channels: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """A convolution as the encoder has them: odd kernel, same size, bias (its batch norm's)."""
    return nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups)


class Stage(nn.Module):
    """Blocks, then the way to the next stage. Maps [B, C, H, W]."""

    def __init__(self, blocks: Iterable[nn.Module], merge: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        merged: Tensor = self.merge(x)
        return merged


class Bottleneck(nn.Module):
    """Widen, look around, narrow, add: [B, C, H, W] -> the same."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.conv1 = conv(width, inner, 1)
        self.conv2 = conv(inner, inner, 3, groups=inner)
        self.conv3 = conv(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(self.conv3(inner) + x)


class Merge(nn.Module):
    """[B, C, H, W] -> [B, C', H / stride, W / stride]."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(width, out, 1)
        self.conv2 = conv(out, out, 3, stride, groups=out)
        self.conv3 = conv(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return merged


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowBlock(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP: [B, C, H, W] -> the same."""

    def __init__(self, attn: WindowAttention, mlp: Mlp) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp
        self.local_conv = conv(attn.width, attn.width, 3, groups=attn.width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        hw = (tokens.shape[1], tokens.shape[2])
        windows = self.attn(to_windows(tokens, self.attn.window))
        tokens = tokens + from_windows(windows, self.attn.window, hw)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed: Tensor = tokens + self.mlp(tokens)
        return mixed.permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Norm, widen, narrow, over the last axis."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * expansion)
        self.fc2 = nn.Linear(width * expansion, width)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return narrowed


class WindowAttention(nn.Module):
    """Self-attention among the places of one window: [M, N, C] -> the same, N = window².

    softmax(q kᵀ / sqrt(D) + bias) v, where a head's bias depends on how many rows and columns
    lie between the two places, not on the direction. What fills incomplete windows takes part
    like any place (zeros that the norm turns into its offset): the model was trained so.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.width, self.heads, self.window = width, heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("apart", places_apart(window), persistent=False)
        self.apart: Tensor

    def forward(self, windows: Tensor) -> Tensor:
        mapped: Tensor = self.qkv(self.norm(windows))
        by_head = mapped.view(*mapped.shape[:2], self.heads, -1).transpose(1, 2)
        q, k, v = by_head.chunk(3, dim=-1)  # [M, heads, N, D]
        # [1, heads, N, N]: with three axes torch would leave its fast path (a tenth of the time).
        bias = self.biases[None, :, self.apart]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


def places_apart(window: int) -> Tensor:
    """[N, N] int64: |rows apart| * window + |columns apart|, the place of a pair's bias."""
    place = torch.arange(window * window)
    rows, columns = place // window, place % window
    return (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()


def to_windows(tokens: Tensor, window: int) -> Tensor:
    """[B, H, W, C] -> [M, N, C], rows of windows from above; zeros fill at the right and below."""
    images, height, width, channels = tokens.shape
    tokens = F.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))
    cut = tokens.reshape(images, -(-height // window), window, -(-width // window), window, -1)
    return cut.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, hw: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows` for maps of `hw`: [M, N, C] -> [B, H, W, C]."""
    height, width = hw
    down, across = -(-height // window), -(-width // window)
    cut = windows.view(-1, down, across, window, window, windows.shape[-1]).transpose(2, 3)
    tokens = cut.reshape(len(cut), down * window, across * window, -1)
    return tokens[:, :height, :width]
