"""What CLIP sees at every place of an image, in the space of texts, beside the one vector it makes.

After MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022): the attention that
makes one vector of all places is left out. Every place goes through the projections of values
alone, as if it were asked for by itself and heard no other place.

    ResNet   c_proj(v_proj(x)) of each place x of the last map; the pool's positions are left out
    ViT      with the states x of the patches before the last block: v = out_proj(v_proj(LN1(x))),
             then the final norm and the projection into the space of texts

Letters: I images, E = embed, W width of a ViT, N = h * w places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refseg.errors import ConfigError
from refseg.nn.clip import ClipVision
from refseg.nn.clip_resnet import ClipResNet


def look(
    vision: ClipResNet | ClipVision, images: Tensor, *, residual: bool = False
) -> tuple[Tensor, Tensor]:
    """images [I, 3, H, W] -> places [I, E, h, w] and the whole [I, E], neither of unit length.

    residual: see `vit_places`; a ResNet's pool has no residual and takes no notice. The whole is
    what the tower makes of an image by itself. A ViT takes sizes that its table of positions is not
    for: the table is resized (bicubic). Raises ConfigError for images smaller than a patch,
    ModelError for a ResNet without an attention pool.
    """
    if isinstance(vision, ClipResNet):
        last = vision(images)[-1]
        whole = vision.pooled(last)  # first: it says what is missing
        return resnet_places(vision, last), whole
    height, width = images.shape[2:]
    patch, side = vision.config.patch, vision.config.image_size
    if min(height, width) < patch:
        raise ConfigError(
            f"images of {height} x {width} px are smaller than a patch of {patch}",
            remedy=f"set preprocess.size={side}, or a multiple of {patch}",
        )
    seen = vision.clip(
        pixel_values=images.contiguous(),
        output_hidden_states=True,
        interpolate_pos_encoding=(height, width) != (side, side),
    )
    # The last of the states are those behind the last block; the class token is the first place.
    places = vit_places(vision, seen.hidden_states[-2][:, 1:], residual=residual)
    grid = places.transpose(1, 2).reshape(len(images), -1, height // patch, width // patch)
    return grid, vision.projection(seen.pooler_output)


def resnet_places(vision: ClipResNet, last: Tensor) -> Tensor:
    """The last map [I, C, h, w] -> [I, E, h, w]."""
    pool: Any = vision.attnpool
    projected: Tensor = pool.c_proj(pool.v_proj(last.permute(0, 2, 3, 1)))
    return projected.permute(0, 3, 1, 2)


def vit_places(vision: ClipVision, states: Tensor, *, residual: bool = False) -> Tensor:
    """States of patches before the last block [I, N, W] -> [I, N, E].

    residual: add the states to the values and let the block's second half follow, as MaskCLIP's
    code does (and its text does not say).
    """
    block = vision.clip.encoder.layers[-1]
    attention = block.self_attn
    values: Tensor = attention.out_proj(attention.v_proj(block.layer_norm1(states)))
    if residual:
        values = values + states
        values = values + block.mlp(block.layer_norm2(values))
    projected: Tensor = vision.projection(vision.clip.post_layernorm(values))
    return projected


def cosines(places: Tensor, texts: Tensor, image_of: Tensor) -> Tensor:
    """Each text against every place of its image: unit [I, E, h, w], [B, E], [B] -> [B, h, w]."""
    return torch.einsum("behw,be->bhw", places[image_of], texts)
