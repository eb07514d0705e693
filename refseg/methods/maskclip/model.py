"""MaskCLIP for referring segmentation: a comparator of Shatter and Gather that needs no training.

Map of the papers (MaskCLIP, ECCV 2022, section 3.1; Shatter and Gather, ICCV 2023, supplement):
  dense features: values of the last block, no mixing    -> `refseg.nn.clip_dense`
  text embedding, of unit length                         -> `MaskClip._texts`
  similarity of every patch with the sentence            -> `MaskClip.answer`
  threshold 0.5 of the map stretched to 0..1             -> decode.py
  fine-tuning on pairs of image and sentence             -> `MaskClip.loss`

We differ:
- one sentence is compared with, where MaskCLIP has a class name in many sentences and all classes
  at once; its key smoothing and prompt denoising, off by default there, are left out;
- images are shown whole, squashed to a square;
- the loss is CLIP's (the supplement names none), with no place in it: it compares whole images.
Letters: I images, B texts, T words, E width of the space that both share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.maskclip.config import PLACE, MaskClipConfig
from refseg.methods.maskclip.decode import decode
from refseg.methods.maskclip.prompt import check_length, framed
from refseg.nn.clip_dense import cosines, look
from refseg.nn.clip_pair import ClipPair
from refseg.nn.contrast import check_contrast, contrast
from refseg.types import Batch, Labels, Prediction


@dataclass(frozen=True)
class MaskClipState:
    """What is known of I images before any text: unit vectors of places [I, E, h, w] and of whole
    images [I, E].
    """

    places: Tensor
    whole: Tensor


@dataclass(frozen=True)
class MaskClipOutputs:
    """similarity: [B, h, w] cosines of each text with the places of its image. whole: [I, E] and
    texts: [B, E], unit vectors, which the loss compares. image_of: [B].
    """

    similarity: Tensor
    whole: Tensor
    texts: Tensor
    image_of: Tensor


class MaskClip(nn.Module):
    """The method (see `refseg.method.Method`); fine-tuning needs no label but the texts."""

    needs: ClassVar[Labels] = Labels()
    #: The other texts of a step are what the loss tells apart.
    compares_samples: ClassVar[bool] = True

    def __init__(self, config: MaskClipConfig) -> None:
        super().__init__()
        self.config = config
        self.pair = ClipPair(config.pair)
        # Ids in front of the expression and behind it; None until the prompt is spelled.
        self._frame: tuple[list[int], list[int]] | None = None
        if config.prompt == PLACE:
            self._frame = ([], [])

    def spell(self, ids_of: Callable[[str], Sequence[int]]) -> None:
        """Take in the ids of the prompt; see `refseg.method`."""
        front, behind = self.config.prompt.split(PLACE)
        self._frame = (list(ids_of(front)[1:-1]), list(ids_of(behind)[1:-1]))

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest expression, start and end included: what the prompt leaves of the places."""
        front, behind = self._frame or ([], [])
        places = self.config.text.max_positions - len(front) - len(behind)
        return {"text.max_positions": places}

    def encode_image(self, batch: Batch) -> MaskClipState:
        """The batch's I images -> state that `answer` takes for any number of texts."""
        places, whole = look(self.pair.vision, batch.images, residual=self.config.residual)
        return MaskClipState(F.normalize(places.float(), dim=1), F.normalize(whole.float(), dim=-1))

    def answer(self, state: MaskClipState, batch: Batch) -> MaskClipOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        texts = self._texts(batch)
        with torch.autocast(texts.device.type, enabled=False):
            similarity = cosines(state.places, texts, batch.image_of)
        return MaskClipOutputs(similarity, state.whole, texts, batch.image_of)

    def forward(self, batch: Batch) -> MaskClipOutputs:
        """Batch of B texts about I images -> similarities and vectors; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    def _texts(self, batch: Batch) -> Tensor:
        """[B, E] float32 unit vectors of the framed expressions."""
        if self._frame is None:
            raise ConfigError(
                f'the prompt "{self.config.prompt}" was not spelled in the ids of a tokenizer',
                remedy="load the model with refseg.models.load, or call method.spell",
            )
        words, mask = framed(batch.words, batch.word_mask, *self._frame)
        check_length(words, self.config.text.max_positions)
        return self.pair.embed_texts(words, mask).float()

    # -- learning ------------------------------------------------------------------------------

    def loss(self, outputs: MaskClipOutputs, batch: Batch) -> dict[str, Tensor]:
        """ "contrast", CLIP's loss on whole images, which is all of "total".

        Raises ConfigError for a batch about one image: there is nothing to tell apart.
        """
        check_contrast(len(outputs.whole), len(batch))
        with torch.autocast(outputs.texts.device.type, enabled=False):
            similarity = self.pair.learned_similarity(outputs.whole, outputs.texts)
            term = contrast(similarity, outputs.image_of, batch.weights)
        return {"contrast": term, "total": term}

    # -- answering -----------------------------------------------------------------------------

    def decode(self, outputs: MaskClipOutputs, batch: Batch) -> list[Prediction]:
        """One mask per text in px; see decode.py."""
        return decode(outputs.similarity, batch, self.config.threshold)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, at one learning rate."""
        groups = split_decay("all", self)
        check_groups(self, groups)
        return groups
