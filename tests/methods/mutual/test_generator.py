"""The generation head: shared projections, causality, cache, and what its beams are worth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.mutual.config import GeneratorConfig
from refseg.methods.mutual.generator import Generator, Memory
from refseg.methods.mutual.policy import token_log_p
from refseg.nn.beam import Rules, beam_search
from tests.methods.mutual.toy import (
    IMAGE_OF,
    IMAGES,
    TARGET,
    E,
    N,
    V,
    generator,
    no_gradient,
    proposals,
    sentences,
)

BOTH = pytest.mark.parametrize("target_only", [False, True])


def logits(model: Generator, objects: Tensor, target: Tensor = TARGET) -> Tensor:
    return model(sentences(), model.remember(objects, IMAGE_OF, target))


def test_one_projection_per_image_is_one_per_object() -> None:
    """W(O + I(k)) = W(O + I_neg) + onehot(k) W(I_pos - I_neg): values and gradients."""
    model, objects = generator(), proposals().requires_grad_()
    shared = model.remember(objects, IMAGE_OF, TARGET)
    naive = model._project(model.indicator.mark(objects, IMAGE_OF, TARGET))
    seen = []
    for memory in (shared, naive):
        model.zero_grad()
        objects.grad = None
        model(sentences(), memory).square().sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        seen.append({**grads, "objects": objects.grad})
    for ours, theirs in zip(shared.layers, naive.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)
    assert seen[0].keys() == seen[1].keys()
    for name in seen[0]:
        torch.testing.assert_close(seen[0][name], seen[1][name])


def test_each_image_is_projected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = generator(), []
    for layer in model._decoder():
        made = layer.memory.prepare

        def counted(keys: Tensor, made: Any = made) -> Any:
            sizes.append(len(keys))
            return made(keys)

        monkeypatch.setattr(layer.memory, "prepare", counted)
    model.write(model.remember(proposals(), IMAGE_OF, TARGET), beams=3)
    assert sizes == [IMAGES, IMAGES]  # one call a layer, of images, not of objects or beams


@BOTH
def test_the_order_of_proposals_does_not_matter(target_only: bool) -> None:
    """Fact 1: permuted together with k nothing changes; another k is another sentence."""
    model, objects = generator(target_only=target_only), proposals()
    turn = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        straight = logits(model, objects)
        torch.testing.assert_close(
            logits(model, objects[:, turn], turn.argsort()[TARGET]), straight
        )
        other = logits(model, objects, (TARGET + 1) % N)
    assert ((other - straight).abs().amax(dim=(1, 2)) > 1e-3).all()


def test_the_others_are_heard_unless_the_target_is_all() -> None:
    objects = proposals()
    changed = objects.clone()
    changed[2, 1] += 1.0  # nobody's target
    for target_only in (False, True):
        model = generator(target_only=target_only)
        with torch.no_grad():
            moved = (logits(model, changed) - logits(model, objects)).abs().amax(dim=(1, 2))
        assert torch.equal(moved > 0, (IMAGE_OF == 2) & (not target_only))


def test_a_word_does_not_see_the_next() -> None:
    """Fact 2, and so does what pads a caption on the right."""
    model = generator()
    with torch.no_grad():
        memory = model.remember(proposals(), IMAGE_OF, TARGET)
        words = sentences()
        full = model(words, memory)
        for length in range(1, words.shape[1]):
            torch.testing.assert_close(model(words[:, :length], memory), full[:, :length])
            junk = torch.cat([words[:, :length], words[:, length:].flip(1)], dim=1)
            torch.testing.assert_close(model(junk, memory)[:, :length], full[:, :length])


def test_several_sentences_of_an_object_are_each_alone() -> None:
    model = generator()
    words = torch.stack([sentences(seed=seed) for seed in range(4)], dim=1)  # [E, 4, L]
    with torch.no_grad():
        memory = model.remember(proposals(), IMAGE_OF, TARGET)
        together = model(words, memory)
        assert together.shape == (E, 4, 6, V)
        for s in range(4):
            torch.testing.assert_close(together[:, s], model(words[:, s], memory))


@BOTH
def test_the_cache_changes_no_logit(target_only: bool) -> None:
    """Fact 8. Two sentences of each object, read word by word, one object leaving on the way."""
    model = generator(target_only=target_only)
    words = torch.stack([sentences(seed=seed) for seed in range(2)], dim=1)  # [E, 2, L]
    with torch.no_grad():
        memory = model.remember(proposals(), IMAGE_OF, TARGET)
        full = model(words, memory)
        state, here = model.begin(memory), torch.arange(E)
        for place in range(6):
            last = words[here, :, place]
            step, state = model.step(last if place else last[:, :1], state)
            torch.testing.assert_close(step, full[here, : step.shape[1], place])
            stay = torch.tensor([i for i in range(len(here)) if place != 2 or i != 1])
            # All beams grow out of the first at the start, and keep their places afterwards.
            beams = torch.zeros(E, 2).long() if not place else torch.tensor([[0, 1]]).expand(E, 2)
            state, here = state.select(stay, beams[stay]), here[stay]
    assert len(here) == E - 1
    assert state.length == 6


@dataclass(frozen=True)
class Rereading:
    """The state without a cache: all words so far, [E, W, t]."""

    memory: Memory
    words: Tensor | None = None

    def select(self, items: Tensor, beams: Tensor) -> Rereading:
        assert self.words is not None
        chosen = self.words[items[:, None], beams]
        return Rereading(self.memory[items], chosen)


@BOTH
@pytest.mark.parametrize("beams", [1, 3])
def test_the_cache_changes_no_sentence(beams: int, target_only: bool) -> None:
    model = generator(target_only=target_only)

    def step(last: Tensor, state: Rereading) -> tuple[Tensor, Rereading]:
        parts = [] if state.words is None else [state.words]
        words = torch.cat([*parts, last[..., None]], dim=-1)
        return model(words, state.memory)[:, :, -1], Rereading(state.memory, words)

    with torch.no_grad():
        memory = model.remember(proposals(), IMAGE_OF, TARGET)
        rules = Rules(end=3, max_steps=6, beams=beams, never=(0, 1, 2, 4))
        slow = beam_search(step, Rereading(memory), torch.full((E,), 2), rules)
        fast = model.write(memory, beams=beams)
    assert torch.equal(fast.words, slow.words)
    torch.testing.assert_close(fast.log_p, slow.log_p)


@pytest.mark.parametrize("beams", [1, 5])
def test_beam_scores_are_teacher_forced(beams: int) -> None:
    """Fact 8: the sum of a found sentence's log p, computed again in one pass."""
    model = generator()
    memory = model.remember(proposals(), IMAGE_OF, TARGET)
    found = model.write(memory, beams=beams)
    words, targets, mask = model.follow(found)
    assert (words[..., 0] == 2).all()
    assert torch.equal(targets, found.words)
    log_p = (token_log_p(model(words, memory), targets) * mask).sum(-1)
    assert log_p.requires_grad
    torch.testing.assert_close(log_p.detach(), found.log_p)
    assert torch.equal(found.log_p, found.log_p.sort(dim=1, descending=True).values)
    assert all(len({tuple(row) for row in item}) == beams for item in found.words.tolist())


