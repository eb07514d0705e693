"""CLIP's towers of transformer kind: words of a text, and the ViT that the calibrator of TRIS is.

Built on transformers' CLIP, whose inside keeps its names since 4.57 below the `text_model` and
`vision_model` that only some versions have. CLIP's image tower of ResNet kind: `nn/clip_resnet.py`;
both towers in one space: `nn/clip_pair.py`; weights: `nn/clip_weights.py`.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, section 2.4. Letters: B texts, T tokens, I images, S px of a side.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refseg.nn.guard import guard_torchvision

# Of RGB in 0..1, what OpenAI's weights were trained on.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

ACTIVATION = "quick_gelu"  # x * sigmoid(1.702 x), in all of OpenAI's models

Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Centre = Annotated[float, Field(allow_inf_nan=False)]


class Pixels(BaseModel):
    """What weights learned from: (RGB in 0..1 - mean) / std, per channel. Defaults: OpenAI's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[Centre, Centre, Centre] = PIXEL_MEAN
    std: tuple[Spread, Spread, Spread] = PIXEL_STD


class ClipTextConfig(BaseModel):
    """CLIP's text tower. Defaults are those beside RN50 (63.69 M parameters).

    The same beside RN101 and ViT-B/32 with embed 512. embed: length of the sentence's vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int = Field(default=49408, gt=0)
    width: int = Field(default=512, gt=0)
    layers: int = Field(default=12, gt=0)
    heads: int = Field(default=8, gt=0)
    mlp_width: int = Field(default=2048, gt=0)
    max_positions: int = Field(default=77, gt=1)
    embed: int = Field(default=1024, gt=0)


class ClipVisionConfig(BaseModel):
    """CLIP's image tower of ViT kind. Defaults are ViT-B/32 (87.85 M parameters).

    kind: tells it from other vision encoders. image_size: px of the square it sees, a fixed size.
    embed: length of the image's vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["clip-vit"] = "clip-vit"
    image_size: int = Field(default=224, gt=0)
    patch: int = Field(default=32, gt=0)
    width: int = Field(default=768, gt=0)
    layers: int = Field(default=12, gt=0)
    heads: int = Field(default=12, gt=0)
    mlp_width: int = Field(default=3072, gt=0)
    embed: int = Field(default=512, gt=0)


class ClipWords(nn.Module):
    """words [B, T] int64, word_mask [B, T] bool -> states [B, T, width], sentence [B, embed].

    states: after the final norm; each token sees itself and those before it. sentence: the state of
    the last real token, projected, not of unit length. CLIP reads it at the end-of-text token, by
    the largest id of a row: the same place while that token is there, but where a long text lost it
    the largest id may be the start, whose state is the same for every text.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config = config
        self.width = config.width
        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                max_position_embeddings=config.max_positions,
                hidden_act=ACTIVATION,
                # Special ids tell transformers where a sentence is read, which is done below.
                pad_token_id=0,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        self.clip: Any = getattr(model, "text_model", model)
        self.projection = _projection(config.width, config.embed)

    def forward(self, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.clip(input_ids=words, attention_mask=word_mask.long())
        states: Tensor = output.last_hidden_state
        places = torch.arange(words.shape[1], device=words.device)
        last = (word_mask * places).argmax(dim=1)  # [B]
        texts = torch.arange(len(words), device=words.device)
        return states, self.projection(states[texts, last])


class ClipVision(nn.Module):
    """images [I, 3, S, S] -> [I, embed]: the class token's state, normed and projected.

    S is config.image_size; transformers raises ValueError for another. The vectors are not of unit
    length. Weights by OpenAI expect PIXEL_MEAN and PIXEL_STD.
    """

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.config = config
        model = CLIPVisionModel(
            CLIPVisionConfig(
                image_size=config.image_size,
                patch_size=config.patch,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                hidden_act=ACTIVATION,
            )
        )
        self.clip: Any = getattr(model, "vision_model", model)
        self.projection = _projection(config.width, config.embed)

    def forward(self, images: Tensor) -> Tensor:
        # contiguous: torch 2.13 crashes in the backward of strided convolutions on NHWC views.
        output = self.clip(pixel_values=images.contiguous())
        vectors: Tensor = self.projection(output.pooler_output)
        return vectors


def _projection(width: int, embed: int) -> nn.Linear:
    """Into the space that texts and images share."""
    layer = nn.Linear(width, embed, bias=False)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer
