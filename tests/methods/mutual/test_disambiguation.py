"""Step 2: only the generator moves (fact 5), and rewards and loss are those of plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refseg.errors import ConfigError, DataError
from refseg.methods.mutual import Mutual
from refseg.methods.mutual.config import PolicyConfig, ResNetVisionConfig
from refseg.methods.mutual.disambiguation import Disambiguation, Rollout, Texts
from refseg.metrics.captions import CiderD, DocumentFrequency
from refseg.train.config import TrainConfig
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.types import Batch
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.toy_configs import (
    annotated_config,
    mask2former_config,
    mutual_config,
    toy_tokenizer,
)

RESNET = ResNetVisionConfig(stem=8, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1), block="basic")
EXTRACTORS = {
    "swin": mask2former_config,
    "resnet": lambda: mask2former_config(backbone=RESNET),
    "annotated": annotated_config,
}
IMAGES = 3
#: What people wrote about the objects 0..5; two sentences each.
REFERENCES = {sample.ref_id: [sample.text, f"the {sample.text}"] for sample in toy_samples(IMAGES)}
FREQUENCY = DocumentFrequency.fit(REFERENCES)
Spell = Callable[[Iterable[int]], str]


def method_of(kind: str = "annotated", **changes: Any) -> Mutual:
    """Shaken, so that sentences and scores differ from object to object."""
    torch.manual_seed(3)
    made = Mutual(mutual_config(EXTRACTORS[kind](), **changes))  # type: ignore[operator]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def read(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    encoded = toy_tokenizer().encode(list(texts))
    return torch.from_numpy(encoded.words), torch.from_numpy(encoded.mask)


def learner_of(method: Mutual, spell: Spell | None = None, **policy: Any) -> Disambiguation:
    texts = Texts(spell or toy_tokenizer().decode, read, CiderD(REFERENCES, FREQUENCY).score)
    return Disambiguation(method, PolicyConfig(**{"beams": 3, **policy}), texts)


def batch_of(images: int = IMAGES) -> Batch:
    return toy_batch(toy_samples(images), share_images=True)


# -- fact 5 ------------------------------------------------------------------------------------


def everything(method: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that no file keeps too."""
    named = [*method.named_parameters(), *method.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


@pytest.mark.parametrize("kind", sorted(EXTRACTORS))
def test_only_the_generator_moves(kind: str, tmp_path: Path) -> None:
    method = method_of(kind)
    before = everything(method)
    if kind == "resnet":
        assert any(name.endswith("running_mean") for name in before)
    samples = toy_samples(IMAGES)
    data = TrainData(IMAGES, lambda rows, _: toy_batch([samples[2 * row] for row in rows]))
    train = TrainConfig(
        steps=3, batch_size=2, lr=1e-2, weight_decay=0.1, ema=0.5, precision="bf16",
        evaluate_every=None, cpu=True,
    )  # fmt: skip
    fit(learner_of(method), data, train, tmp_path / "run", progress="none")
    after = everything(method)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    own = {name for name in before if name.startswith("generator.")}
    assert moved <= own
    assert {"generator.indicator.positive", "generator.indicator.negative"} <= moved
    assert len(moved) > len(own) / 2


def test_nothing_is_ever_in_train_mode_and_nothing_drops_out() -> None:
    config = mutual_config(annotated_config())
    dropping = config.generator.model_copy(update={"dropout": 0.5})
    selection = config.selection.model_copy(update={"dropout": 0.5})
    method = method_of(generator=dropping, selection=selection)
    learner, batch = learner_of(method), batch_of()
    first = learner(batch)
    assert learner.train() is learner
    assert not any(module.training for module in learner.modules())
    second = learner(batch)
    assert torch.equal(first.log_p, second.log_p)
    assert torch.equal(first.rewards, second.rewards)


def test_the_groups_are_the_generator() -> None:
    learner = learner_of(method_of("swin"))
    grouped = {id(p) for group in learner.parameter_groups() for p in group.parameters}
    assert grouped == {id(p) for p in learner.method.generator.parameters()}
    assert {id(p) for p in learner.parameters() if p.requires_grad} == grouped


# -- rewards and loss by loops -----------------------------------------------------------------


def looped(
    learner: Disambiguation, batch: Batch, spell: Spell, beams: int
) -> list[list[tuple[float, float, Tensor]]]:
    """Per object and sentence: alpha p, CIDEr, log p. One object, one sentence at a time."""
    method, policy, found = learner.method, learner.config, []
    proposals = method.propose(batch)
    matching = method.match(proposals, batch)
    assert batch.targets is not None
    assert batch.objects is not None
    for image, target in zip(batch.image_of.tolist(), batch.targets.tolist(), strict=True):
        k = matching.proposal[image, target]
        features = proposals.features[image : image + 1]
        there = None if proposals.there is None else proposals.there[image : image + 1]
        own, alone = torch.tensor([0]), replace(proposals, features=features, there=there)
        memory = method.remember(alone, own, k[None])
        written = method.generator.write(memory, beams=beams)
        ann_id, rows = int(batch.objects.ann_ids[image, target]), []
        for ids, length in zip(written.words[0], written.lengths[0].tolist(), strict=True):
            sentence = ids[:length].tolist()
            start = [method.generator.config.start, *sentence[:-1]]
            logits = method.generator(torch.tensor([start]), memory)[0]
            log_p = logits.log_softmax(1)[torch.arange(length), ids[:length]].sum()
            text, clear, cider = spell(sentence), 0.0, 0.0
            if any(c.isalnum() for c in text):
                scores = method.score(alone, own, *read([text]))[0].tolist()
                powers = [math.exp(score / policy.tau) for score in scores]
                clear = policy.alpha * powers[int(k)] / sum(powers)
                cider = float(CiderD(REFERENCES, FREQUENCY).score([ann_id], [text])[0])
            rows.append((clear, cider, log_p))
        found.append(rows)
    return found


def total(rows: list[tuple[float, float, Tensor]], cider: float) -> list[float]:
    return [clear + cider * similar for clear, similar, _ in rows]


def eq_4(rewards: list[float], log_p: list[Tensor], kind: str, greedy: float) -> Tensor:
    """-1/Q sum_q (r_q - b) log p_q."""
    losses = []
    for q, reward in enumerate(rewards):
        others = rewards if kind == "mean" else [r for p, r in enumerate(rewards) if p != q]
        average = sum(others) / len(others)
        b = {"none": 0.0, "greedy": greedy}.get(kind, average)
        losses.append(-(reward - b) * log_p[q])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ["swin", "annotated"])
