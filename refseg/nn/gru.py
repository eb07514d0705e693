"""A recurrent text encoder: token ids in, word features and one feature of the sentence out."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class GruTextConfig(BaseModel):
    """A bidirectional GRU over word vectors. Defaults are SeqTR's but for the vocabulary.

    kind: tells it from other text encoders. word_width: of the vectors that words start as.
    hidden: of one direction. drop: dropout of the word vectors, and between layers, while
    training. frozen_words: the table of word vectors keeps its weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gru"] = "gru"
    vocab_size: int = Field(default=30522, gt=0)
    word_width: int = Field(default=300, gt=0)
    hidden: int = Field(default=512, gt=0)
    layers: int = Field(default=1, gt=0)
    drop: float = Field(default=0.0, ge=0, lt=1)
    frozen_words: bool = False


class GruWords(nn.Module):
    """words [B, T] int64, word_mask [B, T] bool -> ([B, T, 2 * hidden], [B, 2 * hidden]) float32.

    The first are features of the words, zero on padding; the second their maximum over the words
    (SeqTR, section 3.1). Padding changes nothing, whatever ids it has: both directions see the
    words alone. (In SeqTR's code the way back begins on the padding.)
    Raises ValueError for a row without words, or with a gap between them.
    """

    def __init__(self, config: GruTextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.word_width)
        self.words.weight.requires_grad_(not config.frozen_words)
        self.drop = nn.Dropout(config.drop)
        self.gru = nn.GRU(
            config.word_width,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.drop if config.layers > 1 else 0.0,  # it warns of one layer
        )

    @property
    def width(self) -> int:
        """Channels of the features: both directions."""
        return 2 * self.config.hidden

    def forward(self, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        lengths = _lengths(word_mask)
        # Padding may have ids that the table has not.
        vectors = self.drop(self.words(words.masked_fill(~word_mask, 0)))
        # In bf16 a recurrence rounds at each word, and on a CPU it is several times slower.
        with torch.autocast(words.device.type, enabled=False):
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            features, _ = pad_packed_sequence(
                self.gru(packed)[0], batch_first=True, total_length=words.shape[1]
            )
        return features, max_over_words(features, word_mask)


def max_over_words(features: Tensor, word_mask: Tensor) -> Tensor:
    """features [B, T, C], word_mask [B, T] bool -> the maximum over real words [B, C].

    A row without words gives zeros.
    """
    real = word_mask[..., None]
    found = features.masked_fill(~real, float("-inf")).max(dim=1).values
    return found.masked_fill(~real.any(dim=1), 0.0)


def _lengths(word_mask: Tensor) -> Tensor:
    """Words per row [B] int64, on the CPU, where packing wants them. Raises ValueError."""
    mask = word_mask.cpu()
    lengths = mask.sum(dim=1)
    if not torch.equal(mask, torch.arange(mask.shape[1]) < lengths[:, None]):
        raise ValueError("the words of a row must come first, and its padding after them")
    if not lengths.all():
        raise ValueError("a row has no words")
    return lengths
