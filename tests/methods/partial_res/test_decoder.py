"""Keys kept, batches and an early stop change nothing: the decoder against its slow twins.

In float64, but for the modulation, which is float32 whatever the rest is: 1e-6 is its rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import PmcaConfig, SequenceConfig
from refseg.methods.partial_res.decoder import Decoder
from refseg.methods.partial_res.generate import generate
from refseg.methods.partial_res.places import Grid
from refseg.methods.partial_res.transformer import Memory
from tests.methods.partial_res import literal
from tests.methods.partial_res.literal import a_decoder, a_memory, some_valid
from tests.methods.toy import rows_of, toy_batch, toy_method, toy_samples, with_padding
from tests.methods.toy_configs import partial_res_config

BINS, POINTS, HW = 24, 5, (3, 4)
VALID = ((0, 0, 3, 4), (0, 0, 2, 4), (1, 1, 2, 3), (0, 0, 3, 4), (0, 2, 3, 1))
TASKS = {
    "rec": {"task": "rec", "task_token": "zero"},
    "res": {"task": "res", "task_token": "learnable"},
    "multi": {"task": "multi", "task_token": "task-wise"},
}
# What Partial-RES adds, on and off.
ADDED: dict[str, dict[str, Any]] = {
    "all": {},
    "no PMCA": {"pmca": PmcaConfig(on=False)},
    "no CCTF": {"cctf": "off"},
    "CCTF swapped": {"cctf": "swapped"},
    "no sentence": {"language_token": False},
    "none": {"pmca": PmcaConfig(on=False), "cctf": "off", "language_token": False},
}


def config(task: str, constrained: bool = True, **changes: Any) -> PartialResConfig:
    written = SequenceConfig(points=POINTS, bins=BINS, constrained=constrained)
    return partial_res_config(**{**TASKS[task], "sequence": written, **changes})


def ready(made: PartialResConfig, seed: int = 0, end: float = 0.0) -> tuple[Decoder, Memory, Grid]:
    """A decoder and five things to look at, in float64. end: added to END's logit."""
    decoder = a_decoder(made, seed).double()
    with torch.no_grad():
        decoder.predictor[-1].bias[BINS] += end
    memory, grid = a_memory(made, some_valid(*VALID, hw=HW), (24, 32), seed)
    tokens, positions = memory.tokens.double(), memory.positions.double()
    return decoder, replace(memory, tokens=tokens, positions=positions), grid


def ends_of(tokens: Tensor) -> list[int]:
    """How many coordinates of the contour are written before END."""
    return (tokens[:, -2 * POINTS :] < BINS).long().cumprod(dim=1).sum(dim=1).tolist()


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_kept_keys_write_what_the_whole_prefix_does(task: str, added: str) -> None:
    decoder, memory, grid = ready(config(task, **ADDED[added]))
    ours, twin = generate(decoder, memory, grid), literal.whole_prefix(decoder, memory, grid)
    assert torch.equal(ours.tokens, twin.tokens)
    torch.testing.assert_close(ours.chances, twin.chances, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.attention, twin.attention, atol=1e-6, rtol=0)
    assert len({tuple(row) for row in ours.tokens.tolist()}) > 1  # what is seen matters
    assert ours.chances.min() > 0


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_steps_have_the_logits_of_the_whole_prefix(task: str) -> None:
    decoder, memory, grid = ready(config(task))
    twin = literal.whole_prefix(decoder, memory, grid)
    logits = stepped(decoder, memory, grid, twin.tokens)
    assert (logits - twin.logits).abs().max() < 1e-6
    assert twin.logits.std() > 0.1


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_in_single_precision_logits_differ_by_less_than_1e_5(task: str) -> None:
    """As a method is built, not made to listen: 12 points, 1000 bins."""
    torch.manual_seed(0)
    decoder = PartialRes(partial_res_config(**TASKS[task])).decoder.eval()
    memory, grid = a_memory(decoder.config, some_valid(*VALID, hw=HW), (24, 32))
    twin = literal.whole_prefix(decoder, memory, grid)
    ours = generate(decoder, memory, grid)
    assert torch.equal(ours.tokens, twin.tokens)
    assert (stepped(decoder, memory, grid, twin.tokens) - twin.logits).abs().max() < 1e-5


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_learning_sees_what_writing_sees(task: str, added: str) -> None:
    """Teacher-forced logits are those of steps that are fed the same tokens, END among them."""
    made = config(task, **ADDED[added])
    decoder, memory, grid = ready(made)
    count = sum(decoder.layout.parts)
    tokens = torch.randint(0, BINS, (5, count), generator=torch.Generator().manual_seed(3))
    if task != "rec":
        tokens[2, -4:] = BINS
        tokens[3, -2 * POINTS :] = BINS
    forced = decoder(memory, grid, tokens)
    asked = positions_asked(decoder)
    assert (forced[:, asked] - stepped(decoder, memory, grid, tokens)).abs().max() < 1e-6


