"""Shatter and Gather: referring segmentation learned from texts alone (ICCV 2023).

Map of the paper (figure, supplement) and the released code; its running text was not to be had:
  ViT, BERT's CLS state, both to D                -> `Sag.encode_image`, `Sag._sentences`
  entity slots from K_g Gaussians                 -> slots.py
  entity discovery Phi: aggregation, interaction  -> discovery.py
  modality fusion Psi, A^fuse                     -> fusion.py
  contrastive cycle consistency L_C3              -> loss.py
  reconstruction f_dec, L_rec                     -> reconstruction.py (training only)
  M = A^fuse A^slot, min-max, tau; MAX, MIN; CRF  -> decode.py

What no sentence changes, the slots and how sentences hear them, is made once per image.

We differ:
- images, not items, are encoded: items that share an image share its slots, and are no rivals;
- answers draw their noise by the image's own pixels and a seed, so that they repeat; the released
  code draws anew each time. Learning does, too;
- pictures of which a sentence is true, copies of its own and those that come with the same words,
  are no negatives of it (`loss.others`); norms and biases do not decay;
- the means of the slots' Gaussians may be drawn wider (`slots.apart`), so that few steps are enough
  for slots to come apart;
- the table of positions is resampled where the image's size asks for it, not twice;
- what the released code holds and never uses (BERT's pooler, two more maps) is not built.
Each cheaper form (keys once for all iterations, two maps of the decoder apart, all pairs at once)
has the numbers of the paper's.
Letters: I images, B sentences, S draws, K slots, N patches, D width, F width of the ViT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.sag.config import SagConfig
from refseg.methods.sag.decode import decode
from refseg.methods.sag.discovery import EntityDiscovery
from refseg.methods.sag.fusion import Heard, build_fusion
from refseg.methods.sag.loss import counted_images, cycle_consistency
from refseg.methods.sag.reconstruction import BroadcastDecoder, reconstruction_loss
from refseg.methods.sag.slots import group_of, keyed_noise
from refseg.nn.positions import sine_positions
from refseg.nn.text import BertWords
from refseg.nn.vit import ViTVision
from refseg.types import Batch, Labels, Prediction

HW = tuple[int, int]


@dataclass(frozen=True)
class SagState:
    """What is known of I images before any sentence.

    features: [I, N, F], V. hw: rows and columns of the patches. slots: [I, S, K, D], Phi; S is 1
    while learning. attention: [I, S, K, N] float32, A^slot; None without discovery, where the slots
    are the patches. heard: the slots as sentences hear them.
    """

    features: Tensor
    hw: HW
    slots: Tensor
    attention: Tensor | None
    heard: Heard


@dataclass(frozen=True)
class SagOutputs:
    """The state, and of B sentences: sentences [B, D], x^T, not of unit length; image_of [B];
    fuse [B, S, K] float32, A^fuse of the own image, which adds up to 1 over K. groups: [K] int64,
    the Gaussian of each slot.
    """

    features: Tensor
    hw: HW
    slots: Tensor
    attention: Tensor | None
    heard: Heard
    sentences: Tensor
    image_of: Tensor
    fuse: Tensor
    groups: Tensor


class Sag(nn.Module):
    """The method (see `refseg.method.Method`); needs no label but the texts."""

    needs: ClassVar[Labels] = Labels()
    #: The other images of a step are what a sentence is told apart from.
    compares_samples: ClassVar[bool] = True

    def __init__(self, config: SagConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.vision = ViTVision(config.vision)
        self.text = BertWords(config.text)
        self.project_patches = nn.Linear(config.vision.width, width)
        self.project_sentences = nn.Linear(config.text.width, width)
        self.discover = EntityDiscovery(config.slots, width) if config.discovery else None
        self.fusion = build_fusion(config.fusion, width)
        self.decoder: BroadcastDecoder | None = None
        if config.reconstructs:
            self.decoder = BroadcastDecoder(config.reconstruction, width, config.vision.width)

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest sentence, in tokens, that each part has places for: key -> tokens."""
        return {"text.max_positions": self.config.text.max_positions}

    @property
    def wants_originals(self) -> bool:
        """Whether answers look at the image in px, as a CRF does."""
        return self.config.answer.crf != "none"

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from the hub's weights: kind -> (module, its name in task models)."""
        return {"vision": self.vision.hub_part(), "text": (self.text.bert, "bert.")}

    # -- shatter -------------------------------------------------------------------------------

    def encode_image(self, batch: Batch) -> SagState:
        """The batch's I images -> state that `answer` takes for any number of sentences."""
        images = batch.images
        features = self.vision(images)
        hw = self.vision.grid((images.shape[2], images.shape[3]))
        patches = self.project_patches(features)
        cells = torch.ones(1, *hw, dtype=torch.bool, device=images.device)
        patches = patches + sine_positions(cells, self.config.width).flatten(1, 2)
        if self.discover is None:
            slots, attention = patches[:, None], None
        else:
            entities = self.discover(patches, self._noise(images))
            slots, attention = entities.slots, entities.attention
        return SagState(features, hw, slots, attention, self.fusion.look(slots))

    def _noise(self, images: Tensor) -> Tensor:
        """[I, S, K, D] float32: fresh while learning, else what the images' pixels say."""
        shape = (self.config.slots.count, self.config.width)
        if self.config.slots.kind == "query":
            return images.new_zeros(1).expand(len(images), 1, *shape)
        if self.training:
            return torch.randn(len(images), 1, *shape, device=images.device)
        return keyed_noise(images, self.config.draws, shape, self.config.answer.seed)

    # -- gather --------------------------------------------------------------------------------

    def answer(self, state: SagState, batch: Batch) -> SagOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        sentences = self._sentences(batch)
        fuse = self.fusion.weigh(sentences, state.heard, batch.image_of)
        groups = group_of(self.config.slots).to(sentences.device)
        return SagOutputs(
            state.features, state.hw, state.slots, state.attention, state.heard, sentences,
            batch.image_of, fuse, groups,
        )  # fmt: skip

    def _sentences(self, batch: Batch) -> Tensor:
        """x^T [B, D]: the CLS state. Raises ConfigError for sentences longer than BERT takes."""
        most = self.config.text.max_positions
        if batch.words.shape[1] > most:
            raise ConfigError(
                f"an expression of {batch.words.shape[1]} tokens, but text.max_positions is {most}",
                remedy="cut expressions (tokens.max_words) or raise text.max_positions",
            )
        sentences: Tensor = self.project_sentences(self.text(batch.words, batch.word_mask)[:, 0])
        return sentences

    def forward(self, batch: Batch) -> SagOutputs:
        """Batch of B sentences about I images -> outputs; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    # -- learning and answering ----------------------------------------------------------------

    def loss(self, outputs: SagOutputs, batch: Batch) -> dict[str, Tensor]:
        """L_C3 ("contrast") and L_rec ("reconstruction", if there is a decoder), and "total", L_C3
        + lambda L_rec. Of the first draw.
        """
        counted = counted_images(batch, distinct=self.config.loss.others == "distinct")
        found = self.fusion.pairs(outputs.sentences, outputs.heard)
        # Where there is no fusion no sentence is in what was found: it must learn as the target.
        detached = self.config.fusion.kind == "attention"
        target = outputs.sentences.detach() if detached else outputs.sentences
        contrast = cycle_consistency(target, found, counted, batch, self.config.loss.temperature)
        terms, total = {"contrast": contrast}, contrast
        if self.decoder is not None:
            part = self.config.reconstruction
            terms["reconstruction"] = reconstruction_loss(
                self.decoder, outputs.slots[:, 0], outputs.features, outputs.hw,
                part.share if self.training else 1.0,
            )  # fmt: skip
            total = total + part.weight * terms["reconstruction"]
        return {**terms, "total": total}

    def decode(self, outputs: SagOutputs, batch: Batch) -> list[Prediction]:
        """One mask per sentence in px; see decode.py."""
        return decode(outputs, batch, self.config.answer)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The image encoder (`vision_lr_scale`), the text encoder and the new parts, each once."""
        groups = split_decay("vision", self.vision, lr_scale=self.config.vision_lr_scale)
        groups += split_decay("text", self.text)
        new = nn.ModuleDict(
            {name: part for name, part in self.named_children() if name not in ("vision", "text")}
        )
        groups += split_decay("new", new)
        check_groups(self, groups)
        return groups
