"""transformers' GroupViT behind two verbs: an image's segments, and the state of a text's end.

Built on `GroupViTModel`, whose names are those of the published files. Letters: I images, G
segments, h x w patches, B texts, T words, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.groupvit.config import GroupVitConfig
from refseg.methods.groupvit.grouping import patch_shares
from refseg.nn.guard import guard_torchvision


def build_net(config: GroupVitConfig) -> Any:
    """transformers' GroupViTModel with random weights."""
    guard_torchvision()
    from transformers import GroupViTConfig, GroupViTModel

    vision, text = config.vision, config.text
    return GroupViTModel(
        GroupViTConfig(
            vision_config={
                "image_size": vision.image_size,
                "patch_size": vision.patch,
                "hidden_size": vision.width,
                "num_hidden_layers": sum(vision.depths),
                "depths": list(vision.depths),
                "num_group_tokens": list(vision.group_tokens),
                "num_output_groups": list(vision.segments),
                "num_attention_heads": vision.heads,
                "intermediate_size": vision.mlp_width,
            },
            text_config={
                "vocab_size": text.vocab_size,
                "hidden_size": text.width,
                "num_hidden_layers": text.layers,
                "num_attention_heads": text.heads,
                "intermediate_size": text.mlp_width,
                "max_position_embeddings": text.max_positions,
                # Special ids tell transformers where a sentence is read, which is done below.
                "pad_token_id": 0,
                "bos_token_id": 0,
                "eos_token_id": 0,
            },
            projection_dim=config.embed,
            projection_intermediate_dim=config.hidden,
        )
    )


def see(net: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """images [I, 3, S, S] -> segments [I, G, D], and how much of each patch each has, [I, G, h, w].

    Raises ConfigError for images of another size than the network's.
    """
    side, patch = net.config.vision_config.image_size, net.config.vision_config.patch_size
    if tuple(images.shape[2:]) != (side, side):
        raise ConfigError(
            f"images of {images.shape[2]} x {images.shape[3]} px, and a GroupViT for {side}",
            remedy=f"set preprocess.size={side}",
        )
    # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
    found = net.vision_model(
        pixel_values=images.contiguous(), output_attentions=True, return_dict=True
    )
    cells = side // patch
    shares = patch_shares(found.attentions)
    return found.last_hidden_state, shares.reshape(*shares.shape[:2], cells, cells)


def read(net: Any, words: Tensor, word_mask: Tensor) -> Tensor:
    """words, word_mask [B, T] -> the state of each text's last real token, [B, D].

    That is the end-of-text token, where GroupViT and CLIP read a sentence.
    """
    states: Tensor = net.text_model(
        input_ids=words, attention_mask=word_mask.long()
    ).last_hidden_state
    places = torch.arange(words.shape[1], device=words.device)
    last = (word_mask * places).argmax(dim=1)
    return states[torch.arange(len(words), device=words.device), last]
