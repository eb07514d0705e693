"""A detector of COCO's things: SSD with MobileNetV2, as the TensorFlow Object Detection API has it.

Source map (SSD: Liu et al. 2016; MobileNetV2: Sandler et al. 2018; the API's configuration
ssd_mobilenet_v2_coco):
  MobileNetV2, to the expansion of block 13 and its last layer -> `Ssd.maps`
  four more maps, each half as large                           -> `Ssd.extra`
  a box and class scores for each anchor                       -> `Ssd.forward`
  anchors: 3 on the finest map, 6 on the others                -> `anchors`
  boxes from what was predicted, by the scales 10, 10, 5, 5    -> `decode_boxes`
Not obvious, and kept: SAME padding is one-sided at stride 2; a class is a sigmoid, 0 is "nothing";
pictures are stretched to 300 x 300 by TensorFlow's first bilinear resize, which takes the corner
of a pixel for its middle (`resize_legacy`). Batch norms are folded into their convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.errors import ModelError

SIDE = 300  # px, of the network's picture
CLASSES = 91  # COCO's category ids, 0 for nothing
EPS = 1e-3  # of the batch norms
#: MobileNetV2's blocks: expansion, channels, how many, stride of the first.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FINEST = 13  # the block whose expansion is the finest map
EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))  # channels between, and of each further map
MAPS = (576, 1280, *(out for _, out in EXTRA))  # channels of the maps
SIZES = (19, 10, 5, 3, 2, 1)  # cells a side
ANCHORS = (3, 6, 6, 6, 6, 6)  # a cell
SCALES = (0.2, 0.95)  # of the anchors on the finest and the coarsest map


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the odd pixel is added at the far side."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides.append((pad // 2, pad - pad // 2))
        return super().forward(F.pad(x, (*sides[1], *sides[0])))


def _unit(
    channels: int, out: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False
) -> SameConv:
    return SameConv(channels, out, kernel, stride, groups=channels if depthwise else 1)


class Block(nn.Module):
    """Expand, look around channel by channel, project; added to x where the shape allows."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = _unit(channels, inner) if expansion > 1 else None
        self.depthwise = _unit(inner, inner, 3, stride, depthwise=True)
        self.project = _unit(inner, out)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the block's output, its expansion)."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        new: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return (x + new if self.adds else new), wide


class Ssd(nn.Module):
    """images [B, 3, 300, 300] in -1..1 -> (boxes [B, 1917, 4], logits [B, 1917, 91]).

    Boxes are as predicted, to be read by `decode_boxes`; a class's probability is the sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = _unit(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, out, count, stride in BLOCKS:
            for index in range(count):
                blocks.append(Block(channels, out, expansion, stride if index == 0 else 1))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.last = _unit(channels, MAPS[1])
        self.extra = nn.ModuleList(
            nn.ModuleList((_unit(before, inner), _unit(inner, inner, 3, 2, depthwise=True),
                           _unit(inner, out)))
            for before, (inner, out) in zip(MAPS[1:], EXTRA, strict=False)
        )  # fmt: skip
        pairs = list(zip(MAPS, ANCHORS, strict=True))
        self.boxes = nn.ModuleList(_unit(c, 4 * n, 3) for c, n in pairs)
        self.classes = nn.ModuleList(_unit(c, CLASSES * n, 3) for c, n in pairs)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The six maps, finest first, [B, channels, side, side]."""
        x, found = F.relu6(self.first(images)), []
        for index, block in enumerate(self.blocks):
            x, wide = block(x)
            if index == FINEST:
                found.append(wide)
        found.append(F.relu6(self.last(x)))
        for units in self.extra:
            x = found[-1]
            for unit in units:  # type: ignore[attr-defined]
                x = F.relu6(unit(x))
            found.append(x)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(images)
        boxes = [_rows(head(x), 4) for head, x in zip(self.boxes, maps, strict=True)]
        logits = [_rows(head(x), CLASSES) for head, x in zip(self.classes, maps, strict=True)]
        return torch.cat(boxes, dim=1), torch.cat(logits, dim=1)


