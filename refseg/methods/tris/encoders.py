"""What both steps see and read with: four maps of an image, and the places of a cut sentence.

Letters: I images, B expressions, T words, L = `cut.length` places, D text width, E joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.methods.tris.config import CutConfig, Encoder
from refseg.nn.attention import tokens_to_map
from refseg.nn.clip import ClipTextConfig, ClipWords
from refseg.nn.clip_resnet import ClipResNet, ClipResNetConfig
from refseg.nn.resnet import ResNetPyramid, ResNetVisionConfig
from refseg.nn.vision import SwinPyramid


class Pyramid(nn.Module):
    """images [I, 3, H, W] -> maps [I, C_i, h_i, w_i] of an encoder's first `stages`, finest first.

    channels: of all four. What lies behind the last map that is given is neither run nor trained.
    """

    def __init__(self, config: Encoder, stages: int = 4) -> None:
        super().__init__()
        self.trunk: ClipResNet | ResNetPyramid | SwinPyramid
        if isinstance(config, ClipResNetConfig):
            self.trunk = ClipResNet(config)
        elif isinstance(config, ResNetVisionConfig):
            self.trunk = ResNetPyramid(config)
        else:
            self.trunk = SwinPyramid(config)
        self.channels = config.channels
        self.stages = stages
        self._rest()

    def _rest(self) -> None:
        """Freeze the stages that are not run, and a pool, which no map needs."""
        trunk = self.trunk
        if isinstance(trunk, SwinPyramid):
            trunk.rest(self.stages)
            return
        if isinstance(trunk, ResNetPyramid):
            stages = list(trunk.resnet.encoder.stages)
        else:
            stages = [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
            if trunk.attnpool is not None:
                trunk.attnpool.requires_grad_(False)
        for stage in stages[self.stages :]:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.trunk, SwinPyramid):
            return [tokens_to_map(x, hw) for x, hw in self.trunk(images, stages=self.stages)]
        maps: list[Tensor] = self.trunk(images, stages=self.stages)
        return maps

    def hub_part(self) -> tuple[nn.Module, str]:
        """What may start from others' weights, and its name in task models."""
        if isinstance(self.trunk, SwinPyramid):
            return self.trunk.swin, "swin."
        if isinstance(self.trunk, ResNetPyramid):
            return self.trunk.resnet, "resnet."
        return self.trunk, ""


def build_pyramid(config: Encoder, stages: int = 4) -> Pyramid:
    """The image encoder of a configuration; see `Pyramid`."""
    return Pyramid(config, stages)


def cut_words(words: Tensor, word_mask: Tensor, cut: CutConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The first L places of sentences: ids [B, L], which are real [B, L], the end's place [B].

    words, word_mask: [B, T], real ids in front. Always L places, filled up with id 0, so that what
    reads padding reads as much of it whatever else is in the batch. A longer sentence keeps its end
    at the last place (`keep_end`), or loses it: its end is then said to be 0, the start's place,
    where the released code's search for the largest id ends up.
    """
    count = word_mask.sum(dim=1, keepdim=True)
    more = cut.length - words.shape[1]  # negative: so many places are cut off
    ids = F.pad(words.masked_fill(~word_mask, 0), (0, more))
    real = F.pad(word_mask, (0, more))
    long = count > cut.length
    end = (count - 1).clamp(max=cut.length - 1)
    if not cut.keep_end:
        return ids, real, end.masked_fill(long, 0)[:, 0]
    last = words.gather(1, count - 1)
    ids[:, -1:] = torch.where(long, last, ids[:, -1:])
    return ids, real, end[:, 0]


@dataclass(frozen=True)
class Read:
    """states: [B, L, D] of all places. mask: [B, L], the real ones. sentence: [B, E], the state at
    the end, projected; None where none was asked for.
    """

    states: Tensor
    mask: Tensor
    sentence: Tensor | None


class TextReader(nn.Module):
    """words, word_mask [B, T] -> `Read`: CLIP's text encoder over the places of a cut sentence.

    sentence: False freezes the projection, which only a sentence's vector needs.
    """

    def __init__(self, config: ClipTextConfig, cut: CutConfig, *, sentence: bool = True) -> None:
        super().__init__()
        self.cut = cut
        self.words = ClipWords(config)
        self.sentence = sentence
        if not sentence:
            self.words.projection.requires_grad_(False)

    def forward(self, words: Tensor, word_mask: Tensor) -> Read:
        ids, real, end = cut_words(words, word_mask, self.cut)
        # No state sees what is behind it: padding as seen as words are changes only its own.
        states, _ = self.words(ids, torch.ones_like(real))
        if not self.sentence:
            return Read(states, real, None)
        rows = torch.arange(len(ids), device=ids.device)
        return Read(states, real, self.joint(states[rows, end]))

    def joint(self, states: Tensor) -> Tensor:
        """States [..., D] in the joint space, [..., E]; not of unit length."""
        projected: Tensor = self.words.projection(states)
        return projected

    def cut_for_judge(self, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, L] for a judge that reads a sentence at the last place of its mask."""
        ids, _, end = cut_words(words, word_mask, self.cut)
        return ids, torch.arange(ids.shape[1], device=ids.device) <= end[:, None]

    def hub_part(self) -> tuple[nn.Module, str]:
        """What may start from others' weights, and its name in task models."""
        return self.words, ""
