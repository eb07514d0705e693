"""Swin learns to name objects: what the methods' ImageNet weights stand for, in a rendered world.

ImageNet shows one object and asks for its class. Here a picture shows several, so the class is
asked of a box: tokens of each stage are sampled in it, averaged, and read by a linear layer.
Every stage answers, because a method fuses words into every stage.
Letters: I images, O objects (padded), S samples a box, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.method import MethodConfig, ParameterGroup, check_groups, split_decay
from refseg.nn.vision import SwinPyramid, SwinVisionConfig

#: Samples along each side of a box.
GRID = 3


class ObjectNamerConfig(MethodConfig):
    """vision: the encoder. classes: how many values each attribute has."""

    vision: SwinVisionConfig = SwinVisionConfig()
    classes: tuple[int, ...] = (1000,)


@dataclass(frozen=True)
class ObjectBatch:
    """images: [I, 3, H, W] float32, normalised. boxes: [I, O, 4] float32 xyxy, net frame.
    classes: [I, O, A] int64, the value of each attribute. known: [I, O] bool, False on padding.
    """

    images: Tensor
    boxes: Tensor
    classes: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> ObjectBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def sample_boxes(feature: Tensor, boxes: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Mean of GRID x GRID bilinear samples in each box: [I, C, h, w], [I, O, 4] -> [I, O, C]."""
    steps = (torch.arange(GRID, device=boxes.device) + 0.5) / GRID
    low, high = boxes[..., :2, None], boxes[..., 2:, None]
    places = low + (high - low) * steps  # [I, O, 2, S], px of the net image
    sizes = torch.tensor([image_hw[1], image_hw[0]], device=boxes.device)
    places = places / sizes[:, None] * 2 - 1
    x = places[:, :, 0, None, :].expand(-1, -1, GRID, -1)
    y = places[:, :, 1, :, None].expand(-1, -1, -1, GRID)
    grid = torch.stack([x, y], dim=-1).flatten(2, 3)  # [I, O, S * S, 2]
    found = F.grid_sample(feature, grid, align_corners=False, padding_mode="border")
    return found.mean(dim=-1).transpose(1, 2)


class ObjectNamer(nn.Module):
    """forward(ObjectBatch) -> for each stage logits [K, sum of classes] of the K known objects."""

    def __init__(self, config: ObjectNamerConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid = SwinPyramid(config.vision)
        self.norms = nn.ModuleList([nn.LayerNorm(c) for c in self.pyramid.channels])
        self.heads = nn.ModuleList(
            [nn.Linear(c, sum(config.classes)) for c in self.pyramid.channels]
        )

    def forward(self, batch: ObjectBatch) -> list[Tensor]:
        image_hw = (batch.images.shape[2], batch.images.shape[3])
        answers = []
        levels = zip(self.pyramid(batch.images), self.norms, self.heads, strict=True)
        for (tokens, hw), norm, head in levels:
            feature = norm(tokens.float()).transpose(1, 2).unflatten(2, hw)
            answers.append(head(sample_boxes(feature, batch.boxes, image_hw)[batch.known]))
        return answers

    def loss(self, outputs: list[Tensor], batch: ObjectBatch) -> dict[str, Tensor]:
        """Cross-entropy of each attribute, a mean over objects and a sum over stages."""
        wanted = batch.classes[batch.known]
        total = sum(
            (
                F.cross_entropy(logits.float(), wanted[:, index])
                for stage in outputs
                for index, logits in enumerate(self._parts(stage))
            ),
            start=torch.zeros((), device=wanted.device),
        )
        return {"total": total}

    def loss_weight(self, batch: ObjectBatch) -> float:
        """What the loss is a mean over."""
        return max(float(batch.known.sum()), 1e-6)

    @torch.no_grad()
    def right(self, batch: ObjectBatch) -> Tensor:
        """Which attributes of the known objects are named rightly, all stages together: [K, A]."""
        joint = torch.stack(self(batch)).float().sum(dim=0)
        named = [part.argmax(dim=1) for part in self._parts(joint)]
        return torch.stack(named, dim=1) == batch.classes[batch.known]

    def _parts(self, logits: Tensor) -> tuple[Tensor, ...]:
        """The logits of each attribute."""
        return torch.split(logits, list(self.config.classes), dim=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
