"""A CLIP or GroupViT of others, in the hub's format, as a model folder: no training is needed.

    convert("openai/clip-vit-base-patch16", Path("maskclip"))
    load("maskclip").segment(image, "the left cup")

A CLIP becomes a model of the method `maskclip`, a GroupViT one of `groupvit`. Sizes are read off
the weights and their config.json; weights that are absent or do not fit are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

import refseg
from refseg.data.tokens import load_tokenizer
from refseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, PreprocessConfig
from refseg.errors import ConfigError, ModelError, RunError
from refseg.method import MethodConfig
from refseg.methods.groupvit import GroupVitConfig
from refseg.methods.groupvit.config import GroupVitTextConfig, GroupVitVisionConfig
from refseg.methods.maskclip import MaskClipConfig
from refseg.models import Model, build_method, check_words, find_encoder, save, spell, word_limits
from refseg.nn.clip_weights import read_pair, read_pixels
from refseg.nn.weights import load_state, read_state, weight_file
from refseg.recipes.overrides import apply_overrides, reasons
from refseg.recipes.starts import ENCODER_ENTRY, NOT_STATED, encoder_labels

#: What cards of such models say of the data that a model is asked about.
UNSEEN = "none of this data"
#: Settings of a GroupViT's towers that are built in here: key -> value, as published.
_GROUPVIT: dict[str, dict[str, Any]] = {
    "vision_config": {"hidden_act": "gelu", "num_channels": 3},
    "text_config": {"hidden_act": "quick_gelu"},
}
_ROUNDED = {"layer_norm_eps": 1e-5, "assign_eps": 1.0}


class Conversion(BaseModel):
    """What a model is made with, beside its weights. max_words: tokens read of an expression, both
    special ones included; None: as many as there are places for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method_name: Literal["maskclip", "groupvit"]
    method: SerializeAsAny[MethodConfig]
    preprocess: PreprocessConfig
    max_words: int | None = Field(default=None, ge=3)


def convert(source: str, out: Path, settings: Sequence[str] = ()) -> Model:
    """Write the model folder `out`, whole or not at all, and give the model back; see `read_model`.

    Raises RunError when `out` is there already, and what `read_model` raises.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there already", remedy="give another --out, or delete it")
    model = read_model(source, settings)
    model.name = out.name
    save(out, model)
    return model


def read_model(source: str, settings: Sequence[str] = ()) -> Model:
    """The model that the weights in `source` make, untouched, in eval mode.

    source: a folder, a hub id, or a bundled encoder's name ("clip-scenes"). settings: "key=value"
    for the fields of `Conversion`: "method.residual=true", "preprocess.size=448".
    Raises ModelError (weights or tokenizer absent, broken, of another kind), ConfigError (settings
    that do not fit).
    """
    folder = find_encoder(source)
    told = _told(folder)
    groupvit = told.get("model_type") == "groupvit"
    config, state = _groupvit(folder, told) if groupvit else _maskclip(folder)
    name: Literal["maskclip", "groupvit"] = "groupvit" if groupvit else "maskclip"
    plain = Conversion(method_name=name, method=config, preprocess=_preprocess(folder, config))
    made = apply_overrides(plain, settings)
    if made.method_name != name:
        raise ConfigError(
            f"{folder.name} holds weights of {name}, not of {made.method_name}",
            remedy="leave method_name alone",
        )
    method = build_method(name, made.method)
    load_state(method, state, source=str(folder))
    spell(method, load_tokenizer(folder, config.text.max_positions))
    limit = min(word_limits(method).values())
    if limit < 3:
        raise ConfigError(
            f"the prompt leaves {limit} of {config.text.max_positions} places, two of them special",
            remedy="shorten method.prompt",
        )
    tokenizer = load_tokenizer(folder, made.max_words or limit)
    check_words(folder, method, tokenizer)
    card = _card(source, folder, told, method)
    return Model(folder.name, name, method.eval(), tokenizer, made.preprocess, card)


def _told(folder: Path) -> dict[str, Any]:
    """config.json, if there is one: OpenAI's weights come without."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"broken {path}: {error}", remedy="get the folder again") from None
    if not isinstance(told, dict):
        raise ModelError(f"{path} is no JSON object", remedy="get the folder again")
    if {"method", "method_config"} <= told.keys():
        raise ModelError(
            f"{folder} is a refseg model already", remedy="name it where a model is asked for"
        )
    return told


