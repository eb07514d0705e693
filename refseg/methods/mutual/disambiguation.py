"""Step 2: the generator learns from how well its own sentences are understood.

Paper map (disambiguation supervision):
  q1 sentences by beam search, without gradient    -> `Disambiguation.forward`
  S of the frozen selection head, CIDEr, r(Y, k)   -> `Disambiguation._rewards`, policy.py
  Eq. 4 over one teacher-forced pass               -> `Disambiguation._follow`, `loss`
Everything but the generator stays to the bit: it gets no gradient, and nothing is in train mode,
so no buffer moves and no dropout acts.
The sentences are spelled out and cut into pieces anew before they are judged: the generator's own
pieces may be ones that no reader of text would make.
Letters: E objects, Q sentences of each, L places, N proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.errors import ConfigError
from refseg.method import ParameterGroup, check_groups, split_decay
from refseg.methods.mutual.config import PolicyConfig
from refseg.methods.mutual.generator import Memory
from refseg.methods.mutual.meant import chosen_objects
from refseg.methods.mutual.model import Mutual
from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.policy import policy_loss, reward, token_log_p, unambiguity
from refseg.methods.mutual.proposals import Matching, Proposals
from refseg.methods.mutual.slices import fair
from refseg.nn.beam import Found, unlike
from refseg.types import Batch


class Source(Protocol):
    """Where proposals come from: the method's own extractor, or what it said before."""

    def __call__(self, batch: Batch) -> tuple[Proposals, Matching]: ...


@dataclass(frozen=True)
class Texts:
    """What step 2 must be told of words.

    spell: ids -> text. read: texts -> (words [B, T] int64, mask [B, T] bool) for the selection
    head. cider: (ann_ids, texts) -> CIDEr-D [B] of each text against what people wrote about it.
    end: what `cider` reads after a text that was brought to its end, "" for nothing.
    """

    spell: Callable[[Iterable[int]], str]
    read: Callable[[Sequence[str]], tuple[Tensor, Tensor]]
    cider: Callable[[Sequence[int], Sequence[str]], NDArray[np.float64]]
    end: str = ""


@dataclass(frozen=True)
class Meant:
    """The E objects: image_of, target [E] int64, the image and the proposal of each; same: see
    `Mutual.same`.
    """

    image_of: Tensor
    target: Tensor
    same: Tensor | None


@dataclass(frozen=True)
class Rollout:
    """log_p: [E, Q, L] with gradient. mask: [E, Q, L]. rewards: [E, Q]. greedy: [E] or None.

    clear, cider: [E, Q], the reward's two halves, for the log.
    """

    log_p: Tensor
    mask: Tensor
    rewards: Tensor
    greedy: Tensor | None
    clear: Tensor
    cider: Tensor


