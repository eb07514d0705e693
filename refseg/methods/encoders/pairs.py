"""An image-text pair learns which caption goes with which picture (CLIP, Radford et al. 2021).

It stands for CLIP's own weights in a rendered world: an encoder for methods that learn from text
alone, and their calibrator. A caption tells what there is, never where or which one is meant.
Letters: B pictures, each with one caption.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.nn.clip_pair import ClipPair, PairConfig
from refseg.nn.contrast import contrast


@dataclass(frozen=True)
class PairBatch:
    """images: [B, 3, H, W] float32, normalised. words: [B, T] int64, word_mask: [B, T] bool: of
    the caption of each.
    """

    images: Tensor
    words: Tensor
    word_mask: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class PairLearner(nn.Module):
    """forward(PairBatch) -> similarities [B, B], pictures by captions."""

    compares_samples: ClassVar[bool] = True

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.pair = ClipPair(config)

    def forward(self, batch: PairBatch) -> Tensor:
        seen = self.pair.embed_images(batch.images)
        read = self.pair.embed_texts(batch.words, batch.word_mask)
        return self.pair.learned_similarity(seen, read)

    def loss(self, outputs: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        """Cross-entropy both ways: the caption of a picture, the picture of a caption."""
        own = torch.arange(len(batch), device=outputs.device)
        return {"total": contrast(outputs, own, torch.ones(len(batch), device=outputs.device))}

    @torch.no_grad()
    def found(self, batch: PairBatch) -> Tensor:
        """[B] bool: whose caption finds its own picture first among all B."""
        best: Tensor = self(batch).argmax(dim=0)
        return best == torch.arange(len(batch), device=best.device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
