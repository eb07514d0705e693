"""Tiny untrained models that propose, choose and write."""

from __future__ import annotations

from typing import Any

import torch

from refseg.models import Model, build_method
from tests.methods.toy import preprocess
from tests.methods.toy_configs import (
    SHAPES,
    annotated_config,
    mask2former_config,
    mutual_config,
    toy_tokenizer,
)

CLASSES = SHAPES
QUERIES = mask2former_config().queries
BOXES = annotated_config()
TAUGHT_ON_BOXES = mask2former_config(region="box")


def toy_mutual(extractor: Any = None, seed: int = 0, **changes: Any) -> Model:
    """changes: of `MutualConfig`. Weights are shaken, so that queries and sentences differ."""
    torch.manual_seed(seed)
    method = build_method("mutual", mutual_config(extractor, **changes))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    card = {"labels used": "text+mask", "data": "toys", "parameters": 1}
    return Model("toy-mutual", "mutual", method.eval(), toy_tokenizer(), preprocess(), card)
