"""TRIS step 1: response maps learned from texts alone (ICCV 2023).

Map of the paper (main text and supplement) and the released code:
  image encoder to c4, projector to C_d      -> `TrisResponse.encode_image`
  text encoder at its end, projector to C_d  -> `TrisResponse._sentences`
  bilateral prompt, weight 0.1               -> prompt.py
  response S = V' L'^T / 0.07                -> `_responses` (all pairs), `_own` (answers)
  image-level score, L_cls                   -> score.py
  calibration, L_cal; PRMS                   -> calibrator.py
  masks in px (any positive response)        -> `decode`

We differ:
- the attention pool, which neither step uses, is not built;
- images, not items, are encoded: items that share an image share its pixels;
- an answer is made for each pair of image and text by itself, so that what else is asked about
  cannot change it; while learning the prompt hears all texts of the batch, as released;
- of the texts about one image the calibrator may be asked about one (`loss.judged`);
- the calibrator is handed in (`judge_by`), its weights are not the model's.
Letters: I images, B texts, T words, N pixels, C channels (C_d), E joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.tris.calibrator import Calibrator, calibration
from refseg.methods.tris.config import TrisResponseConfig
from refseg.methods.tris.decode import decode
from refseg.methods.tris.encoders import TextReader, build_pyramid
from refseg.methods.tris.prompt import BilateralPrompt
from refseg.methods.tris.score import classification, counted_pairs, image_scores
from refseg.types import Batch, Labels, Prediction

HW = tuple[int, int]


@dataclass(frozen=True)
class ResponseState:
    """What is known of I images before any text: pixels [I, N, C] of unit length on a grid hw."""

    pixels: Tensor
    hw: HW


@dataclass(frozen=True)
class ResponseOutputs:
    """pixels: [I, N, C], unit length. sentences: [B, C], unit length. words: [B, T, C], unit
    length, and word_mask [B, T], where the prompt hears words. image_of: [B].
    """

    pixels: Tensor
    hw: HW
    sentences: Tensor
    image_of: Tensor
    words: Tensor | None = None
    word_mask: Tensor | None = None


class TrisResponse(nn.Module):
    """The method (see `refseg.method.Method`); needs no label but the texts."""

    needs: ClassVar[Labels] = Labels()
    #: The other texts of a step are the negatives of L_cls.
    compares_samples: ClassVar[bool] = True

    def __init__(self, config: TrisResponseConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = build_pyramid(config.vision, stages=config.level)
        self.text = TextReader(config.text, config.cut)
        channels = self.vision.channels[config.level - 1]
        self.project_pixels = nn.Linear(channels, config.width)
        self.project_texts = nn.Linear(config.text.embed, config.width)
        self.prompt = None if config.prompt == "off" else BilateralPrompt(config.width)
        # A parameter in the released code too, but in no group of its optimiser.
        self.scale = 1 / config.temperature
        self._calibrator: Calibrator | None = None

    def judge_by(self, calibrator: Calibrator) -> None:
        """Hand in the frozen judge that the loss asks; only learning needs it."""
        self._calibrator = calibrator

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from others' weights: kind -> (module, its name in task models)."""
        return {"vision": self.vision.hub_part(), "text": self.text.hub_part()}

    def encode_image(self, batch: Batch) -> ResponseState:
        """The batch's I images -> state that `answer` takes for any number of texts."""
        level = self.vision(batch.images)[-1]
        pixels = self.project_pixels(level.flatten(2).transpose(1, 2))
        hw = (int(level.shape[2]), int(level.shape[3]))
        return ResponseState(F.normalize(pixels.float(), dim=-1), hw)

    def answer(self, state: ResponseState, batch: Batch) -> ResponseOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        read = self.text(batch.words, batch.word_mask)
        sentences = F.normalize(self.project_texts(read.sentence).float(), dim=-1)
        words, mask = None, None
        if self.config.prompt == "words":
            projected = self.project_texts(self.text.joint(read.states))
            words, mask = F.normalize(projected.float(), dim=-1), read.mask
        return ResponseOutputs(state.pixels, state.hw, sentences, batch.image_of, words, mask)

    def forward(self, batch: Batch) -> ResponseOutputs:
        """Batch of B texts about I images -> what responses are made of; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    # -- comparing -----------------------------------------------------------------------------

    def responses(self, outputs: ResponseOutputs) -> Tensor:
        """S [I, N, B] float32: every text against every pixel of every image, as learning sees."""
        with torch.autocast(outputs.pixels.device.type, enabled=False):
            return self._responses(outputs)

    def _responses(self, outputs: ResponseOutputs) -> Tensor:
        pixels, texts = outputs.pixels, outputs.sentences
        if self.prompt is None:
            return self.scale * pixels @ texts.T
        weight = self.config.prompt_weight
        moved = texts + weight * self.prompt.to_all(pixels, texts)  # [I, B, C]
        if self.config.prompt == "batch":
            heard = pixels + weight * self.prompt.together(pixels, texts)
            return self.scale * (heard @ moved.transpose(1, 2)).float()
        assert outputs.words is not None
        assert outputs.word_mask is not None
        heard = self.prompt.heard_along(pixels, outputs.words, outputs.word_mask, moved)
        return self.scale * (pixels @ moved.transpose(1, 2) + weight * heard).float()

    def own(self, outputs: ResponseOutputs) -> Tensor:
        """[B, h, w] float32: each text against its own image, with no other text about."""
        with torch.autocast(outputs.pixels.device.type, enabled=False):
            return self._own(outputs)

    def _own(self, outputs: ResponseOutputs) -> Tensor:
        texts, image_of = outputs.sentences, outputs.image_of
        pixels = outputs.pixels[image_of]
        if self.prompt is not None:
            weight = self.config.prompt_weight
            texts = texts + weight * self.prompt.to_own(outputs.pixels, texts, image_of)
            if self.config.prompt == "words":
                words, mask = outputs.words, outputs.word_mask
                assert words is not None
                assert mask is not None
                added = self.prompt.heard(outputs.pixels, words, mask, image_of)
            else:
                added = self.prompt.alone()
            pixels = pixels + weight * added
        return self._compared(pixels, texts).view(-1, *outputs.hw)

    def _compared(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """[R, N] float32 of pixels [R, N, C] and a text each [R, C]."""
        return self.scale * (pixels @ texts[:, :, None])[:, :, 0].float()

    # -- learning ------------------------------------------------------------------------------

    def loss(self, outputs: ResponseOutputs, batch: Batch) -> dict[str, Tensor]:
        """L_cls, and L_pos and L_neg where they are asked for; "total" is their weighted sum.

        Raises ConfigError when calibration is asked for and no calibrator was handed in.
        """
        config, weights = self.config.loss, batch.weights
        responses = self.responses(outputs)
        scores = image_scores(responses, self.config.score)[batch.image_of]
        counted = counted_pairs(
            batch.words, batch.word_mask, batch.image_of, distinct=config.others == "distinct"
        )
        terms = {"classification": classification(scores, counted, weights)}
        total = config.classification * terms["classification"]
        if config.calibrated:
            rows = torch.arange(len(batch), device=responses.device)
            if config.judged == "images":
                rows = first_of_each(batch.image_of)
            own = responses[batch.image_of[rows], :, rows].view(-1, *outputs.hw)
            terms["attract"], terms["repel"] = self._calibrated(own, batch, rows)
            total = total + config.attract * terms["attract"] + config.repel * terms["repel"]
        return {**terms, "total": total}

    def _calibrated(self, own: Tensor, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """L_pos and L_neg of the own response logits [R, h, w] of the texts `rows` [R]."""
        judge = self._calibrator
        if judge is None:
            raise ConfigError(
                "calibration asks a frozen image-text model, and none was handed in",
                remedy="name one in weights.calibrator, or set method.loss.attract=0 and "
                "method.loss.repel=0",
            )
        shown = in_net(own, (batch.images.shape[2], batch.images.shape[3])).sigmoid()
        seen = judge.seen(batch.images[batch.image_of[rows]], shown)
        texts = judge.texts(*self.text.cut_for_judge(batch.words[rows], batch.word_mask[rows]))
        others = None
        if batch.negatives is not None and batch.negative_mask is not None:
            negatives, real = batch.negatives[rows], batch.negative_mask[rows]
            flat = self.text.cut_for_judge(negatives.flatten(0, 1), real.flatten(0, 1))
            others = judge.texts(*flat).view(*negatives.shape[:2], -1)
        clamp = self.config.loss.clamp_repel
        return calibration(seen, texts, others, batch.weights[rows], clamp=clamp)

    # -- answering -----------------------------------------------------------------------------

    def decode(self, outputs: ResponseOutputs, batch: Batch) -> list[Prediction]:
        """One mask per text in px: where the response is positive; see decode.py."""
        return decode(self.own(outputs), batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Both encoders (`encoder_lr_scale`) and the new parts, each once."""
        scale = self.config.encoder_lr_scale
        groups = split_decay("vision", self.vision, lr_scale=scale)
        groups += split_decay("text", self.text, lr_scale=scale)
        new = nn.ModuleDict(
            {name: part for name, part in self.named_children() if name not in ("vision", "text")}
        )
        groups += split_decay("new", new)
        check_groups(self, groups)
        return groups


def first_of_each(image_of: Tensor) -> Tensor:
    """[I] int64: the first row of image_of [B] that is about each image, in the order of images."""
    count = len(image_of)
    images = int(image_of.max()) + 1
    rows = torch.arange(count, device=image_of.device)
    first = torch.full((images,), count, device=image_of.device)
    return first.scatter_reduce(0, image_of, rows, "amin")


def in_net(logits: Tensor, net_hw: HW) -> Tensor:
    """[B, H, W] logits at the net's size of logits [B, h, w] on the grid."""
    return F.interpolate(logits[:, None], net_hw, mode="bilinear", align_corners=False)[:, 0]
