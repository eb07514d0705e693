"""The edge network: where things end, and where their centres lie, from noisy seeds (TRIS).

IRNet (Ahn et al., CVPR 2019) as TRIS trains it, on the seeds of one ref at a time. A frozen
encoder is tapped at five places, the stem and its four stages; two heads of 1 x 1 convolutions
read all of them. Only the heads learn.

We differ: images are continued by their last pixels to a multiple of 32, so that the grids of all
stages lie upon one another and an image's mirrored twin falls on the same cells; at the paper's
crops nothing is added. Encoders other than IRNet's own have five taps, too, the first of Swin
being its patches, but their last one has stride 32.
Letters: B images, C channels, H x W px, h x w cells of 4 px: ceil(H / 4) x ceil(W / 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from refseg.errors import ConfigError, DataError
from refseg.method import MethodConfig, ParameterGroup, check_groups
from refseg.methods.tris.config import Encoder
from refseg.methods.tris.encoders import Pyramid, build_pyramid
from refseg.methods.tris.pairs import pair_loss
from refseg.methods.tris.seeds import STRIDE
from refseg.nn.attention import tokens_to_map
from refseg.nn.clip import Pixels
from refseg.nn.clip_resnet import ClipResNet
from refseg.nn.resnet import ResNetVisionConfig
from refseg.nn.sizes import check_swin
from refseg.nn.vision import SwinPyramid, SwinVisionConfig

HW = tuple[int, int]
Width = Annotated[int, Field(ge=1)]
Five = tuple[Width, Width, Width, Width, Width]

#: What images are continued to a multiple of: the coarsest stride.
COARSEST = 32


class EdgeNetConfig(MethodConfig):
    """The sizes are IRNet's. Each convolution has a group norm behind it.

    vision: the frozen encoder. edge_width, edge_groups: of all five taps on the way to an edge.
    widths, groups: of the five on the way to a displacement; joined_width, joined_groups: of what
    joins the last three, and of what joins that with the first two. radius: cells up to which
    pairs are compared. displacement_lr_scale: against the edge head (IRNet: 1.0 against 0.1).
    """

    vision: Annotated[Encoder, Field(union_mode="left_to_right")] = ResNetVisionConfig(
        last_stride=1
    )
    edge_width: Width = 32
    edge_groups: Width = 4
    widths: Five = (64, 128, 256, 256, 256)
    groups: Five = (8, 16, 16, 16, 16)
    joined_width: Width = 256
    joined_groups: Width = 16
    radius: int = Field(default=10, ge=2)
    displacement_lr_scale: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if isinstance(self.vision, SwinVisionConfig):
            check_swin(self.vision)
        pairs = [
            (self.edge_width, self.edge_groups),
            (self.joined_width, self.joined_groups),
            *zip(self.widths, self.groups, strict=True),
        ]
        for width, groups in pairs:
            if width % groups or width == groups:  # one channel has no spread on a single cell
                raise ConfigError(
                    f"edge network: {width} channels do not fall into {groups} groups of two or "
                    "more",
                    remedy="give widths that are 2, 3, ... times their groups",
                )
        return self


@dataclass(frozen=True)
class EdgeBatch:
    """images: [B, 3, H, W] float32, RGB in 0..1, which the network normalises as its encoder
    knows them. labels: [B, h, w] uint8 or int64 seeds, see `seeds.on_grid`. Raises DataError where
    the sizes do not belong together.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        expected = (len(self.images), *cells(_hw(self.images)))
        if tuple(self.labels.shape) != expected:
            raise DataError(
                f"seeds of shape {tuple(self.labels.shape)} for images of "
                f"{tuple(self.images.shape)}",
                remedy=f"{expected}: a label for every {STRIDE} x {STRIDE} px",
            )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> EdgeBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class EdgeOutputs:
    """edge: [B, h, w] logits. displacement: [B, 2, h, w] (dy, dx) in cells."""

    edge: Tensor
    displacement: Tensor