def _rows(x: Tensor, width: int) -> Tensor:
    """[B, A * width, H, W] -> [B, H * W * A, width]: cells row by row, anchors within a cell."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, width)


def anchors() -> Tensor:
    """[1917, 4] float32: centre y, x, height, width, as shares of the picture, as `Ssd` orders."""
    low, high = SCALES
    scales = [low + (high - low) * i / (len(SIZES) - 1) for i in range(len(SIZES))] + [1.0]
    found = []
    for index, (size, (scale, coarser)) in enumerate(zip(SIZES, pairwise(scales), strict=True)):
        if index == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
            shapes.append(((scale * coarser) ** 0.5, 1.0))
        sides = torch.tensor([(s / r**0.5, s * r**0.5) for s, r in shapes])
        middles = (torch.arange(size) + 0.5) / size
        grid = torch.cartesian_prod(middles, middles)  # y, x
        cells = grid[:, None].expand(-1, len(sides), -1)
        found.append(torch.cat([cells, sides.expand(len(grid), -1, -1)], dim=-1).flatten(0, 1))
    return torch.cat(found)


def decode_boxes(predicted: Tensor, anchor: Tensor) -> Tensor:
    """predicted [..., A, 4] (y, x, height, width) -> xyxy, shares of the picture, [..., A, 4]."""
    size = anchor[..., 2:]
    middle = predicted[..., :2] / 10 * size + anchor[..., :2]
    half = (predicted[..., 2:] / 5).exp() * size / 2
    return torch.cat([(middle - half).flip(-1), (middle + half).flip(-1)], dim=-1)


def resize_legacy(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.float32]:
    """uint8 [H, W, 3] -> float32 [side, side, 3] in 0..255 by TensorFlow's first bilinear resize.

    Output pixel i looks at i * H / side, not at the middle of the pixels.
    """
    height, width = image.shape[:2]
    rows, columns = _between(height, side), _between(width, side)
    above, below = (image[part].astype(np.float32) for part in rows[:2])
    lines = above + (below - above) * rows[2][:, None, None]  # [side, W, 3]
    left, right = lines[:, columns[0]], lines[:, columns[1]]
    mixed: NDArray[np.float32] = left + (right - left) * columns[2][None, :, None]
    return mixed


def _between(
    size: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(lower pixel, upper pixel, share of the upper) of each output pixel."""
    place = np.arange(side) * np.float32(size / side)
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), (place - low).astype(np.float32)


@dataclass(frozen=True)
class Detected:
    """What the detector makes of each anchor.

    boxes: float32 [1917, 4], xyxy px of the original image, cut at its edges. probabilities:
    float32 [1917, 91] by COCO's category id; they are sigmoids and need not sum to one, and 0,
    "nothing", is not to be read (TensorFlow does not, either).
    """

    boxes: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@torch.inference_mode()
def look(ssd: Ssd, image: NDArray[np.uint8]) -> Detected:
    """What `ssd` sees in one picture, uint8 RGB [H, W, 3]."""
    height, width = image.shape[:2]
    weight = ssd.first.weight
    pixels = torch.from_numpy(resize_legacy(image)).to(weight) * (2 / 255) - 1
    predicted, logits = ssd(pixels.permute(2, 0, 1)[None].contiguous())
    shares = decode_boxes(predicted[0].float().cpu(), anchors()).clamp(0, 1)
    boxes = shares * torch.tensor([width, height, width, height], dtype=torch.float32)
    return Detected(boxes.numpy(), logits[0].float().sigmoid().cpu().numpy())


# -- weights ---------------------------------------------------------------------------------------


def convert(constants: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """`Ssd`'s state from the constants of the frozen graph, batch norms folded into convolutions.

    Raises ModelError naming a constant that is missing or has another shape.
    """
    state: dict[str, Tensor] = {}
    for ours, (theirs, normed) in names().items():
        depthwise = theirs.endswith("depthwise")
        kind = "depthwise_weights" if depthwise else "weights"
        weight = _constant(constants, f"{theirs}/{kind}")  # [kh, kw, in, out]
        if normed:
            gamma, beta, mean, variance = (
                _constant(constants, f"{theirs}/BatchNorm/{part}")
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            factor = gamma / np.sqrt(variance + EPS)
            bias = beta - mean * factor
            weight = weight * (factor[:, None] if depthwise else factor)
        else:
            bias = _constant(constants, f"{theirs}/biases")
        order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        state[f"{ours}.weight"] = torch.from_numpy(np.ascontiguousarray(weight.transpose(order)))
        state[f"{ours}.bias"] = torch.from_numpy(np.ascontiguousarray(bias, dtype=np.float32))
    return state


def names() -> dict[str, tuple[str, bool]]:
    """Our convolutions' names -> the graph's, and whether a batch norm follows there."""
    root = "FeatureExtractor/MobilenetV2"
    found = {"first": (f"{root}/Conv", True), "last": (f"{root}/Conv_1", True)}
    for index in range(sum(count for _, _, count, _ in BLOCKS)):
        block = f"{root}/expanded_conv" + (f"_{index}" if index else "")
        parts = ("expand", "depthwise", "project") if index else ("depthwise", "project")
        found |= {f"blocks.{index}.{part}": (f"{block}/{part}", True) for part in parts}
    for index, (inner, out) in enumerate(EXTRA):
        narrow = f"{root}/layer_19_1_Conv2d_{index + 2}_1x1_{inner}"
        wide = f"{root}/layer_19_2_Conv2d_{index + 2}_3x3_s2_{out}"
        for part, name in enumerate((narrow, f"{wide}_depthwise", wide)):
            found[f"extra.{index}.{part}"] = (name, True)
    for index in range(len(MAPS)):
        found[f"boxes.{index}"] = (f"BoxPredictor_{index}/BoxEncodingPredictor", False)
        found[f"classes.{index}"] = (f"BoxPredictor_{index}/ClassPredictor", False)
    return found


def _constant(constants: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    if name not in constants:
        raise ModelError(
            f"the graph has no constant {name}", remedy="use the graph of ssd_mobilenet_v2_coco"
        )
    return constants[name]
