"""Beam search against exhaustive search, and against one that keeps lists and loops."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from refseg.nn.beam import Found, Rules, _best, beam_search, unlike

END = 0
START = 99


class Table:
    """A toy language: the next id depends on the whole prefix, by a random table of logits."""

    def __init__(self, seed: int, vocabulary: int, steps: int, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        prefixes = [
            p for length in range(steps) for p in product(range(1, vocabulary), repeat=length)
        ]
        self.vocabulary = vocabulary
        self.row = {prefix: row for row, prefix in enumerate(prefixes)}
        shape = (len(prefixes), vocabulary)
        self.logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    @cached_property
    def log_ps(self) -> list[list[float]]:
        rows: list[list[float]] = self.logits.log_softmax(-1).tolist()
        return rows

    def log_p(self, sentence: tuple[int, ...]) -> float:
        """Teacher-forced, one id at a time."""
        return sum(self.log_ps[self.row[sentence[:i]]][w] for i, w in enumerate(sentence))


@dataclass(frozen=True)
class Prefixes:
    """The state of E tables: every beam's prefix."""

    tables: list[Table]
    prefixes: list[list[tuple[int, ...]]]

    def select(self, items: Tensor, beams: Tensor) -> Prefixes:
        rows = items.tolist()
        return Prefixes(
            [self.tables[i] for i in rows],
            [[self.prefixes[i][w] for w in ws] for i, ws in zip(rows, beams.tolist(), strict=True)],
        )


def step(last: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
    told = [
        [prefix if word == START else (*prefix, word) for prefix, word in zip(ps, ws, strict=True)]
        for ps, ws in zip(state.prefixes, last.tolist(), strict=True)
    ]
    logits = [
        # A place no beam could fill has a forbidden prefix; what it hears must not matter.
        table.logits[[table.row.get(prefix, -1) for prefix in row]]
        for table, row in zip(state.tables, told, strict=True)
    ]
    return torch.stack(logits), Prefixes(state.tables, told)


def search(tables: list[Table], **rules: Any) -> Found:
    state = Prefixes(tables, [[()] for _ in tables])
    return beam_search(step, state, torch.full((len(tables),), START), Rules(end=END, **rules))


def sentences(found: Found, item: int = 0) -> list[tuple[int, ...]]:
    pairs = zip(found.words[item].tolist(), found.lengths[item].tolist(), strict=True)
    return [tuple(words[:length]) for words, length in pairs if length]


def value(table: Table, sentence: tuple[int, ...], rank: str) -> float:
    total = table.log_p(sentence)
    return total / len(sentence) if rank == "mean" else total


def every_sentence(vocabulary: int, steps: int, min_words: int) -> list[tuple[int, ...]]:
    return [
        (*words, END)
        for length in range(min_words, steps)
        for words in product(range(1, vocabulary), repeat=length)
    ]


def exhaustive(
    table: Table, steps: int, keep: int, min_words: int = 1, rank: str = "sum"
) -> list[tuple[int, ...]]:
    options = every_sentence(table.vocabulary, steps, min_words)
    return sorted(options, key=lambda s: -value(table, s, rank))[:keep]


def looped(
    table: Table,
    steps: int,
    beams: int,
    keep: int,
    never: tuple[int, ...],
    min_words: int,
    rank: str,
) -> list[tuple[int, ...]]:
    """The same search with lists; no early stop, no batch."""
    opened: list[tuple[int, ...]] = [()]
    finished: list[tuple[int, ...]] = []
    for place in range(steps):
        candidates = [
            (*prefix, word)
            for prefix in opened
            for word in range(table.vocabulary)
            if word != END and word not in never
        ]
        opened = sorted(candidates, key=lambda s: -table.log_p(s))[:beams]
        ends = [(*c, END) for c in dict.fromkeys(c[:-1] for c in candidates)]
        if place >= min_words:
            if beams == 1 and place < steps - 1:
                ends = [s for s in ends if table.log_p(s) >= table.log_p(opened[0])]
            finished += ends
            if beams == 1 and finished:
                return finished
    return sorted(finished, key=lambda s: -value(table, s, rank))[:keep]


@pytest.mark.parametrize("min_words", [0, 1])
@pytest.mark.parametrize("rank", ["sum", "mean"])
@pytest.mark.parametrize(("vocabulary", "steps"), [(2, 4), (3, 4), (4, 3), (4, 4)])
def test_enough_beams_are_exhaustive_search(
    vocabulary: int, steps: int, rank: Any, min_words: int
) -> None:
    """Fact 7: B = (V-1)^(T-1) gives the exact best B (V = T = 4: 27)."""
    beams = (vocabulary - 1) ** (steps - 1)
    tables = [Table(seed, vocabulary, steps) for seed in range(25)]
    found = search(
        tables, beams=max(beams, 2), keep=beams, max_steps=steps, min_words=min_words, rank=rank
    )
    for item, table in enumerate(tables):
        assert sentences(found, item) == exhaustive(table, steps, beams, min_words, rank)


def test_few_beams_are_nearly_exhaustive_search() -> None:
    """Fact 7's measure at V = T = 4, B = 5, empty sentences allowed: 199 of 200 there."""
    tables = [Table(seed, 4, 4) for seed in range(200)]
    found = search(tables, beams=5, max_steps=4, min_words=0)
    right = [sentences(found, i) == exhaustive(t, 4, 5, 0) for i, t in enumerate(tables)]
    assert sum(right) >= 190


@settings(max_examples=60, deadline=None)
@example(0, 3, 4, 1, 1, (1,), 0, "mean", 4.0)  # going on would raise the mean
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(3, 5),
    steps=st.integers(2, 4),
    beams=st.integers(1, 6),
    keep=st.integers(1, 8),
    never=st.sampled_from([(), (1,), (2,)]),
    min_words=st.integers(0, 2),
    rank=st.sampled_from(["sum", "mean"]),
    scale=st.sampled_from([0.0, 1.0, 4.0]),
)
def test_search_is_its_loop(
    seed: int,
    vocabulary: int,
    steps: int,
    beams: int,
    keep: int,
    never: tuple[int, ...],
    min_words: int,
    rank: Any,
    scale: float,
) -> None:
    """Scale 0 makes all words alike: ties, which go to the earlier beam and the smaller id."""
    keep, min_words = (1 if beams == 1 else keep), min(min_words, steps - 1)
    table = Table(seed, vocabulary, steps, scale)
    found = search(
        [table],
        beams=beams,
        keep=keep,
        max_steps=steps,
        never=never,
        min_words=min_words,
        rank=rank,
    )
    expected = looped(table, steps, beams, keep, never, min_words, rank)
    if scale:
        assert sentences(found) == expected
    else:  # a tie in the mean is one of rounding; the sentences' number is still the same
        assert len(sentences(found)) == len(expected)
        if rank == "sum":
            assert sentences(found) == expected


