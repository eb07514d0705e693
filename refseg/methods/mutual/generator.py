"""The indicated generation head: a sentence about one proposal among all, word by word.

Paper map (indicated generation head):
  memory O + I(k) of every object        -> `Generator.remember`
  4-layer decoder, next-word logits      -> `Generator.forward` (teacher-forced, Eq. 2 reads it)
  "word by word", q1 and q2 beams        -> `Generator.begin`, `step`, `write`

We differ:
- In form, never in value: in each layer W(O + I(k)) = W(O + I_neg) + onehot(k) W(I_pos - I_neg),
  so the N proposals of an image are projected once for all of its objects (`_share`), and once
  per object for all of its beams. `_project` of `Indicator.mark` is the paper's own way.
- Where the paper is silent: learned positions, tied output weights, a norm on the embedding.
There is no embedding of a proposal's number: proposals are a set.
Letters: I images, E objects, S sentences of each, L places, W open beams of each, N proposals,
C width of a proposal, D width here, V words, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import ConfigError
from refseg.methods.mutual.config import GeneratorConfig
from refseg.methods.mutual.indicator import Indicator
from refseg.methods.mutual.layer import DecoderLayer, KeysValues
from refseg.nn.beam import Found, Rules, beam_search


@dataclass(frozen=True)
class Memory:
    """What the layers know of the E objects.

    layers: keys and values [E, h, N, D / h] of each. there: [E, N] bool, False where an image has
    fewer proposals; None if all have N.
    """

    layers: tuple[KeysValues, ...]
    there: Tensor | None = None

    def __len__(self) -> int:
        return len(self.layers[0].keys)

    def __getitem__(self, rows: Tensor) -> Memory:
        there = None if self.there is None else self.there[rows]
        return Memory(tuple(layer[rows] for layer in self.layers), there)


@dataclass(frozen=True)
class Writing:
    """Sentences in progress, W of each object. past: per layer [E * W, h, words so far, D / h]."""

    memory: Memory
    past: tuple[KeysValues, ...] = ()

    @property
    def length(self) -> int:
        """Words so far, the start included."""
        return self.past[0].keys.shape[2] if self.past else 0

    def select(self, items: Tensor, beams: Tensor) -> Writing:
        """As `refseg.nn.beam.State.select`; the memory moves only when an object leaves."""
        objects = len(self.memory)
        width = len(self.past[0].keys) // objects if self.past else 1
        rows = (items[:, None] * width + beams).flatten()
        memory = self.memory if len(items) == objects else self.memory[items]
        return Writing(memory, tuple(p[rows] for p in self.past))


class Generator(nn.Module):
    """See the module docstring. channels: width C of a proposal."""

    def __init__(self, config: GeneratorConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.indicator = Indicator(config.indicator, channels)
        self.words = nn.Embedding(config.vocab_size, config.width)
        # Places of [CLS] and the words: what is asked is the next id, so [SEP] needs none.
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_words - 1, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(config.width, config.heads, config.mlp_width, config.dropout, channels)
            for _ in range(config.layers)
        )
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        # Small, as the table is also the output layer: the first guess is nearly uniform.
        nn.init.normal_(self.words.weight, std=0.02)
        self.output = (
            None if config.tied else nn.Parameter(0.02 * torch.randn_like(self.words.weight))
        )

    def remember(
        self, objects: Tensor, image_of: Tensor, target: Tensor, there: Tensor | None = None
    ) -> Memory:
        """The memory of E objects of I images.

        objects O: [I, N, C]. image_of, target k: [E] int64, k in 0..N-1. there: [I, N] bool,
        False on padding, which nobody hears of.
        """
        if self.config.indicator.target_only:
            return self._project(self.indicator.mark(objects, image_of, target))
        shared = self._share(objects, image_of, target)
        return shared if there is None else replace(shared, there=there[image_of])

    def _project(self, marked: Tensor) -> Memory:
        """marked [E, N, C]: each object's proposals on their own."""
        return Memory(tuple(layer.memory.prepare(marked) for layer in self._decoder()))

    def _share(self, objects: Tensor, image_of: Tensor, target: Tensor) -> Memory:
        """Each image's proposals once; every object then takes a copy and sets its own row k."""
        unmarked = objects + self.indicator.negative
        difference = self.indicator.difference()
        each = torch.arange(len(target), device=target.device)
        memory = []
        for layer in self._decoder():
            attention = layer.memory
            images = attention.prepare(unmarked)  # [I, h, N, D / h]
            step = F.linear(difference, attention.kv.weight)  # the bias is in `images` already
            ready = images[image_of]
            for part, change in zip((ready.keys, ready.values), step.chunk(2), strict=True):
                part[each, :, target] += change.view(attention.heads, -1).to(part.dtype)
            memory.append(ready)
        return Memory(tuple(memory))

    def forward(self, words: Tensor, memory: Memory) -> Tensor:
        """Teacher-forced logits of the next id after each place.

        words: [E, L] or, with S sentences of each object, [E, S, L] int64, beginning with the
        start; padding on the right, where logits mean nothing and harm nobody. Returns
        [E, L, V] or [E, S, L, V]. Raises ConfigError for sentences longer than max_words - 1.
        """
        length = words.shape[-1]
        x = self._embed(words.reshape(-1, length), 0)
        causal = torch.ones(length, length, dtype=torch.bool, device=words.device).tril()[None]
        for layer, heard in zip(self._decoder(), memory.layers, strict=True):
            x, _ = layer.look(x, allowed=causal)
            x = layer.hear(x, heard, memory.there)
        return self._logits(x).view(*words.shape, -1)

    def begin(self, memory: Memory) -> Writing:
        """No words yet. Raises ValueError while dropout would act."""
        if self.training and self.config.dropout > 0:
            raise ValueError("the generator writes in evaluation mode: call eval() first")
        return Writing(memory)

    def step(self, last: Tensor, state: Writing) -> tuple[Tensor, Writing]:
        """last: [E, W] int64, the newest id of every sentence -> (logits [E, W, V], state)."""
        x = self._embed(last.reshape(-1, 1), state.length)
        past, memory = [], state.memory
        for index, (layer, heard) in enumerate(zip(self._decoder(), memory.layers, strict=True)):
            x, ready = layer.look(x, state.past[index] if state.past else None)
            x = layer.hear(x, heard, memory.there)
            past.append(ready)
        return self._logits(x).view(*last.shape, -1), Writing(state.memory, tuple(past))

    def write(
        self,
        memory: Memory,
        *,
        beams: int,
        keep: int | None = None,
        rank: Literal["sum", "mean"] | None = None,
    ) -> Found:
        """The best `keep` (None: `beams`) sentences of each object; beams = 1 is greedy.

        rank: by what they compete; None: as `config.rank` says. Without gradient; `forward` over
        the found words gives their log-probabilities with it.
        """
        config = self.config
        rules = Rules(
            end=config.end,
            max_steps=config.max_words - 1,
            beams=beams,
            keep=keep,
            never=config.never,
            pad=config.pad,
            rank=rank or config.rank,
        )
        start = torch.full((len(memory),), config.start, device=memory.layers[0].keys.device)
        return beam_search(self.step, self.begin(memory), start, rules)

    def follow(self, found: Found) -> tuple[Tensor, Tensor, Tensor]:
        """(words, targets, mask) [E, S, L] to teach or score found sentences: start put before."""
        start = torch.full_like(found.words[..., :1], self.config.start)
        return torch.cat([start, found.words[..., :-1]], dim=-1), found.words, found.mask

    def _decoder(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    def _embed(self, words: Tensor, place: int) -> Tensor:
        """words [R, L] at places `place`.. -> [R, L, D]."""
        end = place + words.shape[1]
        if end > len(self.positions):
            raise ConfigError(
                f"a sentence of {end} words with [CLS], but max_words is {self.config.max_words}",
                remedy="let generator.max_words be at least the tokenizer's max_words",
            )
        x: Tensor = self.drop(self.norm(self.words(words) + self.positions[place:end]))
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.words.weight if self.output is None else self.output, self.bias)
