"""CLIP's loss: images and texts that belong together are told from those that do not.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, figure 3. Letters: I images, B texts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import ConfigError


def contrast(similarity: Tensor, image_of: Tensor, weights: Tensor) -> Tensor:
    """Which image a text is about, and which text an image shows: cross-entropy both ways.

    similarity: [I, B] of every image with every text, scaled. image_of: [B], the image of each
    text. weights: [B]; the mean over texts of both halves' mean, so weighted, as a scalar. Where
    several texts are about one row of images, none of them is a wrong text for it.
    """
    similarity = similarity.float()
    own = torch.arange(len(image_of), device=similarity.device)
    others = (image_of[:, None] == image_of[None]) & (own[:, None] != own[None])
    rows = similarity[image_of].masked_fill(others, -torch.inf)
    which_text = F.cross_entropy(rows, own, reduction="none")
    which_image = F.cross_entropy(similarity.T, image_of, reduction="none")
    share = weights / weights.sum().clamp(min=1e-6)
    return (share * (which_text + which_image)).sum() / 2


def check_contrast(images: int, texts: int) -> None:
    """Raise ConfigError where a contrast would teach nothing: all texts are about one image."""
    if images < 2:
        raise ConfigError(
            f"a step of {texts} text(s) about {images} image(s) has nothing to tell apart",
            remedy="let a step see two images or more: raise train.batch_size or data.limit",
        )
