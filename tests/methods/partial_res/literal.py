"""SeqTR and Partial-RES written the slow, plain way: the twins that the fast code is held against.

Loops over expressions, positions, heads and cells, after the formulas; weights are borrowed from
the modules under test, sums and softmaxes are not. `whole_prefix` writes with a decoder that
begins anew at every step. At the end, what the tests build on: a decoder and something to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refseg.methods.partial_res import PartialResConfig
from refseg.methods.partial_res.decoder import Decoder
from refseg.methods.partial_res.modulation import PointModulation
from refseg.methods.partial_res.places import Grid, extents
from refseg.methods.partial_res.transformer import Memory
from refseg.types import Geometry

# -- places ----------------------------------------------------------------------------------


def valid_cells(geometry: Geometry, hw: tuple[int, int], stride: int) -> Tensor:
    """[H, W] bool: cells that share a net pixel with the image."""
    (height, width), (sx, sy), (ox, oy) = (
        geometry.original_hw,
        geometry.scale_xy,
        geometry.offset_xy,
    )
    found = torch.zeros(hw, dtype=torch.bool)
    for i in range(hw[0]):
        for j in range(hw[1]):
            for y in range(i * stride, (i + 1) * stride):
                for x in range(j * stride, (j + 1) * stride):
                    # The pixel's centre is in the image: the image has whole net pixels.
                    inside = 0 < x + 0.5 - ox < width * sx and 0 < y + 0.5 - oy < height * sy
                    found[i, j] |= inside
    return found


def sine_positions(valid: Tensor, width: int) -> Tensor:
    """[H, W] bool -> [H, W, width]: DETR's, normalised to 0..2 pi over the valid cells."""
    half = width // 2
    found = torch.zeros(*valid.shape, width)
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            row, rows = int(valid[: i + 1, j].sum()), int(valid[:, j].sum())
            column, columns = int(valid[i, : j + 1].sum()), int(valid[i].sum())
            for start, place, count in ((0, row, rows), (half, column, columns)):
                angle = 2 * math.pi * place / (count + 1e-6)
                for c in range(half):
                    wave = angle / 10_000 ** (2 * (c // 2) / half)
                    found[i, j, start + c] = math.sin(wave) if c % 2 == 0 else math.cos(wave)
    return found


# -- content (CCTF) --------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """memory: [B, H, W, D]; valid: [B, H, W] bool; side: net px (height, width)."""

    memory: Tensor
    valid: Tensor
    side: tuple[int, int]
    stride: int
    bins: int

    def intended(self, row: int, token: int, axis: int) -> Tensor:
        """The mean over the column under an x (axis 0), over the row beside a y; END: nothing."""
        memory, valid = self.memory[row], self.valid[row]
        total = torch.zeros(memory.shape[-1], dtype=memory.dtype)
        if token == self.bins:
            return total
        height, width = valid.shape
        # The pixel at the middle of the bin, in whole numbers: (t + 1/2) side / K.
        side = self.side[1] if axis == 0 else self.side[0]
        line = (2 * token + 1) * side // (2 * self.bins * self.stride)
        line = min(line, (width if axis == 0 else height) - 1)
        count = 0
        for other in range(height if axis == 0 else width):
            i, j = (other, line) if axis == 0 else (line, other)
            if valid[i, j]:
                total, count = total + memory[i, j], count + 1
        return total / count if count else total

    def swapped(self, row: int, token: int, axis: int) -> Tensor:
        """The released code: an x picks a row and a y a column; END does, too."""
        memory = self.memory[row]
        height, width = memory.shape[:2]
        total = torch.zeros(memory.shape[-1], dtype=memory.dtype)
        if axis == 0:
            i = token * (height - 1) // self.bins
            for j in range(width):
                total = total + memory[i, j]
            return total / width
        j = token * (width - 1) // self.bins
        for i in range(height):
            total = total + memory[i, j]
        return total / height

    def of(self, tokens: Tensor, axes: Sequence[int], mode: str) -> Tensor:
        """tokens [B, L] -> [B, L, D]; mode: PartialResConfig.cctf."""
        if mode == "off":
            return self.memory.new_zeros(*tokens.shape, self.memory.shape[-1])
        form = self.swapped if mode == "swapped" else self.intended
        rows = [
            torch.stack([form(b, int(t), axis) for t, axis in zip(row, axes, strict=True)])
            for b, row in enumerate(tokens)
        ]
        return torch.stack(rows)


# -- attention and its modulation (PMCA) -----------------------------------------------------


def modulation(module: PointModulation, queries: Tensor, valid: Tensor) -> Tensor:
    """queries [B, T, D], valid [B, H, W] -> G [B, M, T, H, W]."""
    batch, length, _ = queries.shape
    height, width = valid.shape[1:]
    heads = module.heads
    bias = queries.new_zeros(batch, heads, length, height, width)
    for b in range(batch):
        rows = [i for i in range(height) if valid[b, i].any()]
        columns = [j for j in range(width) if valid[b, :, j].any()]
        for t in range(length):
            told = module.mlp(queries[b, t])
            for h in range(heads):
                ux, uy = torch.sigmoid(told[2 * h]), torch.sigmoid(told[2 * h + 1])
                sx, sy = told[2 * heads + 2 * h], told[2 * heads + 2 * h + 1]
                mu_x = columns[0] + ux * len(columns)
                mu_y = rows[0] + uy * len(rows)
                for i in range(height):
                    for j in range(width):
                        across = sx**2 * (mu_x - (j + 0.5)) ** 2
                        down = sy**2 * (mu_y - (i + 0.5)) ** 2
                        bias[b, h, t, i, j] = -(across + down) / 8
    return bias


def attend(
    module: Any, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One expression, each head and each query by itself, hidden keys left out.

    query [T, D], keys and values [S, D], bias [M, T, S] or None -> ([T, D], [M, T, S]).
    """
    q, k, v = module.q(query), module.k(keys), module.v(values)
    each = q.shape[-1] // module.heads
    shares = q.new_zeros(module.heads, len(q), len(k))
    answers = []
    for t in range(len(q)):
        heard = []
        for h in range(module.heads):
            part = slice(h * each, (h + 1) * each)
            logits = torch.stack([q[t, part] @ k[s, part] / math.sqrt(each) for s in range(len(k))])
            if bias is not None:
                logits = logits + bias[h, t]
            share = q.new_zeros(len(k))
            there = ~logits.isinf()
            weight = (logits[there] - logits[there].max()).exp()
            share[there] = weight / weight.sum()
            shares[h, t] = share
            heard.append(sum(share[s] * v[s, part] for s in range(len(k))))
        answers.append(torch.cat(heard))
    return module.out(torch.stack(answers)), shares


def encoder_layer(layer: Any, x: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
    """Post-norm, one expression: x and positions [S, D], seen [S] bool."""
    hidden = torch.where(seen, 0.0, float("-inf")).expand(layer.attention.heads, len(x), -1)
    placed = x + positions
    x = layer.norms[0](x + attend(layer.attention, placed, placed, x, hidden)[0])
    return layer.norms[1](x + layer.mlp[3](layer.mlp[0](x).clamp(min=0)))


def decoder_states(decoder: Decoder, memory: Memory, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """inputs [B, T, D] -> states [B, T, D] and the last layer's cross-attention [B, M, T, S]."""
    length, cells = inputs.shape[1], memory.hw[0] * memory.hw[1]
    places = decoder.positions.weight[:length]
    causal = inputs.new_zeros(length, length)
    for t in range(length):
        causal[t, t + 1 :] = float("-inf")
    states, looks = [], []
    for b in range(len(inputs)):
        x, shares = inputs[b], torch.zeros(0)
        told, where = memory.tokens[b], memory.tokens[b] + memory.positions[b]
        for layer in decoder.layers:
            own, cross = layer.own, layer.cross
            heard, _ = attend(own, x + places, x + places, x, causal.expand(own.heads, -1, -1))
            x = layer.norms[0](x + heard)
            bias = inputs.new_zeros(cross.heads, length, len(told))
            if layer.modulation is not None:
                valid = memory.seen[b, :cells].reshape(1, *memory.hw)
                bias[..., :cells] += modulation(layer.modulation, x[None], valid)[0].flatten(2)
            bias[..., ~memory.seen[b]] = float("-inf")
            heard, shares = attend(cross, x + places, where, told, bias)
            x = layer.norms[1](x + heard)
            x = layer.norms[2](x + layer.mlp[3](layer.mlp[0](x).clamp(min=0)))
        states.append(decoder.norm(x))
        looks.append(shares)
    return torch.stack(states), torch.stack(looks)


# -- writing ---------------------------------------------------------------------------------


def inputs_of(decoder: Decoder, memory: Memory, grid: Grid, written: list[Tensor]) -> Tensor:
    """[TASK], then E[t] + g of the coordinates so far, part after part: [B, T, D]."""
    config = decoder.config
    height, width = memory.hw
    batch = len(memory.tokens)
    contents = Contents(
        memory.tokens[:, : height * width].reshape(batch, height, width, -1),
        memory.seen[:, : height * width].reshape(batch, height, width),
        grid.net_hw,
        grid.stride,
        config.sequence.bins,
    )
    begun: list[Tensor] = []
    for number, tokens in enumerate(written):
        begun.append(decoder.task[number].expand(batch, 1, -1))
        if tokens.shape[1]:
            axes = [place % 2 for place in range(tokens.shape[1])]
            brought = contents.of(tokens, axes, config.cctf)
            begun.append(decoder.coordinates.weight[tokens] + brought)
    return torch.cat(begun, dim=1)


@dataclass(frozen=True)
class Wrote:
    """tokens, chances [B, L]; logits [B, L, K + 1] of every step, before anything is forbidden;
    attention [B, M, L, S] of the last layer.
    """

    tokens: Tensor
    chances: Tensor
    logits: Tensor
    attention: Tensor


@torch.no_grad()
def whole_prefix(
    decoder: Decoder, memory: Memory, grid: Grid, forced: Tensor | None = None
) -> Wrote:
    """Greedy, the decoder run over the whole prefix at every step, to the last place.

    forced: [B, L], these are written instead of the likeliest.
    """
    sequence, end = decoder.config.sequence, decoder.config.sequence.bins
    counts = {
        "rec": [4],
        "res": [2 * sequence.points],
        "multi": [4, 2 * sequence.points],
    }[decoder.config.task]
    written: list[Tensor] = []
    tokens, chances, told, looks = [], [], [], []
    for part, count in enumerate(counts):
        box = decoder.config.task != "res" and part == 0
        written.append(torch.zeros(len(memory.tokens), 0, dtype=torch.int64))
        for at in range(count):
            inputs = inputs_of(decoder, memory, grid, written)
            states, looked = decoder.step(inputs, 0, decoder.start(memory))
            logits = decoder.predictor(states[:, -1])
            told.append(logits)
            looks.append(looked[:, :, -1])
            whole_points = at % 2 == 0 and at >= 6
            may_end = not box and (whole_points or not sequence.constrained)
            chance = logits.clone()
            if not may_end:
                chance[:, end] = float("-inf")
            chance, token = chance.softmax(dim=-1).max(dim=-1)
            if forced is not None:
                token = forced[:, len(tokens)]
            ended = (written[part] == end).any(dim=1)
            token = torch.where(ended, end, token)
            tokens.append(token)
            chances.append(torch.where(ended, 1.0, chance).float())
            looks[-1] = looks[-1] * ~ended[:, None, None]
            written[part] = torch.cat([written[part], token[:, None]], dim=1)
    return Wrote(
        torch.stack(tokens, 1), torch.stack(chances, 1), torch.stack(told, 1), torch.stack(looks, 2)
    )


# -- the loss --------------------------------------------------------------------------------


def smoothed_loss(
    logits: Tensor, wanted: Tensor, weights: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """1 / (B T) sum w (- sum_v q_v log p_v), token by token, and each token's term [B, T]."""
    batch, length, size = logits.shape
    each = torch.zeros(batch, length)
    for b in range(batch):
        for t in range(length):
            chance = logits[b, t].exp() / logits[b, t].exp().sum()
            for v in range(size):
                q = 1 - smoothing if v == wanted[b, t] else smoothing / size
                each[b, t] -= q * chance[v].log()
    return (weights * each).sum() / (batch * length), each


# -- what the tests look at ------------------------------------------------------------------


def a_decoder(config: PartialResConfig, seed: int = 0) -> Decoder:
    """A decoder of this configuration that listens: what it writes differs from row to row."""
    torch.manual_seed(seed)
    decoder = Decoder(config).eval()
    gains = {"own.": 1.0, "cross.": 3.0, "predictor.": 2.0, "layers.": 1.0}
    for name, parameter in decoder.named_parameters():
        gain = next((gain for part, gain in gains.items() if part in name), None)
        if "modulation.mlp" in name:
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim > 1 and gain is not None:
            nn.init.normal_(parameter, std=gain / math.sqrt(parameter.shape[1]))
    return decoder


def a_memory(
    config: PartialResConfig,
    valid: Tensor,
    net_hw: tuple[int, int],
    seed: int = 0,
) -> tuple[Memory, Grid]:
    """Random cells (and a sentence), of which `valid` [B, H, W] are of the image."""
    generator = torch.Generator().manual_seed(seed)
    hw = (valid.shape[1], valid.shape[2])
    more, width = int(config.language_token), config.transformer.width
    size = (len(valid), hw[0] * hw[1] + more, width)
    tokens, positions = (torch.randn(size, generator=generator) for _ in range(2))
    seen = torch.cat([valid.flatten(1), torch.ones(len(valid), more, dtype=torch.bool)], dim=1)
    memory = Memory(tokens, positions, seen, extents(valid), hw)
    return memory, Grid(hw, net_hw, config.fusion.grid)


def some_valid(*rectangles: tuple[int, int, int, int], hw: tuple[int, int]) -> Tensor:
    """[B, H, W] bool: cells in (first row, first column, rows, columns)."""
    valid = torch.zeros(len(rectangles), *hw, dtype=torch.bool)
    for b, (top, left, rows, columns) in enumerate(rectangles):
        valid[b, top : top + rows, left : left + columns] = True
    return valid
