"""Learning to Segment Every Referring Object Point by Point (Partial-RES, CVPR 2023), on SeqTR.

Paper map (the formulas are those of the released code; the text was not to be had):
  SeqTR     fusion tanh(V) * tanh(y)               -> fusion.py, `PartialRes.answer`
            encoder, decoder                       -> transformer.py, decoder.py
            sequences, contour sampling            -> sequence.py, refseg/ops/contours.py
            token cross-entropy                    -> loss.py
            greedy decoding, masks                 -> generate.py, decode.py
  3.1       language token in the encoder          -> `PartialRes._memory`
  3.2       learnable [TASK]                       -> `Decoder.task`
  3.3       CCTF                                   -> content.py
  3.4       PMCA                                   -> modulation.py
  3.5       RPP                                    -> refseg/label (masks that fit a known box)
  stages    REC on boxes, RES from it              -> start.py, refseg/recipes/partial_stages.py

We differ, each with a switch back to the code's form where it has a meaning:
- CCTF reads the column of an x and the row of a y (cctf="swapped": the code's crossing);
- exactly N points an outline, equal in arc length, on the pixels' edges (sequence.contour);
- a bin stands for its centre (sequence.bin_centre), END only behind whole polygons
  (sequence.constrained), and two points are nothing instead of a box;
- PMCA starts nearly flat (pmca.scale); frozen batch norms keep their statistics;
- padding, of words and of pixels, changes nothing; coordinates belong to the net image that the
  grid covers; the memory's keys are projected once and every key of the prefix is kept.
Letters: B expressions, I images, S = H W (+ 1) memory tokens, D width, C channels of V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.partial_res.config import TOKEN_GROUPS, PartialResConfig
from refseg.methods.partial_res.decode import predictions
from refseg.methods.partial_res.decoder import Decoder
from refseg.methods.partial_res.fusion import BottomUp, Levels
from refseg.methods.partial_res.generate import Written, generate
from refseg.methods.partial_res.loss import inside_loss, sequence_loss
from refseg.methods.partial_res.modulation import PointModulation
from refseg.methods.partial_res.places import Grid, extents, valid_cells
from refseg.methods.partial_res.sequence import jittered, targets
from refseg.methods.partial_res.start import Taken, take_over
from refseg.methods.partial_res.transformer import EncoderLayer, Memory, hiding
from refseg.nn.gru import GruTextConfig, GruWords, max_over_words
from refseg.nn.positions import sine_positions
from refseg.nn.text import BertWords
from refseg.nn.vision import SwinPyramid
from refseg.types import Batch, Labels, Prediction

_NEEDS = {"rec": "box", "res": "mask", "multi": "box+mask"}


@dataclass(frozen=True)
class ImageState:
    """tanh(V) of I images, [I, C, H, W]."""

    features: Tensor


@dataclass(frozen=True)
class PartialResOutputs:
    """memory: what the decoder looks at, of B expressions. grid: its cells in the net image."""

    memory: Memory
    grid: Grid


class PartialRes(nn.Module):
    """The method (see `refseg.method.Method`)."""

    def __init__(self, config: PartialResConfig) -> None:
        super().__init__()
        self.config = config
        fusion, width = config.fusion, config.transformer.width
        self.levels = Levels(config.vision, fusion.strides, frozen=config.freeze_vision)
        self.fuse = BottomUp(fusion, self.levels.channels)
        self.text: GruWords | BertWords
        gru = isinstance(config.text, GruTextConfig)
        self.text = GruWords(config.text) if gru else BertWords(config.text)  # type: ignore[arg-type]
        said = self.text.width
        self.sentence = nn.Sequential()
        if said != fusion.width:
            self.sentence.append(nn.Linear(said, fusion.width))
        if fusion.normed:
            self.sentence.append(nn.LayerNorm(fusion.width))
        self.project = nn.Linear(fusion.width, width)
        self.group = nn.GroupNorm(TOKEN_GROUPS, width)
        self.encoder = nn.ModuleList(
            EncoderLayer(config.transformer) for _ in range(config.transformer.encoder_layers)
        )
        self.decoder = Decoder(config)
        self.inside = nn.Linear(width, 1) if config.asks_inside else None
        self._start()

    @property
    def needs(self) -> Labels:
        """Boxes for "rec", masks for "res", both for "multi"."""
        return Labels.parse(_NEEDS[self.config.task])

    @property
    def word_limits(self) -> dict[str, int]:
        """The longest expression that the text encoder has places for; a GRU takes any."""
        if isinstance(self.config.text, GruTextConfig):
            return {}
        return {"text.max_positions": self.config.text.max_positions}

    def hub_parts(self) -> dict[str, tuple[nn.Module, str]]:
        """What may start from the hub's weights: kind -> (module, its name in task models)."""
        backbone = self.levels.backbone
        parts: dict[str, tuple[nn.Module, str]] = {"vision": (backbone, "")}
        if isinstance(backbone, SwinPyramid):
            parts["vision"] = backbone.swin, "swin."
        if isinstance(self.text, BertWords):
            parts["text"] = self.text.bert, "bert."
        return parts

    def _start(self) -> None:
        """Xavier's uniform on the transformer's matrices (SeqTR); PMCA's own after that."""
        for part in (self.encoder, self.decoder.layers, self.decoder.predictor):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for layer in self.decoder.layers:
            if isinstance(layer.modulation, PointModulation):
                layer.modulation.start()

    def train(self, mode: bool = True) -> PartialRes:
        """As any module's; a frozen backbone does not drop anything out."""
        super().train(mode)
        if self.levels.frozen:
            self.levels.eval()
        return self

    def encode_image(self, batch: Batch) -> ImageState:
        """The batch's I images -> state that `answer` takes for any number of expressions."""
        return ImageState(self.fuse(self.levels(batch.images)).tanh())

    def answer(self, state: ImageState, batch: Batch) -> PartialResOutputs:
        """The same outputs as `forward(batch)`, the image part not repeated."""
        grid = Grid(
            (state.features.shape[2], state.features.shape[3]),
            batch.geometry[0].net_hw,
            self.config.fusion.grid,
        )
        said = self.sentence(self._said(batch)).tanh()
        joined = state.features[batch.image_of].flatten(2).transpose(1, 2) * said[:, None]
        if self.config.language_token:
            joined = torch.cat([joined, said[:, None]], dim=1)
        return PartialResOutputs(self._memory(joined, batch, grid), grid)

    def forward(self, batch: Batch) -> PartialResOutputs:
        """Batch of B expressions about I images -> outputs; labels are not read."""
        return self.answer(self.encode_image(batch), batch)

    def _said(self, batch: Batch) -> Tensor:
        """The sentence y [B, width of the text]: the maximum over its words."""
        if isinstance(self.text, GruWords):
            sentence: Tensor = self.text(batch.words, batch.word_mask)[1]
            return sentence
        return max_over_words(self.text(batch.words, batch.word_mask), batch.word_mask)

    def _memory(self, joined: Tensor, batch: Batch, grid: Grid) -> Memory:
        """joined: [B, S, C]. A sentence among them has no place and is always seen."""
        valid = valid_cells(batch.geometry, grid).to(joined.device)
        seen = valid.flatten(1)
        positions = sine_positions(valid, self.config.transformer.width).flatten(1, 2)
        if self.config.language_token:
            seen = torch.nn.functional.pad(seen, (0, 1), value=True)
            positions = torch.nn.functional.pad(positions, (0, 0, 0, 1))
        x = self.group(self.project(joined).transpose(1, 2)).transpose(1, 2)
        if self.config.transformer.placed:
            x = x + positions
        hidden = hiding(seen[:, None, None])
        for layer in self.encoder:
            x = layer(x, positions, hidden)
        return Memory(x, positions, seen, extents(valid), grid.hw)

    def loss(self, outputs: PartialResOutputs, batch: Batch) -> dict[str, Tensor]:
        """Teacher-forced: the true coordinates go in, the next ones are asked for."""
        shuffle = self.training and self.config.sequence.shuffle > 0
        # torch's generator is seeded for every step, so the order resumes with the run.
        rng = np.random.default_rng(int(torch.randint(2**31, ()))) if shuffle else None
        wanted = targets(batch, self.config, rng)
        logits = self.decoder(outputs.memory, outputs.grid, self._given(wanted.tokens))
        terms = sequence_loss(logits, wanted, self.config.loss, batch.weights)
        if self.inside is None or batch.boxes is None:
            return terms
        asked = self.inside(outputs.memory.cells)[..., 0]
        inside = inside_loss(asked, outputs.grid.covered(batch.boxes), batch.weights, wanted.known)
        total = terms["total"] + self.config.loss.inside * inside
        return {**terms, "inside": inside, "total": total}

    def _given(self, tokens: Tensor) -> Tensor:
        """What goes into the decoder: true coordinates, or while learning ones nearby."""
        sequence = self.config.sequence
        if not (self.training and sequence.jitter):
            return tokens
        return jittered(tokens, self.decoder.layout, sequence.bins, sequence.jitter)

    def loss_weight(self, batch: Batch) -> float:
        """What a batch's mean runs over: the weights of the rows whose labels are known."""
        known = torch.ones(len(batch), dtype=torch.bool, device=batch.weights.device)
        if self.config.task != "res":
            stated = None if batch.boxes is None else batch.boxes.isfinite().all(dim=1)
            known = known & stated if stated is not None else torch.zeros_like(known)
        if self.config.task != "rec":
            known = known & batch.has_mask if batch.has_mask is not None else known & False
        return max(float((batch.weights * known).sum()), 1e-6)  # a batch may know nothing

    @torch.no_grad()
    def coordinates(self, outputs: PartialResOutputs) -> Written:
        """The coordinates, with their probabilities and where each looked."""
        return generate(self.decoder, outputs.memory, outputs.grid)

    def decode(self, outputs: PartialResOutputs, batch: Batch) -> list[Prediction]:
        """One prediction per expression, in px."""
        return predictions(self.coordinates(outputs), self.config, batch.geometry, outputs.grid.hw)

    def take_over(self, state: Mapping[str, Tensor], source: str) -> Taken:
        """Begin from the weights of a model for the other task; see start.py. Raises ModelError."""
        return take_over(self, state, source)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter once; coordinate and word tables do not decay."""
        config = self.config
        scales = {"levels": config.vision_lr_scale, "text": config.text_lr_scale}
        groups = [
            group
            for name, part in self.named_children()
            for group in split_decay(name, part, lr_scale=scales.get(name, 1.0), embeddings=False)
        ]
        check_groups(self, groups)
        return groups
