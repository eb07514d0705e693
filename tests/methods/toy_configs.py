"""Configurations of toy methods, small enough for milliseconds, and the words that they know."""

from __future__ import annotations

from functools import cache
from typing import Any

from refseg.data.tokens import SPECIALS, WordTokenizer, train_wordpiece
from refseg.methods.mutual import MutualConfig
from refseg.methods.mutual.config import (
    AnnotatedExtractorConfig,
    DetectedExtractorConfig,
    GeneratorConfig,
    Mask2FormerExtractorConfig,
    PointConfig,
)
from refseg.methods.mutual.config import SelectionConfig as ProposalSelectionConfig
from refseg.methods.partial_res import PartialResConfig
from refseg.methods.partial_res.config import FusionConfig, TransformerConfig
from refseg.methods.vega import VegaConfig
from refseg.methods.vega.config import DecoderConfig, LossConfig, SelectionConfig
from refseg.nn.gru import GruTextConfig
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig

SIDE = 64  # px, net
MAX_WORDS = 12
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 190, 70)}
SHAPES = ("square", "disc")
SIDES = ("left", "right")


@cache
def toy_tokenizer() -> WordTokenizer:
    sides = (*SIDES, "")
    texts = [f"{side} {colour} {shape}" for side in sides for colour in COLOURS for shape in SHAPES]
    return train_wordpiece([*texts, "the one on my far side please"], size=160, max_words=MAX_WORDS)


def toy_vision(**changes: Any) -> SwinVisionConfig:
    config = SwinVisionConfig(
        image_size=SIDE,
        patch=2,
        width=8,
        depths=(1, 1, 2, 1),
        heads=(1, 2, 4, 4),
        window=4,
        drop_path=0.0,
        absolute_positions=True,
    )
    return config.model_copy(update=changes)


def toy_text(**changes: Any) -> BertTextConfig:
    config = BertTextConfig(
        vocab_size=toy_tokenizer().vocab_size,
        width=32,
        layers=2,
        heads=2,
        mlp_width=64,
        max_positions=32,
        drop=0.0,
    )
    return config.model_copy(update=changes)


def vega_config(**changes: Any) -> VegaConfig:
    """16 pixels at the stage of the selection (K = 4), 64 px, width 32, no dropout."""
    config = VegaConfig(
        vision=toy_vision(),
        text=toy_text(),
        selection=SelectionConfig(heads=4, max_tokens=24),
        decoder=DecoderConfig(widths=(32, 32, 16, 16), heads=4),
        loss=LossConfig(),
    )
    return config.model_copy(update=changes)


def mask2former_config(**changes: Any) -> Mask2FormerExtractorConfig:
    """8 queries of width 32, masks of 32 x 32 cells, two layers, two classes."""
    config = Mask2FormerExtractorConfig(
        backbone=toy_vision(),
        classes=SHAPES,
        queries=8,
        width=32,
        heads=4,
        mlp_width=64,
        layers=2,
        pixel_layers=1,
        pixel_mlp_width=64,
        points=PointConfig(points=128),
        backbone_lr_scale=1.0,
    )
    return config.model_copy(update=changes)


def annotated_config() -> AnnotatedExtractorConfig:
    return AnnotatedExtractorConfig(classes=SHAPES, width=32, frequencies=2, mlp_width=32)


def detected_config() -> DetectedExtractorConfig:
    """The toy's own classes; no detector knows them."""
    return DetectedExtractorConfig(
        classes=SHAPES, width=32, frequencies=2, mlp_width=32, looks=False, simulate="never"
    )


def mutual_config(extractor: Any = None, **changes: Any) -> MutualConfig:
    """Both heads, two layers of width 32, no dropout; the toy's own word pieces."""
    ids = {name: toy_tokenizer().tokenizer.token_to_id(name) for name in SPECIALS}
    config = MutualConfig(
        extractor=extractor or mask2former_config(),
        text=toy_text(frozen="none"),
        generator=GeneratorConfig(
            width=32,
            heads=4,
            layers=2,
            mlp_width=64,
            dropout=0.0,
            vocab_size=toy_tokenizer().vocab_size,
            max_words=MAX_WORDS,
            start=ids["[CLS]"],
            end=ids["[SEP]"],
            pad=ids["[PAD]"],
            never=tuple(i for name, i in ids.items() if name != "[SEP]"),
        ),
        selection=ProposalSelectionConfig(
            width=32, heads=4, layers=2, mlp_width=64, dropout=0.0, score_width=32
        ),
        text_lr_scale=1.0,
    )
    return config.model_copy(update=changes)


def partial_res_config(**changes: Any) -> PartialResConfig:
    """All of Partial-RES, 8 x 8 cells of 8 px, width 32, two and two layers, no dropout."""
    config = PartialResConfig(
        vision=toy_vision(),
        text=GruTextConfig(vocab_size=toy_tokenizer().vocab_size, word_width=16, hidden=16),
        fusion=FusionConfig(strides=(2, 4, 8, 16), grid=8, width=32, norm="group"),
        transformer=TransformerConfig(
            width=32, heads=4, mlp_width=64, encoder_layers=2, decoder_layers=2, dropout=0.0
        ),
    )
    return config.model_copy(update=changes)
