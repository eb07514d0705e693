"""A plain ViT, as trained on ImageNet: the patches of an image, by transformers' ViTModel.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. Of transformers' model
only what all its versions since 4.57 have is asked. Stochastic depth, which it lacks, is Huang et
al., ECCV 2016, each branch by itself.
Letters: I images, N patches, C width.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.nn.guard import guard_torchvision
from refseg.nn.positions import sine_table
from refseg.nn.sizes import check_heads
from refseg.nn.vision import HW


class ViTVisionConfig(BaseModel):
    """A ViT. Defaults are ViT-S/16 for 384 px (21.81 M parameters without the classifier).

    kind: tells it from other vision encoders. image_size: px of the square that the table of
    positions is for; other sizes work, the table is stretched. patch: px of a side. drop_path:
    chance that a branch of the last layer is left out of an image while training; it rises
    linearly from 0 in the first.
    Raises ConfigError for heads that do not share the width, and patches that do not fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["vit"] = "vit"
    image_size: int = Field(default=384, ge=1)
    patch: int = Field(default=16, ge=1)
    width: int = Field(default=384, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=6, ge=1)
    mlp_width: int = Field(default=1536, ge=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_heads("vision.heads", self.width, self.heads)
        if self.image_size % self.patch:
            raise ConfigError(
                f"vision.image_size {self.image_size} is no whole number of patches of "
                f"{self.patch} px",
                remedy="give a multiple of vision.patch",
            )
        return self


class ViTVision(nn.Module):
    """images [I, 3, H, W] -> patches [I, N, C] after the final norm, rows from the top, no CLS.

    The table of positions starts from 2-D sines, so that a small model needs not find out first
    what lies next to what; the hub's weights replace it.
    """

    def __init__(self, config: ViTVisionConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import ViTConfig, ViTModel

        self.config = config
        self.width = config.width
        self.vit: Any = ViTModel(
            ViTConfig(
                image_size=config.image_size,
                patch_size=config.patch,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
            ),
            add_pooling_layer=False,
        )
        side = config.image_size // config.patch
        table = self.vit.embeddings.position_embeddings
        table.data[:, 1:] = sine_table(side, config.width).to(table)
        last = max(config.layers - 1, 1)
        for number, layer in enumerate(self.layers):
            for end in _branch_ends(layer):
                end.register_forward_hook(_DropPath(config.drop_path * number / last))

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer's layers, first to last."""
        inner = self.vit.encoder.layer if hasattr(self.vit, "encoder") else self.vit.layers
        return list(inner)

    def grid(self, image_hw: HW) -> HW:
        """Rows and columns of the patches of an image of this size, px.

        Raises ConfigError where they are not whole: a cut border would shift what is found.
        """
        patch = self.config.patch
        if min(image_hw) < patch or image_hw[0] % patch or image_hw[1] % patch:
            raise ConfigError(
                f"images of {image_hw[1]} x {image_hw[0]} px are no whole number of patches of "
                f"{patch} px",
                remedy="set preprocess.size to a multiple of method.vision.patch",
            )
        return image_hw[0] // patch, image_hw[1] // patch

    def forward(self, images: Tensor) -> Tensor:
        hw = self.grid((images.shape[2], images.shape[3]))
        embeddings = self.vit.embeddings
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        patches = embeddings.patch_embeddings.projection(images.contiguous())
        tokens = patches.flatten(2).transpose(1, 2)
        front = embeddings.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat([front, tokens], dim=1) + self._positions(hw)
        for layer in self.layers:
            result = layer(tokens)
            tokens = result[0] if isinstance(result, tuple) else result
        normed: Tensor = self.vit.layernorm(tokens[:, 1:])
        return normed

    def _positions(self, hw: HW) -> Tensor:
        """The table [1, 1 + N, C] at another grid; that of the CLS token stays."""
        table: Tensor = self.vit.embeddings.position_embeddings
        side = self.config.image_size // self.config.patch
        if hw == (side, side):
            return table
        grid = table[:, 1:].view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, hw, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def hub_part(self) -> tuple[nn.Module, str]:
        """What may start from others' weights, and its name in task models."""
        return self.vit, "vit."


def _branch_ends(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The last map of the attention and that of the MLP, whatever their names are: a layer has
    query, key, value and output, then the two of the MLP.
    """
    maps = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    _, _, _, attended, _, thought = maps
    return attended, thought


class _DropPath:
    """Leaves what comes out of a module out of some images while it trains, the rest scaled up."""

    def __init__(self, chance: float) -> None:
        self.chance = chance

    def __call__(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        if not module.training or self.chance == 0:
            return output
        kept = torch.rand(len(output), 1, 1, device=output.device) >= self.chance
        return output * (kept / (1 - self.chance)).to(output.dtype)
