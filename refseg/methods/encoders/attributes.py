"""A ViT learns what there is in a picture: ImageNet's place in a rendered world for `sag`.

ImageNet asks for the class of a whole image and says nothing of where. So it is here: a picture
has a set of attributes (a ball, something red, a red ball), all places' tokens are averaged, and a
linear layer reads from the mean which of them occur. No box, no mask, no count.

The mean is of the patches and not the CLS token: its linear layer could as well be asked of every
patch and the answers averaged, so that patches must say themselves what they show.
Letters: I images, N patches, C width, A attributes in G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.method import MethodConfig, ParameterGroup, check_groups, split_decay
from refseg.nn.vit import ViTVision, ViTVisionConfig


class AttributeNamerConfig(MethodConfig):
    """vision: the encoder. groups: how many values each attribute has."""

    vision: ViTVisionConfig = ViTVisionConfig()
    groups: tuple[int, ...] = (1000,)


@dataclass(frozen=True)
class AttributeBatch:
    """images: [I, 3, H, W] float32, normalised. present: [I, A] bool, what occurs in each."""

    images: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> AttributeBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class AttributeNamer(nn.Module):
    """forward(AttributeBatch) -> logits [I, A]."""

    def __init__(self, config: AttributeNamerConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = ViTVision(config.vision)
        self.head = nn.Linear(config.vision.width, sum(config.groups))

    def forward(self, batch: AttributeBatch) -> Tensor:
        logits: Tensor = self.head(self.vision(batch.images).mean(dim=1))
        return logits

    def loss(self, outputs: Tensor, batch: AttributeBatch) -> dict[str, Tensor]:
        """Binary cross-entropy, a mean over images and over the values of an attribute, a sum over
        attributes: "kind" weighs as much as its ten times as many pairs with colours.
        """
        each = F.binary_cross_entropy_with_logits(
            outputs.float(), batch.present.float(), reduction="none"
        )
        groups = torch.split(each, list(self.config.groups), dim=1)
        return {"total": torch.stack([group.mean() for group in groups]).sum()}

    @torch.no_grad()
    def scores(self, batch: AttributeBatch) -> Tensor:
        """How sure it is of each attribute, [I, A] float32 logits."""
        logits: Tensor = self(batch)
        return logits.float()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
