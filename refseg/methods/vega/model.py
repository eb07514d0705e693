"""VEGA: Visual Expression Guidance for Referring Expression Segmentation.

Paper map:
  section 3.1  words fused into each Swin stage   -> `VegaEncoder`, fusion.py (LAVT's form)
  section 3.2  visual information selection       -> selection.py (Eq. 1 to 4)
  Table 2      the guidance set G = {Q_l, Q_v}    -> `Vega._guidance`
  section 3.3  decoder that listens to G          -> decoder.py
  Eq. 5, BCE                                      -> loss.py
  masks in px                                     -> decode.py

We differ:
- the gate of the last stage, which the official LAVT builds and never uses, is not built;
- padded words are masked everywhere, so padding cannot change an answer;
- what no expression changes (stem and first stage, or the whole encoder with late fusion) runs
  once per image, however many expressions ask about it.
The paper's contradictions and silences are decided in config.py, field by field.
Letters: B expressions, I images, T words, N pixels, C channels, D text width, G guidance tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.vega.config import VegaConfig
from refseg.methods.vega.decode import decode
from refseg.methods.vega.decoder import GuidedDecoder
from refseg.methods.vega.fusion import LanguageGate, PixelWordFusion
from refseg.methods.vega.loss import VegaLoss
from refseg.methods.vega.selection import Selected, VisualSelection
from refseg.nn.attention import AttentionBlock, tokens_to_map
from refseg.nn.text import BertWords
from refseg.nn.vision import HW, SwinPyramid
from refseg.types import Batch, Labels, Prediction


@dataclass(frozen=True)
class ImageState:
    """What is known of I images before any expression: tokens per level computed so far."""

    levels: tuple[Tensor, ...]
    sizes: tuple[HW, ...]


@dataclass(frozen=True)
class VegaOutputs:
    """logits: [B, K, h, w] at the finest level (K = 1, or 2 with the two-class head).

    selected: the selection module's scores and choices, None with language-only guidance.
    selection_hw: the grid its N pixels lie on. words: [B, T, D] raw word features.
    """

    logits: Tensor
    words: Tensor
    selected: Selected | None
    selection_hw: HW

    @property
    def probability(self) -> Tensor:
        """Foreground probability [B, h, w], float32."""
        logits = self.logits.float()
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        return logits.softmax(dim=1)[:, 1]


class VegaEncoder(nn.Module):
    """Swin with words fused into its stages; gives the decoder LayerNorm(fused residual)."""

    def __init__(self, config: VegaConfig) -> None:
        super().__init__()
        self.mode = config.fusion
        self.pyramid = SwinPyramid(config.vision)
        channels = self.pyramid.channels
        fused = {"early": range(4), "late": range(3, 4), "none": range(0)}[config.fusion]
        self.fusion = nn.ModuleDict(
            {
                str(i): PixelWordFusion(channels[i], config.text.width, config.fusion_heads)
                for i in fused
            }
        )
        self.gates = nn.ModuleDict(
            {str(i): LanguageGate(channels[i], config.gate_zero_init) for i in fused if i < 3}
        )
        self.norms = nn.ModuleList([nn.LayerNorm(c) for c in channels])

    def encode_image(self, images: Tensor) -> ImageState:
        """The part no expression changes: all of Swin, or its first stage with early fusion."""
        if self.mode != "early":
            levels = self.pyramid(images)
            return ImageState(tuple(x for x, _ in levels), tuple(hw for _, hw in levels))
        tokens, hw = self.pyramid.stem(images)
        return ImageState((self.pyramid.blocks(0, tokens, hw),), (hw,))

    def forward(
        self, state: ImageState, image_of: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[list[Tensor], list[HW]]:
        """Per stage tokens [B, N_i, C_i] for the decoder, and their (h_i, w_i)."""
        if self.mode != "early":
            tokens = [x[image_of] for x in state.levels]
            if self.mode == "late":
                tokens[3] = self.fusion["3"](tokens[3], words, word_mask)
            outputs = [norm(x) for norm, x in zip(self.norms, tokens, strict=True)]
            return outputs, list(state.sizes)
        x, hw = state.levels[0][image_of], state.sizes[0]
        outputs, sizes = [], []
        for i in range(4):
            if i:
                x = self.pyramid.blocks(i, x, hw)
            residual = self.fusion[str(i)](x, words, word_mask)
            outputs.append(self.norms[i](residual))
            sizes.append(hw)
            if i < 3:
                x, hw = self.pyramid.merge(i, self.gates[str(i)](x, residual), hw)
        return outputs, sizes


class Vega(nn.Module):
    """The method (see `refseg.method.Method`)."""

    needs: ClassVar[Labels] = Labels(frozenset({"mask"}))

    def __init__(self, config: VegaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text.width
        self.text = BertWords(config.text)
        self.encoder = VegaEncoder(config)
        channels = config.vision.channels
        stage_channels = channels[config.selection.stage - 1]
        parts = config.guidance.split("+")
        self.enhance = (
            AttentionBlock(width, config.selection.heads, norm_keys=True)
            if "enhanced" in parts
            else None
        )
        self.enhance_pixels = nn.Linear(stage_channels, width) if "enhanced" in parts else None
        self.select = (
            VisualSelection(config.selection, stage_channels, width) if "visual" in parts else None
        )
        self.decoder = GuidedDecoder(config.decoder, channels, width)
        self.objective = VegaLoss(config.loss, contrastive=self.select is not None)

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest expression, in tokens, that each part has places for: key -> tokens."""
        limits = {"text.max_positions": self.config.text.max_positions}
        if self.select is not None and self.select.queries is not None:
            limits["selection.max_tokens"] = len(self.select.queries)
        return limits

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from the hub's weights: kind -> (module, its name in task models)."""
        return {"vision": (self.encoder.pyramid.swin, "swin."), "text": (self.text.bert, "bert.")}

    def encode_image(self, batch: Batch) -> ImageState:
        """The batch's I images -> state that `answer` takes for any number of expressions."""
        return self.encoder.encode_image(batch.images)

    def answer(self, state: ImageState, batch: Batch) -> VegaOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        words = self.text(batch.words, batch.word_mask)
        levels, sizes = self.encoder(state, batch.image_of, words, batch.word_mask)
        stage = self.config.selection.stage - 1
        guidance, mask, selected = self._guidance(words, batch.word_mask, levels[stage])
        maps = [tokens_to_map(x, hw) for x, hw in zip(levels, sizes, strict=True)]
        logits = self.decoder(maps, guidance, mask)
        return VegaOutputs(logits, words, selected, sizes[stage])

    def forward(self, batch: Batch) -> VegaOutputs:
        """Batch of B expressions about I images -> outputs; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    def _guidance(
        self, words: Tensor, word_mask: Tensor, pixels: Tensor
    ) -> tuple[Tensor, Tensor, Selected | None]:
        """The guidance set [B, G, D], its mask [B, G], and the selection (Table 2)."""
        tokens, masks = [], []
        if self.enhance is not None and self.enhance_pixels is not None:
            tokens.append(self.enhance(words, self.enhance_pixels(pixels)))
            masks.append(word_mask)
        elif self.config.guidance != "visual":
            tokens.append(words)
            masks.append(word_mask)
        selected = None if self.select is None else self.select(words, word_mask, pixels)
        if selected is not None:
            tokens.append(selected.guidance)
            masks.append(selected.guidance_mask)
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1), selected

    def loss(self, outputs: VegaOutputs, batch: Batch) -> dict[str, Tensor]:
        """Named terms and "total"; see loss.py."""
        selected = outputs.selected
        terms: dict[str, Tensor] = self.objective(
            outputs.logits,
            None if selected is None else selected.global_scores,
            outputs.selection_hw,
            batch,
        )
        return terms

    def loss_weight(self, batch: Batch) -> float:
        """What the losses are a mean over, so that unequal slices add up to the whole batch's."""
        known = batch.weights if batch.has_mask is None else batch.weights * batch.has_mask
        return max(float(known.sum()), 1e-6)  # a batch without masks must not divide by zero

    def decode(self, outputs: VegaOutputs, batch: Batch) -> list[Prediction]:
        """One mask per expression in px; see decode.py."""
        selected = outputs.selected
        scores = None if selected is None else selected.global_scores
        return decode(outputs.probability, scores, outputs.selection_hw, batch)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Swin, BERT (`text_lr_scale`), new parts (`new_lr_scale`), the temperature: each once."""
        scale = self.config.new_lr_scale
        groups = split_decay("vision", self.encoder.pyramid)
        groups += split_decay("text", self.text, lr_scale=self.config.text_lr_scale)
        new = nn.ModuleDict(
            {name: part for name, part in self.named_children() if name not in ("text", "encoder")}
        )
        new["fusion"], new["gates"] = self.encoder.fusion, self.encoder.gates
        new["norms"] = self.encoder.norms
        groups += split_decay("new", new, lr_scale=scale)
        check_groups(self, groups)
        return groups
