"""DarkNet-53 with YOLOv3's first neck convolutions: three maps of an image, as SeqTR uses them.

Units (convolution without bias, batch norm, leaky ReLU) in the order of the `.weights` files; c is
`width`, 32 in the paper:

    stem      3 x 3, c
    stage i   3 x 3 at stride 2, c * 2^i; then depths[i - 1] times (1 x 1 to half, 3 x 3 back, add)
    neck      three times (1 x 1 to c * 16, 3 x 3 to c * 32), nothing added

The maps are those after stages 3 and 4, and after the neck (after stage 5 where there is none).

Sources: Redmon and Farhadi, "YOLOv3", arXiv:1804.02767, table 1, and the detector's published
layers 0-80; Zhu et al., "SeqTR", ECCV 2022 (which maps, and that all but the last two units are
frozen). Other than in SeqTR's code, a frozen batch norm keeps its statistics: there they drift
with the batches, although no gradient reaches them. Letters: B images, C channels, h x w places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from refseg.errors import ModelError

SLOPE = 0.1  # of the leaky ReLU below zero
EPS = 1e-5  # of the batch norms, as in SeqTR; darknet itself adds 1e-6, after the root
NECK_PAIRS = 3
TRAINED_END = 2  # units of the neck that SeqTR trains

Depth = Annotated[int, Field(ge=1)]


class DarkNetVisionConfig(BaseModel):
    """A DarkNet with a neck. Defaults are SeqTR's (56.32 M parameters, 5.25 M of them trained).

    kind: tells it from other vision encoders. width: channels of the stem; the maps have 8, 16 and
    32 times as many. depths: residual blocks of the five stages. neck: with the six convolutions
    that YOLOv3 has before its first boxes. frozen: parts that keep weights and batch statistics:
    "all but neck end" leaves the neck's last two convolutions to be trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["darknet"] = "darknet"
    width: int = Field(default=32, ge=1)
    depths: tuple[Depth, Depth, Depth, Depth, Depth] = (1, 2, 8, 8, 4)
    neck: bool = True
    frozen: Literal["none", "all", "all but neck end"] = "all but neck end"

    @model_validator(mode="after")
    def _neck_end_needs_a_neck(self) -> Self:
        if self.frozen == "all but neck end" and not self.neck:
            raise ValueError('without a neck, frozen is "none" or "all"')
        return self

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three maps, finest first."""
        return (8 * self.width, 16 * self.width, 32 * self.width)


class Unit(nn.Module):
    """x [B, in, h, w] -> [B, out, ceil(h / stride), ceil(w / stride)]."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=EPS)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Block(nn.Module):
    """x [B, C, h, w] plus what a 1 x 1 to half the channels and a 3 x 3 back make of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = Unit(channels, channels // 2, 1)
        self.expand = Unit(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.expand(self.squeeze(x))
        return out


class DarkNet(nn.Module):
    """images [B, 3, H, W] -> three maps [B, channels[i], ceil(H / strides[i]), ceil(W / ...)].

    H and W may be any; where they are no multiples of 32 a map is not exactly twice the next one.
    Weights trained by darknet expect RGB in 0..1: mean 0 and std 1 in the preprocessing. (Raw
    0..255, as SeqTR feeds, works only while the first norm may follow the batches.)
    A norm that is trained needs two places or more in all: torch raises ValueError for one image
    of 32 px or less.
    """

    strides = (8, 16, 32)

    def __init__(self, config: DarkNetVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        width = config.width
        self.stem = Unit(3, width, 3)
        self.stages = nn.ModuleList(
            _stage(width * 2**index, depth) for index, depth in enumerate(config.depths)
        )
        self.neck = _neck(self.channels[-1]) if config.neck else nn.Identity()
        for unit in self._frozen_units():
            unit.requires_grad_(False)
        self.train(self.training)  # frozen norms, from the start

    def forward(self, images: Tensor) -> list[Tensor]:
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        x = self.stem(images.contiguous())
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return [levels[2], levels[3], self.neck(x)]

    def train(self, mode: bool = True) -> Self:
        """As any module's, but a frozen batch norm keeps its statistics."""
        super().train(mode)
        for unit in self._frozen_units():
            unit.eval()
        return self

    def units(self) -> list[tuple[str, Unit]]:
        """Names and units in the order of `.weights` files."""
        return [(name, part) for name, part in self.named_modules() if isinstance(part, Unit)]

    def _frozen_units(self) -> list[Unit]:
        units = [unit for _, unit in self.units()]
        left = {"none": len(units), "all": 0, "all but neck end": TRAINED_END}
        return units[: len(units) - left[self.config.frozen]]


