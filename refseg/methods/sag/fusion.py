"""The modality fusion module: how much each slot is what a sentence means.

One pre-norm cross-attention layer. With x a sentence and Phi the slots of an image, per head,

    A = softmax over slots (Q K^T / sqrt d),  Q of LN(x), K and V of LN(Phi)
    y = x + out(A V);  z = y + MLP(y);  psi = z / |z|

psi is asked for all pairs of sentences and images, by the loss alone. A^fuse is A of the pair that
belongs together, mean over heads; it is all that an answer needs.

Letters: B sentences, I images, S draws, K slots, D width, h heads, d their width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.sag.config import FusionConfig
from refseg.methods.sag.layers import Heads, mlp


@dataclass(frozen=True)
class Heard:
    """Slots as sentences hear them: keys, values [I, S, K, h, d]."""

    keys: Tensor
    values: Tensor


class Fusion(nn.Module):
    """`look` at slots [I, S, K, D] once; `weigh` own pairs; `pairs` of all with all."""

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        self.norm_sentences, self.norm_slots = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = Heads(width, config.heads, config.head_width, config.drop)
        self.mlp = mlp(width, config.mlp_factor)

    def look(self, slots: Tensor) -> Heard:
        """What no sentence changes."""
        heads, normed = self.heads, self.norm_slots(slots)
        return Heard(heads.split(heads.key(normed)), heads.split(heads.value(normed)))

    def weigh(self, sentences: Tensor, heard: Heard, image_of: Tensor) -> Tensor:
        """A^fuse [B, S, K] float32 of sentences [B, D] and the slots of their own images [B]."""
        scores = torch.einsum("bhd,bskhd->bshk", self._query(sentences), heard.keys[image_of])
        return self._weights(scores).mean(dim=2)

    def pairs(self, sentences: Tensor, heard: Heard) -> Tensor:
        """psi [B, I, D] float32, of the first draw, unit length."""
        keys, values = heard.keys[:, 0], heard.values[:, 0]
        scores = torch.einsum("bhd,ikhd->bihk", self._query(sentences), keys)
        weights = self._weights(scores).to(values.dtype)
        told = self.heads.joined(torch.einsum("bihk,ikhd->bihd", weights, values))
        y = sentences[:, None] + told
        z: Tensor = y + self.mlp(y)
        return F.normalize(z.float(), dim=-1)

    def _query(self, sentences: Tensor) -> Tensor:
        return self.heads.split(self.heads.query(self.norm_sentences(sentences)))

    def _weights(self, scores: Tensor) -> Tensor:
        return (scores.float() * self.heads.scale).softmax(dim=-1)


class NoFusion(nn.Module):
    """The ablation: the same face, nothing to learn. Plain products weigh the slots; the mean slot
    stands for psi, whatever the sentence. See `FusionConfig.kind`.
    """

    def look(self, slots: Tensor) -> Heard:
        """One head as wide as the slots."""
        return Heard(slots[..., None, :], slots[..., None, :])

    def weigh(self, sentences: Tensor, heard: Heard, image_of: Tensor) -> Tensor:
        """As `Fusion.weigh`."""
        keys = heard.keys[image_of, :, :, 0]
        scores = torch.einsum("bd,bskd->bsk", sentences, keys).float()
        return (scores / math.sqrt(sentences.shape[-1])).softmax(dim=-1)

    def pairs(self, sentences: Tensor, heard: Heard) -> Tensor:
        """As `Fusion.pairs`."""
        mean = heard.values[:, 0, :, 0].float().mean(dim=1)
        return F.normalize(mean, dim=-1).expand(len(sentences), -1, -1)


def build_fusion(config: FusionConfig, width: int) -> Fusion | NoFusion:
    """The module of a configuration."""
    return NoFusion() if config.kind == "none" else Fusion(config, width)