class Disambiguation(nn.Module):
    """Trains `method.generator` and nothing else. forward(batch with objects) -> `Rollout`."""

    def __init__(
        self, method: Mutual, config: PolicyConfig, texts: Texts, source: Source | None = None
    ) -> None:
        super().__init__()
        if not (method.config.select and method.config.generate):
            raise ConfigError(
                "disambiguation supervision needs a head that writes and one that reads",
                remedy="start from a model with method.select and method.generate both true",
            )
        self.method, self.config, self.texts = method, config, texts
        self.source: Source = _Own(method) if source is None else source
        method.requires_grad_(False)
        method.generator.requires_grad_(True)
        method.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked: rewards and buffers must not move."""
        return super().train(False)

    def forward(self, batch: Batch) -> Rollout:
        """Sentences about the objects that the batch's expressions mean, and their rewards.

        The expressions themselves are not read. Raises DataError for a batch without objects.
        """
        method = self.method
        with torch.no_grad():
            proposals, matching = self.source(batch)
            rows, target = chosen_objects(matching, batch)
        if len(rows) == 0:
            return self._nothing()
        image_of = batch.image_of[rows]
        assert batch.targets is not None
        ids = objects_of(batch).ann_ids[image_of, batch.targets[rows]].tolist()
        meant = Meant(image_of, target, method.same(proposals, batch, rows))
        memory = method.remember(proposals, image_of, target)
        found = [method.generator.write(_detached(memory), beams=self.config.beams, rank="sum")]
        greedy = None
        if self.config.with_greedy or self.config.baseline == "greedy":
            best = method.generator.write(_detached(memory), beams=1)
            if self.config.baseline == "greedy":
                greedy = self._rewards(proposals, meant, ids, best)[2][:, 0]
            if self.config.with_greedy:
                found.append(unlike(best, found[0]))
        parts = [
            (*self._follow(one, memory), *self._rewards(proposals, meant, ids, one))
            for one in found
        ]
        log_p, mask, clear, cider, rewards = map(_side_by_side, zip(*parts, strict=True))
        return Rollout(log_p, mask, rewards, greedy, clear, cider)

    def loss(self, outputs: Rollout, batch: Batch) -> dict[str, Tensor]:
        """ "total": Eq. 4. "reward", "unambiguity", "cider": means, to be looked at.

        Zeros for a batch whose expressions mean no object that a proposal stands for. A collective
        (`fair`).
        """
        there = outputs.mask.any(dim=-1)
        seen = {"reward": outputs.rewards, "unambiguity": outputs.clear, "cider": outputs.cider}
        told = {name: value[there].sum() / there.sum().clamp(min=1) for name, value in seen.items()}
        (factor,) = fair(outputs.rewards.new_tensor([float(len(there))]), self.loss_weight(batch))
        if len(there) == 0:
            return {"total": outputs.log_p.sum(), **told}
        loss = factor * policy_loss(
            outputs.log_p, outputs.mask, outputs.rewards, self.config, outputs.greedy
        )
        return {"total": loss, **told}

    def loss_weight(self, batch: Batch) -> float:
        """Expressions; Eq. 4, a mean over the objects that they mean, is put right by `fair`."""
        return float(len(batch))

    def _nothing(self) -> Rollout:
        """No object, no sentence; a gradient of zeros all the same, as DDP waits for one."""
        nothing = 0.0 * torch.stack([p.sum() for p in self.method.generator.parameters()]).sum()
        sentences = self.config.beams + self.config.with_greedy
        none = nothing.detach().expand(0, sentences)
        mask = torch.zeros(0, sentences, 1, dtype=torch.bool, device=none.device)
        greedy = none[:, 0] if self.config.baseline == "greedy" else None
        return Rollout(nothing.expand(0, sentences, 1), mask, none, greedy, none, none)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The generator's parameters (I_pos and I_neg among them), each once."""
        groups = split_decay("generator", self.method.generator)
        check_groups(self, groups)
        return groups

    def _follow(self, found: Found, memory: Memory) -> tuple[Tensor, Tensor]:
        """log p of each word [E, Q, L], with gradient, and the mask of real ones."""
        words, targets, mask = self.method.generator.follow(found)
        return token_log_p(self.method.generator(words, memory), targets), mask

    @torch.no_grad()
    def _rewards(
        self,
        proposals: Proposals,
        meant: Meant,
        ids: Sequence[int],
        found: Found,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(unambiguity, CIDEr, r) [E, Q] of the sentences; zeros where there is none."""
        shape, target = found.log_p.shape, meant.target
        owner, place = torch.nonzero(found.mask.any(dim=-1), as_tuple=True)
        words = found.words.tolist()
        lengths = found.lengths.tolist()
        written = [
            words[e][q][: lengths[e][q]]
            for e, q in zip(owner.tolist(), place.tolist(), strict=True)
        ]
        texts = [self.texts.spell(ids) for ids in written]
        # A sentence of punctuation alone cannot be read; it earns nothing.
        said = [index for index, text in enumerate(texts) if any(c.isalnum() for c in text)]
        clear, cider, total = (target.new_zeros(shape, dtype=torch.float32) for _ in range(3))
        if said:
            owner, place = owner[said], place[said]
            spoken = [texts[index] for index in said]
            read, mask = (part.to(target.device) for part in self.texts.read(spoken))
            scores = self.method.score(proposals, meant.image_of[owner], read, mask)
            longest = self.method.generator.config.max_words - 1  # ends where it was cut off
            whole = [len(written[index]) < longest for index in said]
            ended = [t + self.texts.end * w for t, w in zip(spoken, whole, strict=True)]
            known = self.texts.cider([ids[e] for e in owner.tolist()], ended)
            similar = torch.from_numpy(known).to(total)
            right = None if meant.same is None else meant.same[owner]
            clear[owner, place] = unambiguity(scores, target[owner], self.config, right)
            cider[owner, place] = similar
            total[owner, place] = reward(scores, target[owner], similar, self.config, right)
        return clear, cider, total


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """[E, Q] or [E, Q, L] of several searches as one, zeros after the shorter L."""
    if parts[0].ndim == 2:
        return torch.cat(list(parts), dim=1)
    places = max(part.shape[-1] for part in parts)
    return torch.cat([F.pad(part, (0, places - part.shape[-1])) for part in parts], dim=1)


class _Own:
    """The method's own extractor, asked anew for every batch; what it simulates is drawn anew."""

    def __init__(self, method: Mutual) -> None:
        self.method = method

    def __call__(self, batch: Batch) -> tuple[Proposals, Matching]:
        proposals = self.method.practise(batch)
        return proposals, self.method.match(proposals, batch)


def _detached(memory: Memory) -> Memory:
    """The same memory for the search, which needs no history."""
    with torch.no_grad():
        return memory[torch.arange(len(memory), device=memory.layers[0].keys.device)]