@torch.no_grad()
def test_writing_makes_the_inputs_of_learning() -> None:
    """The likeliest tokens fed back as if they were the truth: their logits choose them again."""
    for task in TASKS:
        decoder, memory, grid = ready(config(task))
        written = generate(decoder, memory, grid)
        logits = decoder(memory, grid, written.tokens)[:, positions_asked(decoder)]
        chosen = logits[..., :BINS].argmax(dim=-1)
        there = written.tokens < BINS
        assert torch.equal(chosen[there], written.tokens[there])


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_the_decoder_is_the_loops(task: str) -> None:
    """Every head, query and key by itself; padding left out instead of hidden."""
    decoder, memory, grid = ready(config(task))
    tokens = torch.randint(0, BINS, (5, sum(decoder.layout.parts)))
    parts = decoder.layout.split(tokens)
    inputs = literal.inputs_of(decoder, memory, grid, parts)
    assert inputs.shape[1] == decoder.config.length
    states, looked = literal.decoder_states(decoder, memory, inputs)
    found, attention = decoder.step(inputs, 0, decoder.start(memory))
    torch.testing.assert_close(found, states, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(attention, looked, atol=1e-6, rtol=1e-6)
    expected = decoder.predictor(states)
    torch.testing.assert_close(decoder(memory, grid, tokens), expected, atol=1e-5, rtol=1e-5)


def positions_asked(decoder: Decoder) -> list[int]:
    """Positions that ask for a coordinate: all but the last of each part, which asks for END."""
    asked, start = [], 0
    for count in decoder.layout.parts:
        asked += range(start, start + count)
        start += count + 1
    return asked


def stepped(decoder: Decoder, memory: Memory, grid: Grid, tokens: Tensor) -> Tensor:
    """Logits [B, L, K + 1], one position after another on kept keys, fed with these tokens."""
    content, state = decoder.content(memory, grid), decoder.start(memory)
    place, found = 0, []
    for number, part in enumerate(decoder.layout.split(tokens)):
        embedded = decoder.task[number].expand(len(tokens), 1, -1)
        for at in range(part.shape[1]):
            states, _ = decoder.step(embedded, place, state)
            found.append(decoder.predictor(states[:, 0]))
            axes = torch.tensor([at % 2])
            embedded = decoder.embed(part[:, at : at + 1], axes, content)
            place += 1
        decoder.step(embedded, place, state)
        place += 1
    return torch.stack(found, dim=1)


# -- the end ---------------------------------------------------------------------------------


def ending(task: str, constrained: bool) -> tuple[Decoder, Memory, Grid]:
    """A decoder whose rows end at several places, all of them before the last one."""
    for seed in range(10):
        for end in (6.0, 8.0, 10.0):
            found = ready(config(task, constrained), seed, end)
            ends = ends_of(generate(*found).tokens)
            if len(set(ends)) > 1 and max(ends) < 2 * POINTS:
                return found
    raise AssertionError("no such decoder among 30")


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("task", ["res", "multi"])
@torch.no_grad()
def test_stopping_early_is_the_same(task: str, constrained: bool) -> None:
    """The twin goes on to the last place; ours stops when every row has ended."""
    decoder, memory, grid = ending(task, constrained)
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    hook = decoder.predictor.register_forward_hook(count)
    ours = generate(decoder, memory, grid)
    hook.remove()
    longest = max(ends_of(ours.tokens))
    assert steps == sum(decoder.layout.parts) - 2 * POINTS + longest + 1
    twin = literal.whole_prefix(decoder, memory, grid)
    assert ours.tokens.shape == twin.tokens.shape
    assert torch.equal(ours.tokens, twin.tokens)
    torch.testing.assert_close(ours.chances, twin.chances, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.attention, twin.attention, atol=1e-6, rtol=0)
    for row, end in enumerate(ends_of(ours.tokens)):
        tail = slice(ours.tokens.shape[1] - 2 * POINTS + end, None)
        assert ours.tokens[row, tail].eq(BINS).all()
        assert ours.chances[row, tail][1:].eq(1).all()
        assert ours.attention[row, :, tail][:, 1:].eq(0).all()


@pytest.mark.parametrize("constrained", [True, False])
@torch.no_grad()
def test_a_row_that_ended_is_blind_to_those_that_go_on(constrained: bool) -> None:
    decoder, memory, grid = ending("res", constrained)
    together = generate(decoder, memory, grid)
    for row in range(5):
        pick = slice(row, row + 1)
        alone = replace(
            memory,
            tokens=memory.tokens[pick],
            positions=memory.positions[pick],
            seen=memory.seen[pick],
            extents=memory.extents[pick],
        )
        single = generate(decoder, alone, grid)
        assert torch.equal(single.tokens, together.tokens[pick])
        torch.testing.assert_close(single.chances, together.chances[pick], atol=1e-6, rtol=0)
        torch.testing.assert_close(single.attention, together.attention[pick], atol=1e-6, rtol=0)


# -- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["partial_res", "partial_res rec", "partial_res multi"])
@pytest.mark.parametrize("fit", ["square", "letterbox"])
@torch.no_grad()
def test_a_sample_writes_the_same_alone_and_with_others(name: str, fit: str) -> None:
    """Alone, in a batch, in another order, and with more padding of its words."""
    method = toy_method(name).eval()
    batch = toy_batch(toy_samples(3, ((64, 64), (37, 91), (80, 53))), fit=fit)
    together = method.coordinates(method(batch)).tokens
    assert len({tuple(row) for row in together.tolist()}) > 1
    assert torch.equal(method.coordinates(method(with_padding(batch, 7))).tokens, together)
    order = [5, 0, 3, 1, 4, 2]
    assert torch.equal(method.coordinates(method(rows_of(batch, order))).tokens, together[order])
    for row in range(len(batch)):
        alone = rows_of(batch, [row])
        for seen in (alone, with_padding(alone, 4, seed=row)):
            assert torch.equal(method.coordinates(method(seen)).tokens[0], together[row])
