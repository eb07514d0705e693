"""The untrained model of a recipe, with the weights that it starts from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from refseg.data.tokens import WordTokenizer, load_tokenizer, train_wordpiece
from refseg.errors import ConfigError
from refseg.models import Model, build_method, find_encoder, find_model, word_limits
from refseg.nn.weights import load_hub_part, load_state, read_state
from refseg.recipes.base import Recipe, WeightsConfig


def build(recipe: Recipe, texts: Iterable[str]) -> Model:
    """The untrained model of a recipe, with the weights it starts from.

    texts: training expressions, from which word pieces are learned if the recipe says so
    (never where it starts from a whole model, which brings its own).
    Raises ModelError when stated weights are absent: nothing starts from random ones instead.
    """
    tokens = recipe.tokens
    if recipe.weights.model is not None:
        # The weights know the pieces they were trained with and no others.
        tokenizer = load_tokenizer(find_model(recipe.weights.model), tokens.max_words)
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
    for key, limit in word_limits(method).items():
        if tokenizer.max_words > limit:
            raise ConfigError(
                f"recipe {recipe.name}: tokens.max_words is {tokenizer.max_words}, but "
                f"method.{key} only {limit}",
                remedy=f"set tokens.max_words={limit} or method.{key}={tokenizer.max_words}",
            )
    _check_ids(recipe.name, method, tokenizer)
    _start(method, recipe.weights)
    return Model(recipe.name, recipe.method_name, method, tokenizer, recipe.preprocess)


def _check_ids(name: str, method: Any, tokenizer: WordTokenizer) -> None:
    """Refuse a method that writes with other ids for [CLS], [SEP] and [PAD] than are read."""
    for token, stated in getattr(method, "word_ids", {}).items():
        own = tokenizer.tokenizer.token_to_id(token)
        if own != stated:
            raise ConfigError(
                f"{name}: the generator takes {stated} for {token}, whose id is {own}",
                remedy="set method.generator.start, end, pad and never to the tokenizer's ids",
            )


def _start(method: Any, weights: WeightsConfig) -> None:
    """Load what training starts from: a whole model, or encoders."""
    if weights.model is not None:
        folder = find_model(weights.model)
        load_state(method, read_state(folder / "model.safetensors"), source=str(folder))
        return
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
        load_hub_part(module, str(find_encoder(name)), prefix=prefix)