def test_rewards_and_loss_are_their_loops(kind: str) -> None:
    batch, method, spell = batch_of(), method_of(kind), toy_tokenizer().decode
    some = learner_of(method)
    rows = looped(some, batch, spell, 3)
    greedy = [one[0] for one in looped(some, batch, spell, 1)]
    assert len({round(clear, 4) for each in rows for clear, _, _ in each}) > 4
    for baseline in ("none", "mean", "greedy", "leave_one_out"):
        for cider in (1.0, 0.0, 0.5):
            learner = learner_of(method, baseline=baseline, cider=cider)
            seen = learner(batch)
            wanted = [total(each, cider) for each in rows]
            torch.testing.assert_close(seen.rewards, torch.tensor(wanted), atol=1e-4, rtol=1e-4)
            best = total(greedy, cider)
            if baseline == "greedy":
                torch.testing.assert_close(seen.greedy, torch.tensor(best), atol=1e-4, rtol=1e-4)
            else:
                assert seen.greedy is None
            plain = torch.stack([
                eq_4(rewards, [log_p for _, _, log_p in each], baseline, first)
                for rewards, each, first in zip(wanted, rows, best, strict=True)
            ]).mean()  # fmt: skip
            terms = learner.loss(seen, batch)
            torch.testing.assert_close(terms["total"], plain, atol=1e-4, rtol=1e-4)
            assert float(terms["reward"]) == pytest.approx(np.mean(wanted), rel=1e-4)
            flat = [one for each in rows for one in each]
            assert float(terms["cider"]) == pytest.approx(
                np.mean([s for _, s, _ in flat]), abs=1e-4
            )
            names, parameters = zip(*method.generator.named_parameters(), strict=True)
            ours = torch.autograd.grad(terms["total"], parameters)
            theirs = torch.autograd.grad(plain, parameters, retain_graph=True)
            for name, mine, other in zip(names, ours, theirs, strict=True):
                torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("eager", [True, False])
