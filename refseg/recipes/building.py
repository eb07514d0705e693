"""The untrained model of a recipe, with the weights that it starts from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from refseg.data.tokens import WordTokenizer, load_tokenizer, train_wordpiece
from refseg.errors import ConfigError
from refseg.models import Model, build_method, find_encoder, find_model, spell, word_limits
from refseg.nn.clip import ClipWords
from refseg.nn.clip_resnet import ClipResNet
from refseg.nn.clip_weights import load_clip_part
from refseg.nn.darknet import DarkNet, load_darknet_weights
from refseg.nn.weights import load_hub_part, load_state, read_state
from refseg.recipes.base import Recipe, WeightsConfig

#: A card's entry for what came from a REC model and what began anew.
TAKEN_OVER = "taken over"


def build(recipe: Recipe, texts: Iterable[str]) -> Model:
    """The untrained model of a recipe, with the weights it starts from.

    texts: training expressions, from which word pieces are learned if the recipe says so
    (never where it starts from a whole model, which brings its own).
    Raises ModelError when stated weights are absent: nothing starts from random ones instead.
    """
    tokens = recipe.tokens
    whole = recipe.weights.model or recipe.weights.rec
    if whole is not None:
        # The weights know the pieces they were trained with and no others.
        tokenizer = load_tokenizer(find_model(whole), tokens.max_words)
    elif tokens.source == "data":
        tokenizer = train_wordpiece(texts, size=tokens.vocabulary, max_words=tokens.max_words)
    else:
        tokenizer = load_tokenizer(find_encoder(tokens.source), tokens.max_words)
    vocabulary = getattr(getattr(recipe.method, "text", None), "vocab_size", None)
    if vocabulary is not None and tokenizer.vocab_size > vocabulary:
        raise ConfigError(
            f"recipe {recipe.name}: {tokenizer.vocab_size} word pieces, but method.text.vocab_size "
            f"is {vocabulary}",
            remedy=f"set method.text.vocab_size={tokenizer.vocab_size} or lower tokens.vocabulary",
        )
    method = build_method(recipe.method_name, recipe.method)
    spell(method, tokenizer)
    for key, limit in word_limits(method).items():
        if tokenizer.max_words > limit:
            raise ConfigError(
                f"recipe {recipe.name}: tokens.max_words is {tokenizer.max_words}, but "
                f"method.{key} only {limit}",
                remedy=f"set tokens.max_words={limit} or method.{key}={tokenizer.max_words}",
            )
    _check_ids(recipe.name, method, tokenizer)
    told = _start(method, recipe.weights)
    card = {TAKEN_OVER: told} if told else {}
    return Model(recipe.name, recipe.method_name, method, tokenizer, recipe.preprocess, card)


def _check_ids(name: str, method: Any, tokenizer: WordTokenizer) -> None:
    """Refuse a method that writes with other ids for [CLS], [SEP] and [PAD] than are read."""
    for token, stated in getattr(method, "word_ids", {}).items():
        own = tokenizer.tokenizer.token_to_id(token)
        if own != stated:
            raise ConfigError(
                f"{name}: the generator takes {stated} for {token}, whose id is {own}",
                remedy="set method.generator.start, end, pad and never to the tokenizer's ids",
            )


def _start(method: Any, weights: WeightsConfig) -> str | None:
    """Load what training starts from: a whole model, REC's, or encoders. What a person should know
    of it, if anything.
    """
    if weights.model is not None:
        folder = find_model(weights.model)
        load_state(method, read_state(folder / "model.safetensors"), source=str(folder))
        return None
    if weights.rec is not None:
        return _start_from_rec(method, weights.rec)
    parts: dict[str, tuple[nn.Module, str]] = getattr(method, "hub_parts", dict)()
    for kind in ("vision", "text", "proposals"):
        name = getattr(weights, kind)
        if name is None:
            continue
        if kind not in parts:
            raise ConfigError(
                f"weights.{kind} is {name}, but this method has no such part "
                f"(it has {', '.join(parts) or 'none'})",
                remedy=f"set weights.{kind}=null",
            )
        module, prefix = parts[kind]
        if isinstance(module, DarkNet):
            load_darknet_weights(module, Path(name).expanduser())
        elif isinstance(module, ClipResNet | ClipWords):
            load_clip_part(module, str(find_encoder(name)))
        else:
            load_hub_part(module, str(find_encoder(name)), prefix=prefix)
    return None


def _start_from_rec(method: Any, name: str) -> str:
    """What both tasks' models have, from REC's; says what is begun anew."""
    if not hasattr(method, "take_over"):
        raise ConfigError(
            f"weights.rec is {name}, but this method does not go on from boxes to masks",
            remedy="set weights.rec=null, or weights.model for weights of the same model",
        )
    folder = find_model(name)
    taken = method.take_over(read_state(folder / "model.safetensors"), str(folder))
    return str(taken.told())
