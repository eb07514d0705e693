"""The decoder: from a prefix of coordinates to what comes next (SeqTR, CCTF, PMCA, [TASK]).

Letters: B expressions, T positions, L coordinates, D width, M heads, S memory tokens, K bins.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from refseg.methods.partial_res.config import PartialResConfig
from refseg.methods.partial_res.content import Content
from refseg.methods.partial_res.places import Grid, line_of_sines
from refseg.methods.partial_res.sequence import Layout
from refseg.methods.partial_res.transformer import DecoderLayer, LayerState, Memory


class Decoder(nn.Module):
    """Teacher-forced by `forward`; one position after another by `start` and `step`."""

    def __init__(self, config: PartialResConfig) -> None:
        super().__init__()
        width, size = config.transformer.width, config.sequence.bins + 1
        self.config, self.layout = config, Layout.of(config)
        self.coordinates = nn.Embedding(size, width)
        if config.sequence.sines:
            with torch.no_grad():
                self.coordinates.weight[:-1] = line_of_sines(size - 1, width)
        self.positions = nn.Embedding(self.layout.length, width)
        tokens = torch.zeros(len(self.layout.parts), width)
        self.task: Tensor
        if config.task_token == "zero":
            self.register_buffer("task", tokens, persistent=False)
        else:
            self.task = nn.Parameter(nn.init.normal_(tokens))
        self.layers = nn.ModuleList(
            DecoderLayer(config.transformer, config.pmca)
            for _ in range(config.transformer.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        hidden = [
            part
            for _ in range(config.transformer.predictor - 1)
            for part in (nn.Linear(width, width), nn.ReLU())
        ]
        self.predictor = nn.Sequential(*hidden, nn.Linear(width, size))

    def content(self, memory: Memory, grid: Grid) -> Content | None:
        """What coordinates bring; None without CCTF."""
        mode = self.config.cctf
        if mode == "off":
            return None
        height, width = grid.hw
        seen = memory.seen[:, : height * width].reshape(-1, height, width)
        swapped = mode == "swapped"
        return Content.of(memory.cells, seen, grid, self.config.sequence.bins, swapped=swapped)

    def embed(self, tokens: Tensor, axes: Tensor, content: Content | None) -> Tensor:
        """e = E[t] + g, [B, L] -> [B, L, D]. axes: [L], 0 for x and 1 for y."""
        embedded: Tensor = self.coordinates(tokens)
        if content is not None:
            embedded = embedded + content.of_tokens(tokens, axes)
        return embedded

    def start(self, memory: Memory) -> list[LayerState]:
        """Nothing written yet; the memory's keys are projected here, once."""
        layers = cast("list[DecoderLayer]", list(self.layers))
        return [LayerState(layer, memory) for layer in layers]

    def step(self, embedded: Tensor, first: int, state: list[LayerState]) -> tuple[Tensor, Tensor]:
        """The next positions, from number `first` on: their inputs [B, T, D] -> states [B, T, D].

        Returns also the last layer's cross-attention [B, M, T, S].
        """
        x = embedded
        places = self.positions.weight[first : first + x.shape[1]]
        attention = x
        for layer, kept in zip(self.layers, state, strict=True):
            x, attention = layer(x, places, kept)
        return self.norm(x), attention

    def forward(self, memory: Memory, grid: Grid, tokens: Tensor) -> Tensor:
        """tokens: [B, L], the true coordinates -> logits [B, T, K + 1] of what comes next."""
        content = self.content(memory, grid)
        axes = torch.tensor(self.layout.axes, device=tokens.device)
        embedded = self.embed(tokens, axes, content)
        begun = []
        for number, part in enumerate(self.layout.split(embedded)):
            begun += [self.task[number].expand(len(tokens), 1, -1).to(part.dtype), part]
        states, _ = self.step(torch.cat(begun, dim=1), 0, self.start(memory))
        logits: Tensor = self.predictor(states)
        return logits
