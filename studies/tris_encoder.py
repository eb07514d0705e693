"""What the encoder that TRIS starts from shows by itself, no training added.

"saliency" is where its last map is strong, whatever the words say. "maskclip" is the similarity of
each place with the text, after MaskCLIP (Zhou et al., ECCV 2022): the attention that makes one
vector of the map is left out, and every place goes through its projections of values alone, as if
it were asked for by itself. (MaskCLIP averages many sentences a class; here it is the one asked.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.data.collate import collate
from refseg.data.tokens import WordTokenizer, load_tokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.errors import ConfigError
from refseg.methods.tris.response import in_net
from refseg.models import find_encoder
from refseg.nn.clip_dense import cosines, look
from refseg.nn.clip_pair import ClipPair
from refseg.nn.clip_resnet import ClipResNet
from refseg.nn.clip_weights import read_pair
from refseg.ops.masks import response_to_mask, stretched
from refseg.recipes.starts import encoder_labels
from refseg.types import Batch, Geometry, Prediction, Sample

SALIENCY, MASKCLIP = "saliency", "maskclip"
#: (pair, batch) -> a map [B, h, w] of each expression, in any range.
Look = Callable[[ClipPair, Batch], Tensor]


class LookAnswers:
    """`predict(samples)` as a model does: a map of an encoder, and what exceeds its middle.

    labels: what the encoder learned from. look: batch -> a map [B, h, w] of each expression, in any
    range.
    """

    def __init__(
        self,
        name: str,
        labels: str,
        tokenizer: WordTokenizer,
        preprocess: PreprocessConfig,
        look: Callable[[Batch], Tensor],
    ) -> None:
        self.name, self.card = name, {"labels used": labels}
        self.tokenizer, self.preprocess, self._look = tokenizer, preprocess, look

    @torch.inference_mode()
    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """One prediction per sample."""
        batch = collate(samples, self.tokenizer, self.preprocess, share_images=True)
        hw = (batch.images.shape[2], batch.images.shape[3])
        maps = in_net(self._look(batch), hw)
        return [_answer(*one) for one in zip(maps, batch.geometry, strict=True)]


class EncoderAnswers(LookAnswers):
    """Of an image-text pair.

    pair: name or folder. preprocess: how it sees pictures. rule: SALIENCY or MASKCLIP.
    Raises ModelError (no such pair), ConfigError (a pair without ResNet).
    """

    def __init__(self, pair: str, preprocess: PreprocessConfig, rule: str) -> None:
        folder = find_encoder(pair)
        read = read_pair(folder)
        if not isinstance(read.vision, ClipResNet):
            raise ConfigError(f"{Path(pair).name} has no maps", remedy="name a pair with a ResNet")
        tokenizer = load_tokenizer(folder, read.config.text.max_positions)
        look = partial(LOOKS[rule], read)
        super().__init__(rule, encoder_labels(folder), tokenizer, preprocess, look)


def _answer(one: Tensor, geometry: Geometry) -> Prediction:
    response = stretched(one.numpy())
    return Prediction(response_to_mask(response, geometry), 1.0, geometry, response)


def saliency(pair: ClipPair, batch: Batch) -> Tensor:
    """[B, h, w]: the mean over channels of the absolute last map."""
    last = _tower(pair)(batch.images)[-1]
    return last.abs().mean(dim=1)[batch.image_of]


def maskclip(pair: ClipPair, batch: Batch) -> Tensor:
    """[B, h, w]: the cosine of each place, projected as a value, with the text's vector."""
    places, _ = look(pair.vision, batch.images)
    texts = pair.embed_texts(batch.words, batch.word_mask)
    return cosines(F.normalize(places, dim=1), texts, batch.image_of)


def _tower(pair: ClipPair) -> ClipResNet:
    assert isinstance(pair.vision, ClipResNet)
    return pair.vision


LOOKS: dict[str, Look] = {SALIENCY: saliency, MASKCLIP: maskclip}
