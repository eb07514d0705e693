"""The decoder of step 2: levels narrowed, added up from coarse to fine, with four heads.

Default widths, 320 px:

    c1  256 -> 64  @ 80     + -> 32  @ 80   main head
    c2  512 -> 128 @ 40     + -> 64  @ 80   head 2
    c3 1024 -> 256 @ 20     + -> 128 @ 40   head 3
    c4 2048 -> 512 @ 10       -> 256 @ 20   head 4

Each step is brought to the next finer level's size before that is added. Sums, and heads of 32, 32,
64 and 64 inside, are the released code's; the published number of parameters is exactly theirs.
Letters: B expressions, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Widths = tuple[int, int, int, int]


class Decoder(nn.Module):
    """Four levels [B, C_i, h_i, w_i], finest first -> logits [B, 1, h, w], the main head's first.

    widths: what the levels are narrowed to, finest first. The finest level comes through `narrow`
    beforehand: where no words enter it, that is done once per image.
    """

    def __init__(self, channels: Widths, widths: Widths) -> None:
        super().__init__()
        finest, half = widths[0], max(widths[0] // 2, 1)
        self.narrow = nn.ModuleList(map(convolved, channels, widths))
        outputs = (half, *widths[:3])
        self.steps = nn.ModuleList(map(convolved, widths, outputs))
        inner = (half, half, finest, finest)
        self.heads = nn.ModuleList(map(head, outputs, inner))

    def forward(self, finest: Tensor, coarser: list[Tensor], *, sides: bool) -> list[Tensor]:
        """finest: c1, narrowed. coarser: c2, c3, c4. sides: ask the other heads too."""
        levels = [finest, *(self.narrow[i](x) for i, x in enumerate(coarser, start=1))]
        sums: list[Tensor] = []  # coarsest first
        x = levels[3]
        for place in (3, 2, 1):
            x = resized(self.steps[place](x), levels[place - 1])
            sums.append(x)
            x = x + levels[place - 1]
        heard = [self.steps[0](x), *reversed(sums)]
        return [ask(y) for ask, y in zip(self.heads, heard[: 4 if sides else 1], strict=False)]


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm, PReLU with one slope."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.PReLU())


def head(inputs: int, inner: int) -> nn.Sequential:
    """[B, C, h, w] -> logits [B, 1, h, w]."""
    return nn.Sequential(convolved(inputs, inner), nn.Conv2d(inner, 1, 1, bias=False))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Encoders round odd sizes up, so the target is the level's size, not twice ours."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
