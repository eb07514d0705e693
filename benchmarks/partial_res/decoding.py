"""Writing 12 points: every key kept, beside the whole prefix read anew at every step.

A decoder with random weights that never ends early, at the sizes of `partial_res_scenes` and of
the paper (the memory is random, too: what an image costs is not measured). The slow form is the
papers': all of the prefix goes through all layers for each coordinate, and the memory's keys and
values are projected each time. Between them, a form that keeps the memory's alone. Before anything
is timed, all must write the same tokens with the same probabilities.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.mutual.measuring import Table, compared, gmacs, quietly, same
from refseg.methods.partial_res.config import PartialResConfig
from refseg.methods.partial_res.decoder import Decoder
from refseg.methods.partial_res.generate import generate
from refseg.methods.partial_res.places import Grid
from refseg.methods.partial_res.transformer import LayerState, Memory
from refseg.recipes.partial_res import partial_res_scenes

SLOW, BETWEEN, OURS = "whole prefix, memory projected anew", "whole prefix, memory kept", "ours"


def decoding(runs: int = 5) -> dict[str, Table]:
    """By size: the forms with "ms" a batch, "per_second" expressions, "gmacs", "as_fast"."""
    small = partial_res_scenes().method
    assert isinstance(small, PartialResConfig)
    sizes = [(f"scenes, {batch} expressions", small, (8, 8), batch) for batch in (1, 8, 64)]
    sizes += [("paper size, 8 expressions", PartialResConfig(), (20, 20), 8)]
    return {title: measured(config, hw, batch, runs) for title, config, hw, batch in sizes}


def measured(config: PartialResConfig, hw: tuple[int, int], batch: int, runs: int) -> Table:
    decoder, memory, grid = ready(config, hw, batch)
    tasks = {
        SLOW: partial(quietly, whole_prefix, decoder, memory, grid, False),
        BETWEEN: partial(quietly, whole_prefix, decoder, memory, grid, True),
        OURS: partial(quietly, kept, decoder, memory, grid),
    }
    written = [task() for task in tasks.values()]
    assert bool((written[0][0] < config.sequence.bins).all()), "it ended early"
    for tokens, chances in written[1:]:
        assert torch.equal(tokens, written[0][0]), "other tokens"
        same(chances, written[0][1], "chances")
    table = compared(tasks, runs)
    for name, task in tasks.items():
        table[name] |= {"per_second": 1000 * batch / table[name]["ms"], "gmacs": gmacs(task)}
    return table


def ready(
    config: PartialResConfig, hw: tuple[int, int], batch: int
) -> tuple[Decoder, Memory, Grid]:
    """A decoder that never ends early, and something to look at."""
    torch.manual_seed(0)
    decoder = Decoder(config).eval().requires_grad_(False)
    for layer in decoder.layers:
        if layer.modulation is not None:
            layer.modulation.start()
    decoder.predictor[-1].bias[config.sequence.bins] = -1000.0
    size = (batch, hw[0] * hw[1] + config.language_token, config.transformer.width)
    extents = torch.tensor([[0.0, 0.0, hw[1], hw[0]]]).expand(batch, -1)
    seen = torch.ones(size[:2], dtype=torch.bool)
    memory = Memory(torch.randn(size), torch.randn(size), seen, extents, hw)
    stride = config.fusion.grid
    return decoder, memory, Grid(hw, (hw[0] * stride, hw[1] * stride), stride)


def kept(decoder: Decoder, memory: Memory, grid: Grid) -> tuple[Tensor, Tensor]:
    """Ours: tokens and chances [B, 2N]."""
    written = generate(decoder, memory, grid)
    return written.tokens, written.chances


def whole_prefix(
    decoder: Decoder, memory: Memory, grid: Grid, keep_memory: bool
) -> tuple[Tensor, Tensor]:
    """The same, all positions so far run through the decoder for each coordinate."""
    content, begun = decoder.content(memory, grid), decoder.start(memory)
    embedded = decoder.task[0].expand(len(memory.tokens), 1, -1)
    tokens, chances = [], []
    for at in range(2 * decoder.config.sequence.points):
        state = [forgetful(layer) for layer in begun] if keep_memory else decoder.start(memory)
        states, _ = decoder.step(embedded, 0, state)
        chance, token = decoder.predictor(states[:, -1]).softmax(dim=-1).max(dim=-1)
        tokens.append(token)
        chances.append(chance)
        axis = torch.tensor([at % 2])
        embedded = torch.cat([embedded, decoder.embed(token[:, None], axis, content)], dim=1)
    return torch.stack(tokens, dim=1), torch.stack(chances, dim=1)


def forgetful(layer: LayerState) -> LayerState:
    """The layer's state with the memory's keys and nothing written."""
    state = object.__new__(LayerState)
    state.__dict__ = {**layer.__dict__, "own": None}
    return state
