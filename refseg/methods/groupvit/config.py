"""Every choice GroupViT leaves to its user. Sizes are those of nvidia/groupvit-gcc-yfcc."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from refseg.errors import ConfigError
from refseg.method import MethodConfig
from refseg.nn.sizes import check_heads

Count = Annotated[int, Field(ge=0)]


class GroupVitVisionConfig(BaseModel):
    """The image tower. Stage i has depths[i] blocks; where group_tokens[i] is above 0, it then
    gathers what it has (patches, or the segments of the stage before) into segments[i] segments by
    as many learned tokens. With 0 there are the segments of the stage before.

    image_size: px of the square it sees, a fixed size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=224, gt=0)
    patch: int = Field(default=16, gt=0)
    width: int = Field(default=384, gt=1)
    depths: tuple[Annotated[int, Field(ge=1)], ...] = (6, 3, 3)
    group_tokens: tuple[Count, ...] = (64, 8, 0)
    segments: tuple[Count, ...] = (64, 8, 8)
    heads: int = Field(default=6, gt=0)
    mlp_width: int = Field(default=1536, gt=0)


class GroupVitTextConfig(BaseModel):
    """The text tower, a small CLIP's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int = Field(default=49408, gt=0)
    width: int = Field(default=256, gt=0)
    layers: int = Field(default=12, gt=0)
    heads: int = Field(default=4, gt=0)
    mlp_width: int = Field(default=1024, gt=0)
    max_positions: int = Field(default=77, gt=1)


class GroupVitConfig(MethodConfig):
    """A GroupViT, and how a mask is read off it.

    vision, text: both towers. embed: width of the space that both share; hidden: of the layer
        before it.
    dummy: the second query. Segments that are nearer to it than to the expression are background.
        The words are the example that the supplement of Shatter and Gather gives.
    """

    vision: GroupVitVisionConfig = GroupVitVisionConfig()
    text: GroupVitTextConfig = GroupVitTextConfig()
    embed: int = Field(default=256, gt=0)
    hidden: int = Field(default=4096, gt=0)
    dummy: str = Field(default="a photo of a nothing", min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        vision = self.vision
        check_heads("vision.heads", vision.width, vision.heads)
        check_heads("text.heads", self.text.width, self.text.heads)
        counts = (len(vision.depths), len(vision.group_tokens), len(vision.segments))
        if len(set(counts)) > 1:
            raise ConfigError(
                f"vision.depths, group_tokens and segments tell of {counts[0]}, {counts[1]} and "
                f"{counts[2]} stages",
                remedy="give each a number for every stage",
            )
        if not any(vision.group_tokens):
            raise ConfigError(
                "vision.group_tokens is 0 in every stage: there would be no segments",
                remedy="give a stage group tokens",
            )
        for tokens, made in zip(vision.group_tokens, vision.segments, strict=True):
            if tokens and not made:
                raise ConfigError(
                    f"vision: {tokens} group tokens make 0 segments",
                    remedy="give vision.segments a number of 1 or more there",
                )
        if vision.image_size < vision.patch:
            raise ConfigError(
                f"vision.image_size {vision.image_size} is smaller than a patch of {vision.patch}",
                remedy="raise the one or lower the other",
            )
        return self
