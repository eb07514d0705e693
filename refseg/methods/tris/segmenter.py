"""TRIS step 2: a segmentation network that learns from the masks that step 1 proposed (ICCV 2023).

Model map (supplement and released code; section 3 of the paper was not to be had):
  image encoder, c1 to c4                   -> encoders.py, `Tris.encode_image`
  text encoder, states of 20 word places    -> encoders.py (`TextReader`, `cut_words`)
  pixel-word attention at c2, c3, c4        -> fusion.py
  decoder, four heads                       -> decoder.py
  L_ce: four equal cross-entropies          -> `Tris.loss`
  logits > 0                                -> decode.py

What the words do to a level is not fed back into the encoder, as it is in LAVT, so the whole image
encoder runs once per image, however many expressions ask about it.

We differ:
- what no expression changes is computed per image, not per pair; where items share an image, the
  batch norms of the encoder and of c1's path count it once;
- the attention pool, unused here, is not built; the text's projection, unused too, does not learn;
- the text's position table learns at the encoders' rate and norms do not decay: the released code
  puts the table among the new parts and decays everything;
- logits are thresholded at 0: the released script divides by their maximum and so takes the whole
  image where all are negative.
Padding that is read and long sentences that lose their end are the released code's; both have a
switch (config.py). Letters: I images, B expressions, L word places, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.tris.config import TrisConfig
from refseg.methods.tris.decode import decode
from refseg.methods.tris.decoder import Decoder, Widths
from refseg.methods.tris.encoders import TextReader, build_pyramid
from refseg.methods.tris.fusion import Looked, PixelWordFusion
from refseg.nn.losses import binary_cross_entropy, masked_mean
from refseg.types import Batch, Labels, Prediction

#: The loss terms, in the order of the decoder's heads.
TERMS = ("main", "side_2", "side_3", "side_4")


@dataclass(frozen=True)
class ImageState:
    """What is known of I images before any expression: c1 narrowed, and c2, c3, c4 looked at."""

    finest: Tensor
    coarser: tuple[Looked, ...]


@dataclass(frozen=True)
class TrisOutputs:
    """logits: [B, 1, h, w] of each head, the main one first; while not learning it is the only one.

    The main head's and the second's lie on c1's grid, the others' on c2's and c3's.
    """

    logits: tuple[Tensor, ...]


class Tris(nn.Module):
    """The method (see `refseg.method.Method`)."""

    needs: ClassVar[Labels] = Labels(frozenset({"mask"}))

    def __init__(self, config: TrisConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = build_pyramid(config.vision)
        self.text = TextReader(config.text, config.cut, sentence=False)
        channels = self.vision.channels
        self.fusion: Any = nn.ModuleList(
            PixelWordFusion(channels[i], config.text.width) for i in (1, 2, 3)
        )
        self.decoder = Decoder(channels, widths_of(config, channels))

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from others' weights: kind -> (module, its name in task models)."""
        return {"vision": self.vision.hub_part(), "text": self.text.hub_part()}

    def encode_image(self, batch: Batch) -> ImageState:
        """The batch's I images -> state that `answer` takes for any number of expressions."""
        c1, *coarser = self.vision(batch.images)
        looked = [fuse.look(x) for fuse, x in zip(self.fusion, coarser, strict=True)]
        return ImageState(self.decoder.narrow[0](c1), tuple(looked))

    def answer(self, state: ImageState, batch: Batch) -> TrisOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        read = self.text(batch.words, batch.word_mask)
        heard = read.mask if self.config.mask_padding else None
        coarser = [
            fuse(level.of(batch.image_of), read.states, heard)
            for fuse, level in zip(self.fusion, state.coarser, strict=True)
        ]
        finest = state.finest[batch.image_of]
        return TrisOutputs(tuple(self.decoder(finest, coarser, sides=self.training)))

    def forward(self, batch: Batch) -> TrisOutputs:
        """Batch of B expressions about I images -> outputs; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    def loss(self, outputs: TrisOutputs, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of every head that was asked, and their sum: 4 ln 2 for zero logits."""
        if batch.masks is None:
            raise ValueError("TRIS's loss needs masks; open the data with the mask label granted")
        known = batch.has_mask
        if known is None:
            known = torch.ones(len(batch), dtype=torch.bool, device=batch.masks.device)
        terms = {}
        for name, logits in zip(TERMS, outputs.logits, strict=False):
            each = binary_cross_entropy(in_net(logits, batch.masks), batch.masks)
            terms[name] = masked_mean(each, batch.weights, known)
        return {**terms, "total": sum(terms.values(), start=batch.weights.new_zeros(()))}

    def loss_weight(self, batch: Batch) -> float:
        """What the losses are a mean over, so that unequal slices add up to the whole batch's."""
        known = batch.weights if batch.has_mask is None else batch.weights * batch.has_mask
        return max(float(known.sum()), 1e-6)  # a batch without masks must not divide by zero

    def decode(self, outputs: TrisOutputs, batch: Batch) -> list[Prediction]:
        """One mask per expression in px, of the main head; see decode.py."""
        return decode(outputs.logits[0][:, 0], batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Both encoders (`encoder_lr_scale`) and the new parts, each once."""
        scale = self.config.encoder_lr_scale
        groups = split_decay("vision", self.vision, lr_scale=scale)
        groups += split_decay("text", self.text, lr_scale=scale)
        groups += split_decay("fusion", self.fusion) + split_decay("decoder", self.decoder)
        check_groups(self, groups)
        return groups


def widths_of(config: TrisConfig, channels: Widths) -> Widths:
    """What the decoder narrows the levels to."""
    if config.widths is not None:
        return config.widths
    c1, c2, c3, c4 = (max(c // 4, 1) for c in channels)
    return c1, c2, c3, c4


def in_net(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits [B, 1, h, w] at the net size of masks [B, H, W]: [B, H, W] float32."""
    size = masks.shape[-2:]
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)[:, 0]