def test_the_greedy_sentence_is_one_more_where_no_beam_is_it(eager: bool) -> None:
    """Beams of this writer stop at once; its greedy sentences run on, but if eager to end."""
    batch, method = batch_of(), method_of()
    with torch.no_grad():
        method.generator.bias[method.generator.config.end] += 10.0 * eager
    plain, more = learner_of(method)(batch), learner_of(method, with_greedy=True)(batch)
    rows = looped(learner_of(method), batch, toy_tokenizer().decode, 3)
    alone = [each[0] for each in looped(learner_of(method), batch, toy_tokenizer().decode, 1)]
    torch.testing.assert_close(more.rewards[:, :3], plain.rewards)
    assert more.rewards.shape == (len(rows), 4)
    there = more.mask.any(dim=-1)[:, 3]
    for e, (beams, (clear, cider, log_p)) in enumerate(zip(rows, alone, strict=True)):
        new = all(abs(float(log_p.detach() - other.detach())) > 1e-4 for _, _, other in beams)
        assert bool(there[e]) == new
        if new:
            assert float(more.rewards[e, 3]) == pytest.approx(clear + cider, abs=1e-4)
            mine = more.log_p[e, 3][more.mask[e, 3]].sum()
            torch.testing.assert_close(mine, log_p, atol=1e-4, rtol=1e-4)
    assert there.tolist() == [not eager] * len(rows)


def test_an_end_is_a_word_of_whole_sentences_alone() -> None:
    """One that was cut off where sentences must end has none."""
    batch, method = batch_of(), method_of()
    told: list[str] = []

    def cider(ids: Sequence[int], texts: Sequence[str]) -> Any:
        told.extend(texts)
        return np.zeros(len(texts))

    texts = Texts(lambda ids: " ".join(map(str, ids)), read, cider, " endofsentence")
    seen = Disambiguation(method, PolicyConfig(beams=5, with_greedy=True), texts)(batch)
    longest = method.generator.config.max_words - 1
    lengths = [
        length for part in seen.mask.sum(dim=-1).split([5, 1], dim=1) for length in part[part > 0]
    ]
    whole = torch.stack(lengths) < longest
    assert [text.endswith(" endofsentence") for text in told] == whole.tolist()
    assert whole.any()
    assert not whole.all()


def test_sentences_are_read_as_text_and_not_as_the_generators_pieces() -> None:
    """Nobody but `spell` stands between: another spelling is judged as another sentence."""
    batch, method = batch_of(), method_of()
    same = learner_of(method, spell=lambda ids: "left red disc")(batch)
    torch.testing.assert_close(same.rewards, same.rewards[:, :1].expand(-1, 3))
    scores = method.score(method.propose(batch), batch.image_of, *read(["left red disc"] * 6))
    assert batch.targets is not None
    chance = (scores / 2.5).softmax(1)[torch.arange(6), batch.targets]
    torch.testing.assert_close(same.clear[:, 0], 4 * chance.detach())


def test_what_nobody_can_read_earns_nothing() -> None:
    def spell(ids: Iterable[int]) -> str:
        told = list(ids)
        return "..." if told[0] % 2 else toy_tokenizer().decode(told)

    batch, method = batch_of(), method_of()
    learner = learner_of(method, spell, beams=5)
    seen = learner(batch)
    wanted = torch.tensor([total(rows, 1.0) for rows in looped(learner, batch, spell, 5)])
    torch.testing.assert_close(seen.rewards, wanted, atol=1e-4, rtol=1e-4)
    assert (seen.rewards == 0).any()
    assert (seen.clear[seen.rewards == 0] == 0).all()
    assert (seen.rewards > 0).any()
    silent = learner_of(method, lambda ids: "?!")
    rollout = silent(batch)
    assert not rollout.rewards.any()
    assert float(silent.loss(rollout, batch)["total"].detach()) == 0


def test_expressions_that_mean_no_single_object_are_passed_over() -> None:
    batch, learner = batch_of(), learner_of(method_of())
    assert batch.targets is not None
    some = replace(batch, targets=torch.tensor([-1, 1, -1, -1, 0, -1]))
    whole, part = learner(batch), learner(some)
    torch.testing.assert_close(part.rewards, whole.rewards[[1, 4]])


@pytest.mark.parametrize("baseline", ["mean", "greedy"])
def test_a_batch_about_nothing_teaches_nothing(baseline: str) -> None:
    learner = learner_of(method_of(), baseline=baseline)
    batch = replace(batch_of(), targets=torch.full((6,), -1))
    seen: Rollout = learner(batch)
    assert seen.rewards.shape == (0, 3)
    terms = learner.loss(seen, batch)
    assert all(float(value.detach()) == 0 for value in terms.values())
    terms["total"].backward()
    gradients = [parameter.grad for parameter in learner.method.generator.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)


@pytest.mark.parametrize("missing", ["select", "generate"])
def test_one_head_is_not_enough(missing: str) -> None:
    with pytest.raises(ConfigError, match="writes and one that reads") as caught:
        learner_of(method_of(**{missing: False}))
    assert caught.value.remedy


def test_objects_are_needed() -> None:
    with pytest.raises(DataError, match="annotated objects"):
        learner_of(method_of())(replace(batch_of(), objects=None))
