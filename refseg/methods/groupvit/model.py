"""GroupViT for referring segmentation: a comparator of Shatter and Gather that needs no training.

Map of the papers (GroupViT, CVPR 2022; Shatter and Gather, ICCV 2023, supplement):
  grouping stages, image and text towers      -> towers.py (transformers' GroupViTModel)
  segments from the product of assignments    -> `grouping.patch_shares`
  two queries, the sentence and a dummy       -> `GroupVit.margins`
  union of the segments that the sentence won -> decode.py
  fine-tuning on pairs of image and sentence  -> `GroupVit.loss`

We differ:
- a query is one sentence; GroupViT names classes, and what is nowhere above a threshold is
  background: here the dummy says so;
- the loss is CLIP's (the supplement names none), without GroupViT's nouns in prompts.
Letters: I images, B texts, T words, G segments, h x w patches, D widths, E joint width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.groupvit.config import GroupVitConfig
from refseg.methods.groupvit.decode import decode
from refseg.methods.groupvit.grouping import segment_margins
from refseg.methods.groupvit.towers import build_net, read, see
from refseg.nn.clip_pair import SHARPEST
from refseg.nn.contrast import check_contrast, contrast
from refseg.types import Batch, Labels, Prediction


@dataclass(frozen=True)
class GroupVitState:
    """What is known of I images before any text: segments [I, G, D], normed; shares [I, G, h, w],
    how much of each patch each segment has.
    """

    segments: Tensor
    shares: Tensor


@dataclass(frozen=True)
class GroupVitOutputs:
    """segments, shares: as in `GroupVitState`. sentences: [B, D], the states of the texts' ends.
    image_of: [B]. Neither side is in the joint space yet: its layers have batch norms, and what the
    loss brings there are whole images, what answers bring there are segments.
    """

    segments: Tensor
    shares: Tensor
    sentences: Tensor
    image_of: Tensor


class GroupVit(nn.Module):
    """The method (see `refseg.method.Method`); fine-tuning needs no label but the texts."""

    needs: ClassVar[Labels] = Labels()
    #: The other texts of a step are what the loss tells apart.
    compares_samples: ClassVar[bool] = True

    def __init__(self, config: GroupVitConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_net(config)
        self._dummy: list[int] | None = None  # until it is spelled

    def spell(self, ids_of: Callable[[str], Sequence[int]]) -> None:
        """Take in the ids of the dummy; see `refseg.method`. Raises ConfigError: too long."""
        ids = list(ids_of(self.config.dummy))
        if len(ids) > self.config.text.max_positions:
            raise ConfigError(
                f"dummy of {len(ids)} tokens, and places for {self.config.text.max_positions}",
                remedy="give a shorter method.dummy",
            )
        self._dummy = ids

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest expression, start and end included."""
        return {"text.max_positions": self.config.text.max_positions}

    def encode_image(self, batch: Batch) -> GroupVitState:
        """The batch's I images -> state that `answer` takes for any number of texts."""
        return GroupVitState(*see(self.net, batch.images))

    def answer(self, state: GroupVitState, batch: Batch) -> GroupVitOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        sentences = read(self.net, batch.words, batch.word_mask)
        return GroupVitOutputs(state.segments, state.shares, sentences, batch.image_of)

    def forward(self, batch: Batch) -> GroupVitOutputs:
        """Batch of B texts about I images -> segments and sentences; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    # -- learning ------------------------------------------------------------------------------

    def loss(self, outputs: GroupVitOutputs, batch: Batch) -> dict[str, Tensor]:
        """ "contrast", CLIP's loss on whole images (the mean of their segments), all of "total".

        Raises ConfigError for a batch about one image: there is nothing to tell apart.
        """
        check_contrast(len(outputs.segments), len(batch))
        images = self._images(outputs.segments.mean(dim=1))
        texts = self._texts(outputs.sentences)
        with torch.autocast(texts.device.type, enabled=False):
            term = contrast(self._sharp() * images @ texts.T, outputs.image_of, batch.weights)
        return {"contrast": term, "total": term}

    def _sharp(self) -> Tensor:
        """What a cosine is multiplied by."""
        sharp: Tensor = self.net.logit_scale.clamp(max=math.log(SHARPEST)).exp()
        return sharp

    def _images(self, seen: Tensor) -> Tensor:
        """[n, D] -> [n, E] in the joint space, float32 unit vectors."""
        return F.normalize(self.net.visual_projection(seen).float(), dim=-1)

    def _texts(self, states: Tensor) -> Tensor:
        """[n, D] -> [n, E] in the joint space, float32 unit vectors."""
        return F.normalize(self.net.text_projection(states).float(), dim=-1)

    # -- answering -----------------------------------------------------------------------------

    def margins(self, outputs: GroupVitOutputs) -> Tensor:
        """[B, G] float32: cosine of each segment of a text's image with it, less with the dummy.

        Raises ConfigError until the dummy is spelled.
        """
        if self._dummy is None:
            raise ConfigError(
                f'the dummy "{self.config.dummy}" was not spelled in the ids of a tokenizer',
                remedy="load the model with refseg.models.load, or call method.spell",
            )
        ids = torch.tensor([self._dummy], device=outputs.sentences.device)
        dummy = self._texts(read(self.net, ids, torch.ones_like(ids, dtype=torch.bool)))[0]
        shape = outputs.segments.shape[:2]
        segments = self._images(outputs.segments.flatten(0, 1)).view(*shape, -1)
        texts = self._texts(outputs.sentences)
        with torch.autocast(ids.device.type, enabled=False):
            return segment_margins(segments, texts, dummy, outputs.image_of)

    def decode(self, outputs: GroupVitOutputs, batch: Batch) -> list[Prediction]:
        """One mask per text in px; see decode.py."""
        with torch.no_grad():
            found, scale = self.margins(outputs), float(self._sharp())
        return decode(outputs.shares, found, scale, batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, at one learning rate."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