def test_scores_are_teacher_forced_sorted_and_distinct() -> None:
    tables = [Table(seed, 5, 5) for seed in range(10)]
    found = search(tables, beams=4, keep=6, max_steps=5)
    assert found.words.shape == (10, 6, 5)
    assert found.log_p.dtype == torch.float64
    assert torch.equal(found.log_p, found.log_p.sort(dim=1, descending=True).values)
    for item, table in enumerate(tables):
        mine = sentences(found, item)
        assert len(set(mine)) == 6
        for sentence, log_p in zip(mine, found.log_p[item].tolist(), strict=True):
            assert len(sentence) >= 2
            assert sentence[-1] == END
            assert sentence.count(END) == 1
            assert log_p == pytest.approx(table.log_p(sentence), abs=1e-9)
    assert (found.words[~found.mask] == 0).all()
    assert torch.equal(found.mask.sum(-1), found.lengths)


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_items_together_are_items_alone(beams: int) -> None:
    """Sharp and flat tables end at different steps, so the batch shrinks on the way."""
    tables = [Table(seed, 4, 5, scale=[0.3, 2.0, 6.0][seed % 3]) for seed in range(15)]
    together = search(tables, beams=beams, max_steps=5)
    for item, table in enumerate(tables):
        alone = search([table], beams=beams, max_steps=5)
        assert sentences(together, item) == sentences(alone)
        assert torch.equal(together.log_p[item], alone.log_p[0])


def test_one_beam_is_greedy() -> None:
    stopped = []
    for seed in range(50):
        table = Table(seed, 4, 5)
        words: tuple[int, ...] = ()
        while len(words) < 4:
            logits = table.logits[table.row[words]].clone()
            if not words:
                logits[END] = -math.inf
            if int(logits.argmax()) == END:
                break
            words = (*words, int(logits.argmax()))
        found = search([table], beams=1, max_steps=5)
        assert sentences(found) == [(*words, END)]
        stopped.append(len(words))
    assert set(stopped) == {1, 2, 3, 4}


def test_more_beams_find_better_sentences() -> None:
    tables = [Table(seed, 4, 5) for seed in range(100)]
    best = {b: search(tables, beams=b, max_steps=5).log_p[:, 0] for b in (1, 2, 27)}
    assert (best[27] >= best[2] - 1e-12).all()
    assert best[1].mean() < best[2].mean() < best[27].mean()


