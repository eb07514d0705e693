"""Names and sizes of CLIP's weights: from OpenAI's and Hugging Face's files to `ClipPair`.

Pure maps of state dicts; files are read in `nn/clip_weights.py`. An unknown name stays as it is, so
that loading complains of it.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from refseg.errors import ConfigError, ModelError
from refseg.nn.clip import ClipTextConfig, ClipVisionConfig
from refseg.nn.clip_pair import PairConfig
from refseg.nn.clip_resnet import ClipResNetConfig

HEAD = 64  # channels of a head in all of OpenAI's models

# Beginnings of names, ours second; the first that fits counts.
_OPENAI_TEXT = (
    ("token_embedding.", "text.clip.embeddings.token_embedding."),
    ("positional_embedding", "text.clip.embeddings.position_embedding.weight"),
    ("transformer.resblocks.", "text.clip.encoder.layers."),
    ("ln_final.", "text.clip.final_layer_norm."),
    ("text_projection", "text.projection.weight"),
)
_OPENAI_VIT = (
    ("visual.class_embedding", "vision.clip.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision.clip.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision.clip.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision.clip.pre_layrnorm."),
    ("visual.ln_post.", "vision.clip.post_layernorm."),
    ("visual.transformer.resblocks.", "vision.clip.encoder.layers."),
    ("visual.proj", "vision.projection.weight"),
)
_OPENAI_RESNET = (("visual.", "vision."),)  # and the same names behind it
_HUGGING_FACE = (
    ("text_model.", "text.clip."),
    ("vision_model.", "vision.clip."),
    ("text_projection.", "text.projection."),
    ("visual_projection.", "vision.projection."),
)
# Inside a transformer block.
_BLOCK = (
    (".attn.", ".self_attn."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
_TURNED = ("text_projection", "visual.proj")  # [width, embed]; a linear layer has it turned
_TOLD = ("input_resolution", "context_length", "vocab_size")  # sizes among OpenAI's weights


def from_openai(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names (and OpenCLIP's, for the same models) to those of ClipPair."""
    vision = _OPENAI_VIT if "visual.class_embedding" in state else _OPENAI_RESNET
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _TOLD:
            continue
        name = _renamed(key, (*_OPENAI_TEXT, *vision))
        if ".encoder.layers." in name:
            for old, new in _BLOCK:
                name = name.replace(old, new)
        stem, together, kind = name.partition(".in_proj_")  # kind: weight or bias
        if together and value.ndim and len(value) % 3 == 0:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                ours[f"{stem}.{part}_proj.{kind}"] = piece
        else:
            ours[name] = value.T if key in _TURNED and value.ndim == 2 else value
    return ours


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of Hugging Face's CLIPModel (4.x and 5.x alike) to those of ClipPair."""
    return {_renamed(key, _HUGGING_FACE): value for key, value in state.items()}


def pair_sizes(state: dict[str, Tensor], heads: dict[str, int] | None, source: str) -> PairConfig:
    """The configuration of a pair, read off its tensors by our names.

    heads: of "text" and "vision", which no shape tells; None: HEAD channels each, as OpenAI's.
    Raises ModelError for what is absent or makes no pair.
    """

    def size(key: str, axis: int = 0) -> int:
        shape: tuple[int, ...] = tuple(state[key].shape) if key in state else ()
        if axis >= len(shape):
            raise ModelError(
                f"weights of {source} do not fit: missing {key}",
                remedy="give the weights of a whole CLIP, with both towers",
            )
        return shape[axis]

    def transformer(tower: str, width: int) -> dict[str, Any]:
        return {
            "width": width,
            "layers": _count(state, f"{tower}.clip.encoder.layers."),
            "heads": shared(width) if heads is None else heads[tower],
            "mlp_width": size(f"{tower}.clip.encoder.layers.0.mlp.fc1.weight"),
            "embed": size(f"{tower}.projection.weight"),
        }

    def side(key: str) -> int:
        """Of the square of places whose table has one row more, for the whole."""
        return math.isqrt(max(size(key) - 1, 0))

    tokens = "text.clip.embeddings.token_embedding.weight"
    places = "clip.embeddings.position_embedding.weight"
    patches = "vision.clip.embeddings.patch_embedding.weight"
    pool = "vision.attnpool"
    try:
        text = ClipTextConfig(
            vocab_size=size(tokens),
            max_positions=size(f"text.{places}"),
            **transformer("text", size(tokens, 1)),
        )
        vision: ClipVisionConfig | ClipResNetConfig
        if any(key.startswith("vision.clip.") for key in state):
            vision = ClipVisionConfig(
                image_size=side(f"vision.{places}") * size(patches, 2),
                patch=size(patches, 2),
                **transformer("vision", size(patches)),
            )
        else:
            one, two, three, four = (_count(state, f"vision.layer{i}.") for i in range(1, 5))
            channels = size(f"{pool}.q_proj.weight")
            vision = ClipResNetConfig(
                layers=(one, two, three, four),
                width=size("vision.layer1.0.conv1.weight"),
                pool=True,
                pool_heads=shared(channels) if heads is None else heads["vision"],
                embed=size(f"{pool}.c_proj.weight"),
                image_size=side(f"{pool}.positional_embedding")
                * ClipResNetConfig().map_strides[-1],
            )
        return PairConfig(vision=vision, text=text)
    except (ValidationError, ConfigError) as error:
        raise no_pair(source, error) from None


def shared(width: int) -> int:
    """How many heads share a width in OpenAI's models."""
    return max(1, width // HEAD)


def no_pair(source: str, error: Exception) -> ModelError:
    """What to raise for settings or sizes that make no CLIP."""
    reason = " ".join(str(error).split())[:300]
    return ModelError(f"{source} describes no CLIP: {reason}", remedy="get the folder again")


def _renamed(key: str, beginnings: tuple[tuple[str, str], ...]) -> str:
    for old, new in beginnings:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Layers of that name: one more than the largest number."""
    numbers = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    found = (numbers.match(key) for key in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)
