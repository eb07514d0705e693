"""BERT learns the words of a world by guessing hidden ones (Devlin et al. 2019, masked words).

Without it a small text encoder that learns from masks alone makes all words of an expression
alike: every word then selects the same pixels.
Letters: B expressions, T words, D width, V word pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.method import MethodConfig, ParameterGroup, check_groups, split_decay
from refseg.nn.text import BertTextConfig, BertWords


class WordGuesserConfig(MethodConfig):
    """text: the encoder."""

    text: BertTextConfig = BertTextConfig(frozen="none")


@dataclass(frozen=True)
class WordBatch:
    """words: [B, T] int64 as the encoder sees them. word_mask: [B, T] bool, real words.
    hidden: [B, T] bool, words to guess. targets: [B, T] int64, the true words.
    """

    words: Tensor
    word_mask: Tensor
    hidden: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.words)

    def to(self, device: torch.device | str) -> WordBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class WordGuesser(nn.Module):
    """forward(WordBatch) -> logits [K, V] of the K hidden words; output weights are the table's."""

    def __init__(self, config: WordGuesserConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text.width
        self.text = BertWords(config.text)
        self.turn = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(config.text.vocab_size))

    def forward(self, batch: WordBatch) -> Tensor:
        features = self.text(batch.words, batch.word_mask)[batch.hidden]
        table = self.text.bert.embeddings.word_embeddings.weight
        return F.linear(self.turn(features), table, self.bias)

    def loss(self, outputs: Tensor, batch: WordBatch) -> dict[str, Tensor]:
        """Cross-entropy, a mean over the hidden words."""
        return {"total": F.cross_entropy(outputs.float(), batch.targets[batch.hidden])}

    def loss_weight(self, batch: WordBatch) -> float:
        """What the loss is a mean over."""
        return max(float(batch.hidden.sum()), 1e-6)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter once."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
