"""Beam search over any model that says what may come next, for many items at once.

The model is a step function and a state. The search owns the words and their log-probabilities;
of the state it only asks `select`. Three things set it apart from the usual one:

- A finished sentence is kept aside and never takes a beam's place. With B open beams and words to
  choose from, B >= words^(T-1) is exhaustive search; in the usual form it needs far more.
- A score is the plain sum of log-probabilities, the end's included: what a teacher-forced pass
  over the sentence gives. Forbidden words are skipped, not divided away.
- Ties go to the earlier beam, then to the smaller word id, then to the shorter sentence, on
  every device.

Letters: E items still searched, W open beams of each (1 at the start, `Rules.beams` soon), V words,
Q sentences kept, T longest sentence with its end, L longest one found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = float("-inf")


class State(Protocol):
    """What a model remembers of the beams so far (a cache of keys and values, a prefix)."""

    def select(self, items: Tensor, beams: Tensor) -> Self:
        """The state whose item e and beam w were item `items[e]` and its beam `beams[e, w]`.

        items: [E'] int64, ascending, none twice (so E' == E means: all, in place).
        beams: [E', W'] int64.
        """


S = TypeVar("S", bound=State)
Step = Callable[[Tensor, S], tuple[Tensor, S]]


@dataclass(frozen=True)
class Rules:
    """How to search.

    end: the id that ends a sentence. max_steps: T, the most ids of a sentence, the end included;
    a sentence of T - 1 words is given its end, whose log-probability counts as any other's.
    beams: B. keep: Q, sentences returned per item (None: as many as beams); may exceed B.
    never: ids that are not to be written (padding, start, unknown). min_words: words before
    the end. rank: sentences compete by the "sum" of their log-probabilities, or by its "mean"
    over their ids, which favours longer ones. pad: the id that fills the answer up.
    With one beam every step takes the likeliest id and the end stops the search (greedy);
    with more, every open beam's end is a candidate, however unlikely.
    """

    end: int
    max_steps: int
    beams: int = 5
    keep: int | None = None
    never: tuple[int, ...] = ()
    min_words: int = 1
    rank: Literal["sum", "mean"] = "sum"
    pad: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1 or self.kept < 1 or self.min_words < 0:
            raise ValueError(f"beams and keep start at 1, min_words at 0: {self}")
        if self.beams == 1 and self.kept > 1:
            raise ValueError("greedy search (one beam) finds one sentence: keep must be 1")
        if self.max_steps <= self.min_words:
            raise ValueError(f"{self.min_words} words and an end need more than {self.max_steps}")
        if self.end in self.never:
            raise ValueError(f"the end ({self.end}) must not be forbidden")

    @property
    def kept(self) -> int:
        """Q."""
        return self.beams if self.keep is None else self.keep


@dataclass(frozen=True)
class Found:
    """Q sentences of each of E items, best first, all different.

    words: [E, Q, L] int64, the end included, the start not, padded. lengths: [E, Q] int64, the
    end included; 0 where an item has fewer than Q possible sentences. log_p: [E, Q], the sum of
    log-probabilities (float32 or the model's own wider type), -inf where the length is 0.
    """

    words: Tensor
    lengths: Tensor
    log_p: Tensor

    @property
    def mask(self) -> Tensor:
        """[E, Q, L] bool, True on real ids."""
        return _mask(self.lengths, self.words.shape[-1])


def unlike(found: Found, others: Found) -> Found:
    """`found` without the sentences that `others` has of the same item: their lengths are 0."""
    places = max(found.words.shape[-1], others.words.shape[-1])
    mine, theirs = (
        F.pad(one.words * one.mask, (0, places - one.words.shape[-1])) for one in (found, others)
    )
    same = (mine[:, :, None] == theirs[:, None]).all(dim=-1)  # [E, Q, Q of others]
    known = (same & (found.lengths[:, :, None] == others.lengths[:, None])).any(dim=-1)
    lengths = found.lengths.masked_fill(known, 0)
    return Found(found.words, lengths, found.log_p.masked_fill(known, NEVER))


def _mask(lengths: Tensor, places: int) -> Tensor:
    return torch.arange(places, device=lengths.device) < lengths[..., None]


@torch.no_grad()
def beam_search(step: Step[S], state: S, start: Tensor, rules: Rules) -> Found:
    """Search every item of `start` at once; an item that is settled leaves the batch.

    step: (last ids [E, W] int64, state) -> (logits [E, W, V], next state). W is 1 on the first
    call. Log-softmax is float32 or wider. start: [E] int64, the id each sentence begins with.
    state: of the E items, one beam each. The model must be in evaluation mode.
    Raises ValueError if the logits are not numbers.
    """
    found = _nothing(len(start), rules, start.device)
    alive = torch.arange(len(start), device=start.device)
    last, words = start[:, None], start.new_empty(len(start), 1, 0)
    open_log_p: Tensor | None = None
    for place in range(rules.max_steps):
        if not len(alive):
            break
        logits, state = step(last, state)
        log_p = _next_log_p(logits, rules)
        total = log_p if open_log_p is None else open_log_p[..., None] + log_p  # [E, W, V]
        end = total[..., rules.end].clone()  # [E, W]
        total[..., rules.end] = NEVER
        if place < rules.min_words:
            end.fill_(NEVER)
        elif rules.beams == 1 and place < rules.max_steps - 1:
            end = end.masked_fill(end < total.amax(dim=-1), NEVER)
        if found.log_p.dtype != end.dtype:
            found = Found(found.words, found.lengths, found.log_p.to(end.dtype))
        _keep_aside(found, alive, words, end, rules)
        if place == rules.max_steps - 1:
            break
        open_log_p, flat = _best(total.flatten(1), rules.beams)
        beams, last = flat // total.shape[-1], flat % total.shape[-1]
        words = torch.cat([_of_beams(words, beams), last[..., None]], dim=-1)
        going = _may_still_win(found, alive, open_log_p[:, 0], rules).nonzero()[:, 0]
        alive, words, last, open_log_p = (x[going] for x in (alive, words, last, open_log_p))
        state = state.select(going, beams[going])
    longest = int(found.lengths.max()) if found.lengths.numel() else 0
    return Found(found.words[..., :longest], found.lengths, found.log_p)


def _nothing(items: int, rules: Rules, device: torch.device) -> Found:
    shape = (items, rules.kept)
    return Found(
        torch.full((*shape, rules.max_steps), rules.pad, device=device),
        torch.zeros(shape, dtype=torch.int64, device=device),
        torch.full(shape, NEVER, device=device),
    )


def _next_log_p(logits: Tensor, rules: Rules) -> Tensor:
    """[E, W, V] log-probabilities, the forbidden ones -inf and the others as they were."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = F.log_softmax(wide, dim=-1)
    if log_p.isnan().any():
        raise ValueError("beam search: the model's logits are not numbers")
    log_p[..., list(rules.never)] = NEVER
    return log_p


def _keep_aside(found: Found, alive: Tensor, words: Tensor, end: Tensor, rules: Rules) -> None:
    """Merge the sentences that end now, words [E, W, t] with log p `end` [E, W], into `found`."""
    items, beams, length = words.shape
    new = words.new_full((items, beams, rules.max_steps), rules.pad)
    new[..., :length] = words
    new[..., length] = rules.end
    all_words = torch.cat([found.words[alive], new], dim=1)
    new_lengths = words.new_full((items, beams), length + 1)
    all_lengths = torch.cat([found.lengths[alive], new_lengths], dim=1)
    all_log_p = torch.cat([found.log_p[alive], end], dim=1)
    # Stable, and the older ones stand first: -inf newcomers never push an empty place out.
    order = _competing(all_log_p, all_lengths, rules).sort(dim=1, descending=True, stable=True)
    best = order.indices[:, : rules.kept]
    found.words[alive] = _of_beams(all_words, best)
    found.lengths[alive] = all_lengths.gather(1, best)
    found.log_p[alive] = all_log_p.gather(1, best)


def _competing(log_p: Tensor, lengths: Tensor, rules: Rules) -> Tensor:
    return log_p / lengths.clamp(min=1) if rules.rank == "mean" else log_p


def _may_still_win(found: Found, alive: Tensor, best_open: Tensor, rules: Rules) -> Tensor:
    """[E] bool: whether the best open beam can still beat the last of the Q finished ones.

    A sum only falls as words are added. A mean is highest if nothing more is lost until T. Of one
    beam the first end is the last word, though the mean of a longer sentence might be higher.
    """
    if rules.beams == 1:
        return found.lengths[alive, 0] == 0
    worst = _competing(found.log_p[alive], found.lengths[alive], rules)[:, -1]
    hope = best_open / rules.max_steps if rules.rank == "mean" else best_open
    return hope > worst


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row, best first: [E, count] values and indices.

    topk alone may choose any of several equals; here the smaller index is chosen.
    """
    count = min(count, scores.shape[1])
    border = scores.topk(count, dim=1).values[:, -1:]
    above, level = scores > border, scores == border
    wanted = count - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1, dtype=torch.int32) <= wanted))
    indices = chosen.nonzero()[:, 1].view(len(scores), count)
    values, order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def _of_beams(words: Tensor, beams: Tensor) -> Tensor:
    """words [E, W, t], beams [E, W'] -> [E, W', t]."""
    return words.gather(1, beams[..., None].expand(-1, -1, words.shape[-1]))