@pytest.mark.parametrize("rank", ["sum", "mean"])
def test_many_beams_are_exhaustive_search(rank: Literal["sum", "mean"]) -> None:
    """All sentences of up to two of six words, scored one by one; by the mean where asked."""
    model = generator(max_words=4, rank=rank)
    with torch.no_grad():
        memory = model.remember(proposals(), IMAGE_OF, TARGET)
        found = model.write(memory, beams=6, keep=4)
        asked = generator(max_words=4).write(memory, beams=6, keep=4, rank=rank)
        options = [w for n in (1, 2) for w in product(range(5, V), repeat=n)]
        scores = []
        for option in options:
            words = torch.tensor([2, *option, 3]).expand(E, -1)
            log_p = token_log_p(model(words[:, :-1], memory), words[:, 1:])
            scores.append(log_p.mean(-1) if rank == "mean" else log_p.sum(-1))
    best = torch.stack(scores, dim=1).topk(4, dim=1)
    by = found.lengths if rank == "mean" else 1
    torch.testing.assert_close(found.log_p / by, best.values)
    assert torch.equal(asked.words, found.words)  # the question counts more than the config
    for e in range(E):
        lengths = found.lengths[e].tolist()
        rows = zip(found.words[e].tolist(), lengths, strict=True)
        assert [tuple(w[: n - 1]) for w, n in rows] == [options[i] for i in best.indices[e]]


def test_objects_together_are_objects_alone() -> None:
    model, objects = generator(), proposals()
    with torch.no_grad():
        together = model.write(model.remember(objects, IMAGE_OF, TARGET), beams=3)
        for e in range(E):
            image = objects[IMAGE_OF[e]][None]
            memory = model.remember(image, torch.tensor([0]), TARGET[e : e + 1])
            alone = model.write(memory, beams=3)
            torch.testing.assert_close(together.log_p[e], alone.log_p[0])
            longest = alone.words.shape[-1]
            assert torch.equal(together.words[e, :, :longest], alone.words[0])
            assert not together.words[e, :, longest:].any()


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_learns(tied: bool) -> None:
    model = generator(tied=tied).train()
    objects = proposals().requires_grad_()
    logits(model, objects).log_softmax(-1)[..., 5].sum().backward()
    assert no_gradient(model) == []
    assert objects.grad is not None
    # every proposal of every image is heard through the cross-attention
    assert (objects.grad.abs().sum(dim=-1) > 0).all()


