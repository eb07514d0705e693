"""A method and data small enough to train in milliseconds, with the whole protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.method import MethodConfig, ParameterGroup, split_decay
from refseg.train.loader import TrainData
from refseg.types import Batch, Geometry, Labels, Prediction

SIDE = 8


class ToyConfig(MethodConfig):
    width: int = 6
    dropout: float = 0.0
    blocks: int = 1


@dataclass(frozen=True)
class ToyOutputs:
    logits: Tensor  # [B, H, W]


class Toy(nn.Module):
    """Conv on the image times an embedding of the words; the mask's logit a pixel."""

    needs: ClassVar[Labels] = Labels(frozenset({"mask"}))

    def __init__(self, config: ToyConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or ToyConfig()
        torch.manual_seed(seed)
        width = self.config.width
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1) for _ in range(self.config.blocks)]
        )
        self.words = nn.Embedding(5, width)
        self.drop = nn.Dropout(self.config.dropout)
        self.log_tau = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> ToyOutputs:
        if self.training:
            self.calls += 1
        x = F.gelu(self.conv(batch.images))
        for block in self.blocks:
            x = x + F.gelu(block(x))
        x = self.drop(x)[batch.image_of]
        said = (self.words(batch.words) * batch.word_mask[..., None]).sum(1)
        return ToyOutputs(torch.einsum("bchw,bc->bhw", x, said))

    def loss(self, outputs: ToyOutputs, batch: Batch) -> dict[str, Tensor]:
        """Mean over the rows whose mask is known; tau is used here alone, not in forward."""
        assert batch.masks is not None
        assert batch.has_mask is not None
        logits = outputs.logits.float() * self.log_tau.exp()
        rows = F.binary_cross_entropy_with_logits(logits, batch.masks, reduction="none")
        known = batch.has_mask.float()
        mask = (rows.mean((1, 2)) * known).sum() / known.sum().clamp(min=1)
        size = 1e-3 * self.words.weight.square().mean()
        return {"mask": mask, "size": size, "total": mask + size}

    def loss_weight(self, batch: Batch) -> float:
        assert batch.has_mask is not None
        return float(batch.has_mask.sum())

    def decode(self, outputs: ToyOutputs, batch: Batch) -> list[Prediction]:
        masks = (outputs.logits > 0).cpu().numpy()
        return [Prediction(m, 1.0, g) for m, g in zip(masks, batch.geometry, strict=True)]

    def parameter_groups(self) -> list[ParameterGroup]:
        first = split_decay("conv", self.conv, lr_scale=0.5)
        rest = ParameterGroup(
            "rest",
            (*self.blocks.parameters(), *self.words.parameters(), self.log_tau),
            decay_scale=0.0,
        )
        return [*first, rest]


def make_batch(indices: list[int], epoch: int) -> Batch:
    """Random images; the word says which colour channel the mask is. Every fifth mask unknown."""
    geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0))
    images, words, masks = [], [], []
    for index in indices:
        image = np.random.default_rng([7, index]).normal(size=(3, SIDE, SIDE)).astype(np.float32)
        word = index % 3
        noise = np.random.default_rng([7, epoch, index]).normal(size=image.shape)
        images.append(image + 0.1 * noise.astype(np.float32))
        words.append([word, 3])
        masks.append((image[word] > 0).astype(np.float32))
    count = len(indices)
    return Batch(
        images=torch.from_numpy(np.stack(images)),
        image_of=torch.arange(count),
        words=torch.tensor(words),
        word_mask=torch.ones(count, 2, dtype=torch.bool),
        geometry=(geometry,) * count,
        keys=tuple(str(i) for i in indices),
        texts=("a toy",) * count,
        weights=torch.ones(count),
        masks=torch.from_numpy(np.stack(masks)),
        has_mask=torch.tensor([i % 5 != 0 for i in indices]),
    )


def toy_data(size: int = 24) -> TrainData:
    return TrainData(size, make_batch)


def toy_score(method: nn.Module) -> dict[str, float]:
    """Share of pixels that are right, over the first 16 samples."""
    batch = make_batch(list(range(16)), epoch=0)
    assert batch.masks is not None
    right = (method(batch).logits > 0) == (batch.masks > 0.5)
    return {"agreement": float(right.float().mean())}