class EdgeNet(nn.Module):
    """forward(EdgeBatch) -> EdgeOutputs; in eval mode the mean of displacements is taken off.

    Pixels are normalised in here, by what `set_pixels` was told, which is kept with the weights: a
    frozen encoder sees them as those it learned from, whatever others in a recipe are shown.
    """

    mean_displacement: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EdgeNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_pyramid(config.vision)
        self.backbone.requires_grad_(False)
        channels = (config.vision.width, *config.vision.channels)
        self.edge = EdgeHead(config, channels)
        self.displacement = DisplacementHead(config, channels)
        self.register_buffer("mean_displacement", torch.zeros(2))
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))
        self.train(self.training)  # frozen norms, from the start

    def hub_part(self) -> tuple[nn.Module, str]:
        """What starts from others' weights, and its name in task models."""
        return self.backbone.hub_part()

    def set_pixels(self, pixels: Pixels) -> None:
        """What the encoder's weights know; pixels are left as they come until this is called."""
        self.pixel_mean.copy_(torch.tensor(pixels.mean))
        self.pixel_std.copy_(torch.tensor(pixels.std))

    def train(self, mode: bool = True) -> Self:
        """As any module's, but the encoder stays in eval mode: its norms keep their statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: EdgeBatch) -> EdgeOutputs:
        edge, displacement = self._read(_continued(batch.images))
        if not self.training:
            displacement = self._centred(displacement)
        height, width = cells(_hw(batch.images))
        return EdgeOutputs(edge[:, :height, :width], displacement[..., :height, :width])

    def loss(self, outputs: EdgeOutputs, batch: EdgeBatch) -> dict[str, Tensor]:
        """See `pairs.pair_loss`."""
        labels = batch.labels.long()
        return pair_loss(outputs.edge, outputs.displacement, labels, self.config.radius)

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, 3, H, W], RGB in 0..1 -> edges [B, h, w] in 0..1, displacements [B, 2, h, w],
        float32.

        Of the edge the sigmoid of the mean logit of an image and its mirrored twin; displacements
        are those of the image alone, less their mean. The same in both modes.
        """
        shown = _continued(images)
        edge, displacement = self._read(torch.cat([shown, shown.flip(-1)]))
        own, mirrored = edge.float().chunk(2)
        height, width = cells(_hw(images))
        found = ((own + mirrored.flip(-1)) / 2).sigmoid()[:, :height, :width]
        centred = self._centred(displacement[: len(images)].float())
        return found, centred[..., :height, :width]

    @torch.no_grad()
    def set_mean(self, batches: Iterable[EdgeBatch]) -> None:
        """Set the mean displacement of all images of some batches: one pass, after training.

        Raises DataError without an image.
        """
        total, count = torch.zeros(2, dtype=torch.float64), 0
        for batch in batches:
            images = batch.images.to(self.mean_displacement.device)
            height, width = cells(_hw(images))
            displacement = self._read(_continued(images))[1][..., :height, :width]
            total += displacement.float().mean(dim=(2, 3)).sum(dim=0).double().cpu()
            count += len(images)
        if not count:
            raise DataError("no image to take the mean displacement of", remedy="give some seeds")
        self.mean_displacement.copy_(total / count)

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images, sides multiples of `COARSEST` -> logits and displacements on all their cells."""
        with torch.no_grad():
            mean, std = (part[:, None, None] for part in (self.pixel_mean, self.pixel_std))
            found = taps(self.backbone, (images - mean) / std)
        hw = cells(_hw(images))
        return self.edge(found, hw), self.displacement(found, hw)

    def _centred(self, displacement: Tensor) -> Tensor:
        return displacement - self.mean_displacement[:, None, None]

    def parameter_groups(self) -> list[ParameterGroup]:
        """The heads; all of a head decays, norms and biases too, as in IRNet."""
        scale = self.config.displacement_lr_scale
        groups = [
            ParameterGroup("edge", tuple(self.edge.parameters())),
            ParameterGroup("displacement", tuple(self.displacement.parameters()), lr_scale=scale),
        ]
        check_groups(self, groups)
        return groups


class EdgeHead(nn.Module):
    """Five taps [B, C_i, h_i, w_i] and the cells' (h, w) -> logits [B, h, w]."""

    def __init__(self, config: EdgeNetConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        width, groups = config.edge_width, config.edge_groups
        self.narrow = nn.ModuleList(_narrow(count, width, groups) for count in channels)
        self.join = nn.Conv2d(width * len(channels), 1, 1)

    def forward(self, found: list[Tensor], hw: HW) -> Tensor:
        parts = [_resized(f(tap), hw).relu() for f, tap in zip(self.narrow, found, strict=True)]
        logits: Tensor = self.join(torch.cat(parts, dim=1))
        return logits[:, 0]


class DisplacementHead(nn.Module):
    """Five taps [B, C_i, h_i, w_i] and the cells' (h, w) -> displacements [B, 2, h, w].

    The last three are joined on the grid of the first of them, at stride 8.
    """

    def __init__(self, config: EdgeNetConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        sizes = zip(channels, config.widths, config.groups, strict=True)
        self.narrow = nn.ModuleList(_narrow(*size) for size in sizes)
        width, groups = config.joined_width, config.joined_groups
        self.coarse = _narrow(sum(config.widths[2:]), width, groups)
        self.fine = _narrow(sum(config.widths[:2]) + width, width, groups)
        self.answer = nn.Conv2d(width, 2, 1, bias=False)

    def forward(self, found: list[Tensor], hw: HW) -> Tensor:
        parts = [f(tap) for f, tap in zip(self.narrow, found, strict=True)]
        middle = _hw(parts[2])
        joined = torch.cat([_resized(part, middle).relu() for part in parts[2:]], dim=1)
        grown = _resized(self.coarse(joined), hw).relu()
        fine = [_resized(part, hw).relu() for part in parts[:2]]
        answer: Tensor = self.answer(self.fine(torch.cat([*fine, grown], dim=1)).relu())
        return answer


def taps(backbone: Pyramid, images: Tensor) -> list[Tensor]:
    """Five maps [B, C_i, h_i, w_i]: what the stem gives, pooled where it pools, then the stages."""
    trunk = backbone.trunk
    if isinstance(trunk, SwinPyramid):
        return [tokens_to_map(*trunk.stem(images)), *backbone(images)]
    stages: Iterable[nn.Module]
    if isinstance(trunk, ClipResNet):
        found = [trunk.stem(images)]
        stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    else:
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        found = [trunk.resnet.embedder(images.contiguous())]
        stages = trunk.resnet.encoder.stages
    for stage in stages:
        found.append(stage(found[-1]))
    return found


def cells(hw: HW) -> HW:
    """The grid of an image: (H, W) px -> (ceil(H / 4), ceil(W / 4))."""
    return -(-hw[0] // STRIDE), -(-hw[1] // STRIDE)


def _narrow(channels: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _resized(x: Tensor, hw: HW) -> Tensor:
    if _hw(x) == hw:
        return x
    return F.interpolate(x, hw, mode="bilinear", align_corners=False)


def _continued(images: Tensor) -> Tensor:
    """Images whose last pixels go on to the right and below, to multiples of `COARSEST`."""
    height, width = _hw(images)
    return F.pad(images, (0, -width % COARSEST, 0, -height % COARSEST), mode="replicate")


def _hw(x: Tensor) -> HW:
    return int(x.shape[-2]), int(x.shape[-1])
