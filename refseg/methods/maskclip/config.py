"""Every choice MaskCLIP leaves to its user. Sizes are those of CLIP ViT-B/16.

Shatter and Gather compares with it and does not say which CLIP or which prompt.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_pair import PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig

PLACE = "{}"


class MaskClipConfig(MethodConfig):
    """A CLIP, and how a mask is read off it.

    vision, text: both towers; a ResNet needs its pool. Other sizes than the defaults come with the
        weights (`refseg models convert`).
    residual: of a ViT, add the last block's residual and its second half to the values. False is
        the formula of MaskCLIP's text, and what its ResNets do, which have neither; True is its
        code for ViTs.
    prompt: what is read, with "{}" where the expression stands. The plain expression by default,
        as a sentence needs no frame that a class name needs; "a photo of {}" is CLIP's own.
    threshold: tau; of the map stretched to 0..1 over its image, so much belongs to the mask. 0.5 in
        the supplement of Shatter and Gather, "as ours"; cosines of CLIP are 0.2 to 0.3 everywhere,
        so that only a stretched map can be meant (inferred).
    """

    vision: Annotated[ClipResNetConfig | ClipVisionConfig, Field(discriminator="kind")] = (
        ClipVisionConfig(patch=16)
    )
    text: ClipTextConfig = ClipTextConfig(embed=512)
    residual: bool = False
    prompt: str = PLACE
    threshold: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        PairConfig(vision=self.vision, text=self.text)
        if self.prompt.count(PLACE) != 1:
            raise ConfigError(
                f'prompt "{self.prompt}" has no one place for the expression',
                remedy=f'write "{PLACE}" once, as in "a photo of {PLACE}"',
            )
        if self.residual and isinstance(self.vision, ClipResNetConfig):
            raise ConfigError(
                "residual=true, but the pool of a ResNet has no residual",
                remedy="set residual=false",
            )
        return self

    @property
    def pair(self) -> PairConfig:
        """Both towers as one CLIP."""
        return PairConfig(vision=self.vision, text=self.text)