def _maskclip(folder: Path) -> tuple[MaskClipConfig, dict[str, Any]]:
    """Configuration and weights, by the method's names, of any CLIP that `read_pair` reads."""
    pair = read_pair(folder)
    config = MaskClipConfig(vision=pair.config.vision, text=pair.config.text)
    return config, {f"pair.{key}": value for key, value in pair.state_dict().items()}


def _groupvit(folder: Path, told: dict[str, Any]) -> tuple[GroupVitConfig, dict[str, Any]]:
    """The same of transformers' GroupViTModel. What its config.json leaves out is as published."""
    vision, text = (_part(folder, told, key) for key in ("vision_config", "text_config"))
    fields = {
        "vision": _renamed(
            vision,
            image_size="image_size", patch="patch_size", width="hidden_size", depths="depths",
            group_tokens="num_group_tokens", segments="num_output_groups",
            heads="num_attention_heads", mlp_width="intermediate_size",
        ),
        "text": _renamed(
            text,
            vocab_size="vocab_size", width="hidden_size", layers="num_hidden_layers",
            heads="num_attention_heads", mlp_width="intermediate_size",
            max_positions="max_position_embeddings",
        ),
        **_renamed(told, embed="projection_dim", hidden="projection_intermediate_dim"),
    }  # fmt: skip
    try:
        config = GroupVitConfig(
            vision=GroupVitVisionConfig.model_validate(fields.pop("vision")),
            text=GroupVitTextConfig.model_validate(fields.pop("text")),
            **fields,
        )
    except (ValidationError, ConfigError) as error:
        why = reasons(error, places=True) if isinstance(error, ValidationError) else error.message
        raise ModelError(
            f"{folder / 'config.json'} describes no GroupViT: {why}", remedy="get the folder again"
        ) from None
    state = read_state(weight_file(str(folder)))
    return config, {f"net.{key}": value for key, value in state.items()}


def _part(folder: Path, told: dict[str, Any], key: str) -> dict[str, Any]:
    """A tower's settings, refused where one is not what is built here."""
    part = told.get(key) or {}
    other = {name: part[name] for name, v in _GROUPVIT[key].items() if part.get(name, v) != v}
    other |= {n: part[n] for n, v in _ROUNDED.items() if abs(part.get(n, v) - v) > 1e-9}
    if list(part.get("assign_mlp_ratio", (0.5, 4))) != [0.5, 4]:
        other["assign_mlp_ratio"] = part["assign_mlp_ratio"]
    if other:
        raise ModelError(
            f"{folder / 'config.json'}: {key} with "
            f"{', '.join(f'{k}={v}' for k, v in other.items())}, which is not built here",
            remedy="give a GroupViT with the published ones (nvidia/groupvit-gcc-yfcc)",
        )
    return dict(part)


def _renamed(told: dict[str, Any], **names: str) -> dict[str, Any]:
    """Ours -> the value under theirs, where it is told."""
    return {ours: told[theirs] for ours, theirs in names.items() if theirs in told}


def _preprocess(folder: Path, config: Any) -> PreprocessConfig:
    """Pixels as the weights know them: what the folder says, else as the kind was trained.

    CLIPs have channels of their own, or those of the pair's config.json; GroupViT has ImageNet's.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if isinstance(config, MaskClipConfig):
        known = read_pixels(folder)
        mean, std = known.mean, known.std
    path = folder / "preprocessor_config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        mean, std = said.get("image_mean", mean), said.get("image_std", std)
        return PreprocessConfig(size=config.vision.image_size, mean=mean, std=std)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"broken {path}: {error}", remedy="get the folder again") from None


def _card(source: str, folder: Path, told: dict[str, Any], method: Any) -> dict[str, Any]:
    """What it learned from, as far as the folder tells."""
    entry = told.get(ENCODER_ENTRY)
    about = entry if isinstance(entry, dict) else {}
    labels = encoder_labels(folder)
    # Both kinds are learned from pairs of image and text, whoever made them.
    labels = "text" if labels == NOT_STATED else labels
    data = f"{UNSEEN}; before: {about['data']}" if "data" in about else UNSEEN
    return {
        "made from": folder.name if Path(source).expanduser().is_dir() else source,
        "data": data,
        "labels used": f"{labels} (of the pre-training pairs)",
        "parameters": sum(p.numel() for p in method.parameters()),
        "refseg": refseg.__version__,
        "licence": "that of the weights",
    }
