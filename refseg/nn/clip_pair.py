"""CLIP as a whole: an image tower and a text tower that give vectors of one space.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, figure 3. Letters: I images, B texts, T tokens, E = embed.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from refseg.nn.clip import ClipTextConfig, ClipVision, ClipVisionConfig, ClipWords, Pixels
from refseg.nn.clip_resnet import ClipResNet, ClipResNetConfig
from refseg.nn.sizes import check_heads

SCALE = 1 / 0.07  # what a cosine is multiplied by before training
SHARPEST = 100.0  # and at most, while learning


class PairConfig(BaseModel):
    """Both towers of a CLIP. vision: told apart by its `kind`; a ResNet needs its pool.

    Raises ConfigError for heads that do not share a width evenly.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vision: Annotated[ClipResNetConfig | ClipVisionConfig, Field(discriminator="kind")]
    text: ClipTextConfig

    @model_validator(mode="after")
    def _one_space(self) -> Self:
        if isinstance(self.vision, ClipResNetConfig) and not self.vision.pool:
            raise ValueError("vision.pool must be true: without it there is no vector of an image")
        if self.vision.embed != self.text.embed:
            raise ValueError(
                f"vision.embed is {self.vision.embed} and text.embed {self.text.embed}, but the "
                "vectors of both are compared: give both the same length"
            )
        if isinstance(self.vision, ClipResNetConfig):
            check_heads("vision.pool_heads", self.vision.channels[-1], self.vision.pool_heads)
        else:
            check_heads("vision.heads", self.vision.width, self.vision.heads)
        check_heads("text.heads", self.text.width, self.text.heads)
        return self


class ClipPair(nn.Module):
    """`vision`, `text`, and `logit_scale`, the logarithm of what a cosine is multiplied by.

    pixels: what the images are normalised by that its weights know; for whoever shows it others.
    """

    def __init__(self, config: PairConfig, pixels: Pixels | None = None) -> None:
        super().__init__()
        self.config = config
        self.pixels = pixels or Pixels()
        self.vision: ClipResNet | ClipVision
        if isinstance(config.vision, ClipResNetConfig):
            self.vision = ClipResNet(config.vision)
        else:
            self.vision = ClipVision(config.vision)
        self.text = ClipWords(config.text)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def embed_images(self, images: Tensor) -> Tensor:
        """[I, 3, S, S] -> [I, E] of unit length. (A ResNet takes other sizes, too.)"""
        if isinstance(self.vision, ClipResNet):
            vectors = self.vision.pooled(self.vision(images)[-1])
        else:
            vectors = self.vision(images)
        return F.normalize(vectors, dim=-1)

    def embed_texts(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """words [B, T] int64, word_mask [B, T] bool -> [B, E] of unit length."""
        _, sentence = self.text(words, word_mask)
        return F.normalize(sentence, dim=-1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """exp(logit_scale) * cosine, [I, B], of unit vectors [I, E] and [B, E]."""
        return self.logit_scale.exp() * images @ texts.T

    def learned_similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """As `similarity`, the scale held at SHARPEST: what a contrast learns from."""
        sharp = self.logit_scale.clamp(max=math.log(SHARPEST)).exp()
        return sharp * (images.float() @ texts.float().T)