def _stage(channels: int, depth: int) -> nn.Sequential:
    down = Unit(channels, 2 * channels, 3, stride=2)
    return nn.Sequential(down, *(Block(2 * channels) for _ in range(depth)))


def _neck(channels: int) -> nn.Sequential:
    units: list[Unit] = []
    for _ in range(NECK_PAIRS):
        units += [Unit(channels, channels // 2, 1), Unit(channels // 2, channels, 3)]
    return nn.Sequential(*units)


def load_darknet_weights(module: DarkNet, path: Path) -> None:
    """Fill `module` from a `.weights` file of darknet, float32 bit for bit; frozen or not.

    Layout (little-endian): int32 major, minor, revision; images seen, int64 from version 0.2 on,
    int32 before; then float32, for each unit: the norm's bias, weight, mean, variance; the kernel.
    What follows the module's units (the rest of a detector) is not read.
    Raises ModelError, and leaves `module` as it was, when the file is absent, too short for every
    unit (a backbone's file with neck=True), not finite, or visibly of another network.
    """
    units = module.units()
    values = _read_values(path, _header_bytes(path), [_count(unit) for _, unit in units])
    state = module.state_dict()
    for (name, unit), part in zip(units, values, strict=True):
        new = _unit_state(unit, torch.from_numpy(part))
        # Any shift against the file's own layers puts kernels, of both signs, in this place.
        if (new["norm.running_var"] < 0).any():
            raise ModelError(
                f"{path} has a negative variance for {name}",
                remedy="it is of another network: give weights of YOLOv3 or DarkNet-53",
            )
        state.update({f"{name}.{key}": value for key, value in new.items()})
    module.load_state_dict(state)


def _unit_state(unit: Unit, numbers: Tensor) -> dict[str, Tensor]:
    """A unit's part of the file by the names of its state."""
    keys = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var")
    sizes = [*[unit.norm.num_features] * 4, unit.conv.weight.numel()]
    *vectors, kernel = torch.split(numbers, sizes)
    return {
        **dict(zip(keys, vectors, strict=True)),
        "conv.weight": kernel.view_as(unit.conv.weight),
    }


def _count(unit: Unit) -> int:
    return unit.conv.weight.numel() + 4 * unit.norm.num_features


def _header_bytes(path: Path) -> int:
    """Where the numbers begin. Raises ModelError."""
    try:
        with path.open("rb") as stream:
            head = np.frombuffer(stream.read(12), "<i4")
    except OSError as error:
        raise ModelError(
            f"cannot read weights {path}: {error.strerror}", remedy="check the path"
        ) from None
    except ValueError:  # no multiple of four bytes
        head = np.zeros(0, "<i4")
    # Versions of darknet are 0.1 and 0.2; the letters of another format are far larger numbers.
    if len(head) < 3 or not ((head >= 0) & (head < 1000)).all():
        raise ModelError(
            f"{path} is no .weights file of darknet", remedy="give yolov3.weights or its like"
        )
    return 12 + (8 if head[0] * 10 + head[1] >= 2 else 4)


def _read_values(path: Path, start: int, counts: list[int]) -> list[NDArray[np.float32]]:
    """The numbers from byte `start` on, cut into `counts`. Raises ModelError."""
    ends = np.cumsum(counts)
    found = np.fromfile(path, "<f4", count=int(ends[-1]), offset=start)
    found = found.astype(np.float32, copy=False)
    whole = int((ends <= len(found)).sum())
    if whole < len(counts):
        raise ModelError(
            f"{path} has weights for {whole} of {len(counts)} convolutions",
            remedy="the file is cut off, of a backbone alone (set neck=false), or of another "
            "width or depth; a whole detector's file (yolov3.weights) has all",
        )
    if not np.isfinite(found).all():
        raise ModelError(f"{path} holds numbers that are not finite", remedy="get the file again")
    return np.split(found, ends[:-1])
