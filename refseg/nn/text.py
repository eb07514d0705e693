"""Text encoders behind one face: token ids in, word features and a padding mask out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refseg.nn.guard import guard_torchvision


class BertTextConfig(BaseModel):
    """A BERT encoder. Defaults are BERT-base uncased (108.89 M parameters without pooler).

    frozen: parts that keep their weights: "embeddings" (VEGA's recipe, after CrossVLT),
    "none", or "all". drop: dropout while training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int = Field(default=30522, gt=0)
    width: int = Field(default=768, gt=0)
    layers: int = Field(default=12, gt=0)
    heads: int = Field(default=12, gt=0)
    mlp_width: int = Field(default=3072, gt=0)
    max_positions: int = Field(default=512, gt=1)
    drop: float = Field(default=0.1, ge=0, lt=1)
    frozen: Literal["none", "embeddings", "all"] = "embeddings"


class BertWords(nn.Module):
    """BERT without its pooler. words [B, T] int64, word_mask [B, T] bool -> [B, T, width]."""

    def __init__(self, config: BertTextConfig) -> None:
        super().__init__()
        guard_torchvision()
        from transformers import BertConfig, BertModel

        self.width = config.width
        self.bert: Any = BertModel(
            BertConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp_width,
                max_position_embeddings=config.max_positions,
                hidden_dropout_prob=config.drop,
                attention_probs_dropout_prob=config.drop,
                pad_token_id=0,
            ),
            add_pooling_layer=False,
        )
        freeze = {
            "none": [],
            "embeddings": [self.bert.embeddings],
            "all": [self.bert],
        }[config.frozen]
        for module in freeze:
            module.requires_grad_(False)

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        output = self.bert(input_ids=words, attention_mask=word_mask.long())
        features: Tensor = output.last_hidden_state
        return features
