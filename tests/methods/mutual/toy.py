"""Toy heads, in float64 so that equal means equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refseg.methods.mutual.config import (
    GeneratorConfig,
    IndicatorConfig,
    ResNetVisionConfig,
    SelectionConfig,
)
from refseg.methods.mutual.generator import Generator
from refseg.methods.mutual.selection import ProposalSelection

IMAGES, N, C, V, TEXT = 3, 6, 12, 11, 10
IMAGE_OF = torch.tensor([0, 2, 2, 1, 2])  # E = 5 objects of 3 images, three of one
TARGET = torch.tensor([4, 0, 3, 5, 3])
E = len(TARGET)
RESNET = ResNetVisionConfig(stem=8, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1), block="basic")
FIRST = {"swin": "patch_embeddings.projection.weight", "resnet": "embedder.convolution.weight"}


def shaken(module: nn.Module) -> Any:
    """No zero biases, no unit norms: everything has an effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double().eval()


def generator(seed: int = 0, *, target_only: bool = False, **changes: Any) -> Generator:
    torch.manual_seed(seed)
    config = GeneratorConfig(
        **{
            "width": 8,
            "heads": 2,
            "layers": 2,
            "mlp_width": 16,
            "vocab_size": V,
            "max_words": 7,
            "start": 2,
            "end": 3,
            "never": (0, 1, 2, 4),
            "indicator": IndicatorConfig(target_only=target_only),
            **changes,
        }
    )
    made: Generator = shaken(Generator(config, C))
    return made


def selection(seed: int = 0, **changes: Any) -> ProposalSelection:
    torch.manual_seed(seed)
    config = SelectionConfig(
        **{"width": 8, "heads": 2, "layers": 3, "mlp_width": 16, "score_width": 8, **changes}
    )
    made: ProposalSelection = shaken(ProposalSelection(config, C, TEXT))
    return made


def proposals(seed: int = 1) -> Tensor:
    """O [IMAGES, N, C]."""
    return torch.randn(IMAGES, N, C, generator=torch.Generator().manual_seed(seed)).double()


def sentences(length: int = 6, seed: int = 2) -> Tensor:
    """[E, length] ids that begin with the start."""
    made = torch.randint(5, V, (E, length), generator=torch.Generator().manual_seed(seed))
    made[:, 0] = 2
    return made


def no_gradient(module: nn.Module) -> list[str]:
    """Parameters that got none, or zeros."""
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def first_weight(kind: str, module: nn.Module) -> Tensor:
    """The first layer that sees pixels."""
    named = [p for n, p in module.named_parameters() if n.endswith(FIRST[kind])]
    assert len(named) == 1
    return named[0]