def test_unlike_leaves_out_what_the_others_have() -> None:
    """Words alone tell whether two are the same, not what fills the rest up."""
    beams = Found(
        torch.tensor([[[5, 1, 9], [5, 6, 1]], [[7, 1, 9], [9, 9, 9]]]),
        torch.tensor([[2, 3], [2, 0]]),
        torch.tensor([[-1.0, -2.0], [-1.0, -torch.inf]]),
    )
    greedy = Found(
        torch.tensor([[[5, 1, 8, 8]], [[7, 7, 7, 1]]]),
        torch.tensor([[2], [4]]),
        torch.tensor([[-1.0], [-3.0]]),
    )
    found = unlike(greedy, beams)
    assert found.lengths.tolist() == [[0], [4]]
    assert found.log_p.tolist() == [[-torch.inf], [-3]]
    assert [sentences(found, item) for item in (0, 1)] == [[], [(7, 7, 7, 1)]]
    assert unlike(beams, greedy).lengths.tolist() == [[0, 3], [2, 0]]


def test_the_shortest_sentence_has_a_word() -> None:
    """An end that is all but certain still waits for one word (or as many as asked)."""
    table = Table(0, 4, 5)
    table.logits[:, END] = 50.0
    for words in (0, 1, 3):
        found = search([table], beams=3, max_steps=5, min_words=words)
        assert found.lengths[0, 0] == words + 1
        assert (found.lengths > words).all()


def test_the_end_is_forced_and_paid_for() -> None:
    table = Table(0, 3, 4)
    table.logits[:, END] = -20.0
    for beams, rank in [(1, "sum"), (2, "mean")]:
        found = search([table], beams=beams, max_steps=4, rank=rank)
        assert found.lengths[0, 0] == 4
        assert found.words[0, 0, 3] == END
        assert found.log_p[0, 0] < -20
        assert float(found.log_p[0, 0]) == pytest.approx(table.log_p(sentences(found)[0]))


def test_a_language_with_too_few_sentences() -> None:
    found = search([Table(0, 2, 3)], beams=5, max_steps=3)
    assert sorted(sentences(found)) == [(1, 0), (1, 1, 0)]
    assert found.lengths[0, 2:].tolist() == [0, 0, 0]
    assert (found.log_p[0, 2:] == -math.inf).all()
    assert not found.words[0, 2:].any()


def test_forbidden_words_are_skipped_not_divided_away() -> None:
    table = Table(3, 5, 4)
    found = search([table], beams=60, max_steps=4, never=(2, 4), keep=3)
    for sentence, log_p in zip(sentences(found), found.log_p[0].tolist(), strict=True):
        assert not {2, 4} & set(sentence)
        assert log_p == pytest.approx(table.log_p(sentence), abs=1e-9)


def test_it_stops_when_nothing_better_can_come() -> None:
    calls = []

    def counted(last: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
        calls.append(last.shape)
        return step(last, state)

    table = Table(0, 3, 8)
    table.logits[:, END] = 9.0
    rules = Rules(end=END, max_steps=8, beams=2)
    found = beam_search(counted, Prefixes([table], [[()]]), torch.tensor([START]), rules)
    assert calls == [(1, 1), (1, 2)]
    assert sorted(sentences(found)) == [(1, 0), (2, 0)]


def test_equals_are_chosen_by_index() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0], [-math.inf] * 4 + [0.0]])
    values, indices = _best(scores, 4)
    assert indices.tolist() == [[1, 2, 4, 0], [4, 0, 1, 2]]
    assert torch.equal(values, scores.gather(1, indices))
    assert _best(scores, 9)[1].shape == (2, 5)
    found = search([Table(0, 4, 4, scale=0.0)], beams=3, max_steps=4)
    assert sentences(found) == [(1, 0), (2, 0), (3, 0)]


def test_scores_are_float32_for_half_precision() -> None:
    def halved(last: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
        logits, state = step(last, state)
        return logits.to(torch.bfloat16), state

    state = Prefixes([Table(0, 4, 4)], [[()]])
    found = beam_search(halved, state, torch.tensor([START]), Rules(end=END, max_steps=4))
    assert found.log_p.dtype == torch.float32


def test_no_items_no_sentences() -> None:
    found = search([], beams=2, max_steps=4)
    assert found.words.shape == (0, 2, 0)
    assert found.mask.shape == (0, 2, 0)


def test_logits_must_be_numbers() -> None:
    table = Table(0, 4, 4)
    table.logits[0, 1] = math.nan
    with pytest.raises(ValueError, match="not numbers"):
        search([table], max_steps=4)


@pytest.mark.parametrize(
    "change",
    [
        {"beams": 0},
        {"keep": 0},
        {"min_words": -1},
        {"beams": 1, "keep": 2},
        {"max_steps": 1},
        {"never": (1, END)},
    ],
)
def test_rules_that_cannot_be_kept(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(Rules(end=END, max_steps=5), **change)