def test_target_only_asks_its_one_proposal_in_vain() -> None:
    """With one key there is nothing to choose: the questions alone learn nothing."""
    model = generator(target_only=True).train()
    objects = proposals().requires_grad_()
    logits(model, objects).log_softmax(-1)[..., 5].sum().backward()
    assert {name.split(".", 2)[2] for name in no_gradient(model)} == {
        "memory.q.weight",
        "memory.q.bias",
    }
    assert objects.grad is not None
    heard = {(int(i), int(k)) for i, k in objects.grad.abs().sum(dim=-1).nonzero()}
    assert heard == set(zip(IMAGE_OF.tolist(), TARGET.tolist(), strict=True))


def test_the_first_guess_is_nearly_uniform() -> None:
    torch.manual_seed(0)
    config = generator().config.model_copy(update={"width": 64, "vocab_size": 500})
    model = Generator(config, 12).eval()
    with torch.no_grad():
        memory = model.remember(proposals().float(), IMAGE_OF, TARGET)
        log_p = model(sentences(), memory).log_softmax(-1)
    assert (-log_p.mean() - torch.tensor(500.0).log()).abs() < 0.1


def test_words_are_written_in_evaluation_mode() -> None:
    model = generator().train()
    memory = model.remember(proposals(), IMAGE_OF, TARGET)
    with pytest.raises(ValueError, match="eval"):
        model.write(memory, beams=2)
    generator(dropout=0.0).train().write(memory, beams=2)


def test_a_sentence_may_be_too_long() -> None:
    model = generator()
    memory = model.remember(proposals(), IMAGE_OF, TARGET)
    with pytest.raises(ConfigError, match="max_words is 7"):
        model(sentences(7), memory)


@pytest.mark.parametrize("change", [{"end": 11}, {"never": (12,)}, {"never": (3,)}])
def test_ids_must_be_words(change: dict[str, Any]) -> None:
    base = {"vocab_size": 11, "start": 2, "end": 3, "never": (0,)}
    with pytest.raises(ValueError, match=r"never|vocabulary"):
        GeneratorConfig(**{**base, **change})


THERE = torch.ones(IMAGES, N, dtype=torch.bool)
THERE[0, 5] = THERE[1, [0, 2]] = THERE[2, [1, 4]] = False  # no target is among them


@BOTH
def test_who_is_not_there_does_not_matter(target_only: bool) -> None:
    """Junk on padding changes nothing; the others hear as if it were not in the image."""
    model = generator(target_only=target_only)
    junk = torch.where(THERE[..., None], proposals(), 99.0)
    with torch.no_grad():
        memories = [model.remember(o, IMAGE_OF, TARGET, THERE) for o in (proposals(), junk)]
        words, found = zip(
            *((model(sentences(), m), model.write(m, beams=3)) for m in memories), strict=True
        )
        torch.testing.assert_close(*words)
        torch.testing.assert_close(found[0].log_p, found[1].log_p)
        assert torch.equal(found[0].words, found[1].words)
        for e in range(E):
            here = THERE[IMAGE_OF[e]]
            place = here[: TARGET[e]].sum()[None]
            image = proposals()[IMAGE_OF[e]][here][None]
            memory = model.remember(image, torch.tensor([0]), place)
            torch.testing.assert_close(model(sentences()[e : e + 1], memory)[0], words[0][e])
            alone = model.write(memory, beams=3)
            torch.testing.assert_close(found[0].log_p[e], alone.log_p[0])
        if not target_only:
            full = model(sentences(), model.remember(proposals(), IMAGE_OF, TARGET))
            assert ((full - words[0]).abs().amax(dim=(1, 2)) > 1e-4).all()


def test_a_memory_can_be_cut_and_counted() -> None:
    model = generator()
    memory = model.remember(proposals(), IMAGE_OF, TARGET, THERE)
    assert len(memory) == E
    rows = torch.tensor([3, 1])
    part = memory[rows]
    assert len(part) == 2
    assert part.there is not None
    assert torch.equal(part.there, THERE[IMAGE_OF[rows]])
    with torch.no_grad():
        torch.testing.assert_close(model(sentences()[rows], part), model(sentences(), memory)[rows])
    assert model.remember(proposals(), IMAGE_OF, TARGET)[rows].there is None
