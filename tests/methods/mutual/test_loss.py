"""The losses of both heads by a loop, and what sentences that a model wrote may teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.mutual import Mutual
from refseg.methods.mutual.loss import generation_loss, selection_loss
from refseg.methods.mutual.mask2former import Mask2FormerExtractor
from refseg.methods.mutual.meant import chosen_objects
from refseg.methods.mutual.proposals import Matching
from refseg.types import Batch
from tests.methods.mutual.toy import FIRST, RESNET, first_weight, shaken
from tests.methods.toy import losses, rows_of, toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config


def method_of(extractor: Any = None, **changes: Any) -> Mutual:
    torch.manual_seed(0)
    config = mutual_config(extractor or annotated_config(), **changes)
    made: Mutual = shaken(Mutual(config)).float()
    return made


def batch_of(pseudo: tuple[int, ...] = (), weight: float = 1.0) -> Batch:
    """Four expressions about two images; rows `pseudo` were written by a model, weighing so."""
    batch = toy_batch(toy_samples(2), share_images=True)
    rows = torch.zeros(len(batch), dtype=torch.bool)
    rows[list(pseudo)] = True
    return replace(batch, pseudo=rows, weights=torch.where(rows, weight, batch.weights))


def gradients(method: Mutual, value: Tensor) -> dict[str, Tensor]:
    method.zero_grad()
    value.backward(retain_graph=True)
    return {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


def test_selection_is_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4, generator=generator)
    scores[3, 2:] = -torch.inf  # an image with two proposals
    weights = torch.tensor([1.0, 0.1, 0.5, 0.1, 1.0])
    rows, target = torch.tensor([0, 2, 3]), torch.tensor([3, 0, 1])
    total = 0.0
    for row, k in zip(rows.tolist(), target.tolist(), strict=True):
        p = scores[row].exp() / scores[row].exp().sum()
        total -= float(weights[row] * p[k].log())
    # Over all B, so that an expression without an object weighs nothing but is counted.
    assert float(selection_loss(scores, rows, target, weights)) == pytest.approx(total / 5)


def test_selection_without_rows_is_zero_and_has_a_gradient() -> None:
    scores = torch.full((2, 3), -torch.inf)
    scores[0, 0] = 4.0
    scores.requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    loss = selection_loss(scores, none, none, torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_generation_is_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 7, generator=generator)
    words = torch.randint(7, (3, 4), generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    weights = torch.tensor([1.0, 0.1, 0.5])
    told = []
    for e in range(3):
        for place in range(4):
            if mask[e, place]:
                p = logits[e, place].exp() / logits[e, place].exp().sum()
                told.append(-float(weights[e] * p[words[e, place]].log()))
    # Over all words, so that a sentence that weighs less than one is counted whole.
    assert len(told) == 7
    assert float(generation_loss(logits, words, mask, weights)) == pytest.approx(sum(told) / 7)


def test_l_gen_is_the_teacher_forced_sentence() -> None:
    """The words after [CLS], the end included, each from those before it."""
    method, batch = method_of(), batch_of()
    with torch.no_grad():
        told = losses(method, batch)["generation"]
        proposals = method.propose(batch)
        logs = []
        for b in range(len(batch)):
            ids = batch.words[b][batch.word_mask[b]]
            image, k = batch.image_of[b : b + 1], batch.targets[b : b + 1]
            memory = method.remember(proposals, image, k)
            for place in range(1, len(ids)):
                logits = method.generator(ids[None, :place], memory)[0, -1]
                logs.append(-logits.log_softmax(-1)[ids[place]])
            assert ids[-1] == method.config.generator.end
    torch.testing.assert_close(told, torch.stack(logs).mean())


def test_pseudo_expressions_weigh_a_tenth() -> None:
    """Fact 6: loss and gradient of a batch of them are 0.1 of the same batch by people."""
    method = method_of()
    by_people = losses(method, batch_of())["selection"]
    by_models = losses(method, batch_of((0, 1, 2, 3), 0.1))["selection"]
    torch.testing.assert_close(by_models, 0.1 * by_people)
    ours, theirs = gradients(method, by_models), gradients(method, by_people)
    assert ours.keys() == theirs.keys()
    assert any(bool(g.any()) for g in theirs.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], 0.1 * value, atol=1e-7, rtol=1e-4)


def test_weight_nothing_is_not_there() -> None:
    """Fact 6: its sentence is in no numerator."""
    method, batch = method_of(), batch_of((1,), 0.0)
    other = replace(batch, words=batch.words[[0, 3, 2, 3]], word_mask=batch.word_mask[[0, 3, 2, 3]])
    with torch.no_grad():
        assert torch.equal(losses(method, batch)["selection"], losses(method, other)["selection"])
        people = losses(method, batch_of())["selection"]
    assert not torch.isclose(people, losses(method, batch)["selection"])


def test_the_generator_learns_from_people() -> None:
    """L_gen of a mixed batch is that of its human rows."""
    method = method_of()
    with torch.no_grad():
        mixed = losses(method, batch_of((0, 3), 0.1))["generation"]
        human = losses(method, rows_of(batch_of(), [1, 2]))["generation"]
        every = losses(method, batch_of())["generation"]
        torch.testing.assert_close(mixed, human)
        assert not torch.isclose(mixed, every)


def test_written_sentences_that_are_let_in_weigh_what_they_weigh() -> None:
    """The paper's "down-weight" of L_gen: a tenth of their words' loss, over the words of all."""
    method = method_of(pseudo_generates=True)
    with torch.no_grad():
        mixed = losses(method, batch_of((0, 3), 0.1))["generation"]
        every, words = losses(method, batch_of())["generation"], 0
        expected = 0.0
        for row in range(4):
            alone = rows_of(batch_of(), [row])
            count = int(alone.word_mask.sum()) - 1  # of all but [CLS]
            expected += (
                (0.1 if row in (0, 3) else 1.0) * count * float(losses(method, alone)["generation"])
            )
            words += count
    assert float(mixed) == pytest.approx(expected / words)
    assert float(mixed) < 0.9 * float(every)
    by_models = losses(method, batch_of((0, 1, 2, 3), 0.1))["generation"]
    torch.testing.assert_close(by_models, 0.1 * every)
    grads = gradients(method, by_models)
    assert grads["generator.words.weight"].any()


def test_a_batch_of_pseudo_expressions_alone() -> None:
    """A finite loss, and a gradient of the generator that is there and is zero."""
    method = method_of().train()
    terms = losses(method, batch_of((0, 1, 2, 3), 0.1))
    assert float(terms["generation"].detach()) == 0
    terms["total"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert not (name.startswith("generator") and parameter.grad.any()), name
    assert method.selection.text.weight.grad is not None
    assert method.selection.text.weight.grad.any()


def test_who_has_no_object_says_nothing() -> None:
    """No target, or none that a proposal stands for."""
    batch = replace(batch_of(), targets=torch.tensor([1, -1, 0, 1]))
    matching = Matching(torch.tensor([[5, 2], [-1, 4]]), torch.zeros(2, 2))
    rows, k = chosen_objects(matching, batch)
    assert (rows.tolist(), k.tolist()) == ([0, 3], [2, 4])
    nobody = replace(batch, targets=torch.full((4,), -1))
    terms = losses(method_of(), nobody)
    assert float(terms["selection"].detach()) == float(terms["generation"].detach()) == 0
    terms["total"].backward()


def test_the_total_is_the_weighted_sum() -> None:
    batch = batch_of()
    plain = losses(method_of(), batch)
    heavy = losses(method_of(selection_weight=3.0, generation_weight=0.5), batch)
    assert set(plain) == {"selection", "generation", "total"}
    torch.testing.assert_close(heavy["selection"], 3 * plain["selection"])
    torch.testing.assert_close(heavy["generation"], 0.5 * plain["generation"])
    torch.testing.assert_close(heavy["total"], heavy["selection"] + heavy["generation"])


@pytest.mark.parametrize("kept", ["select", "generate"])
def test_one_task_alone(kept: str) -> None:
    """Single-task ablations: the other head is not there and its term neither."""
    method = method_of(**{"select": kept == "select", "generate": kept == "generate"})
    name = {"select": "selection", "generate": "generation"}[kept]
    assert set(losses(method, batch_of())) == {name, "total"}
    assert hasattr(method, "generator") == (kept == "generate")
    places = {"select": {"text.max_positions": 32}, "generate": {"generator.max_words": 12}}
    assert method.word_limits == places[kept]
    assert method_of().word_limits == places["select"] | places["generate"]
    method.parameter_groups()


@pytest.mark.parametrize("kind", sorted(FIRST))
@pytest.mark.parametrize("end_to_end", [True, False])
def test_both_heads_teach_the_first_layer(kind: str, end_to_end: bool) -> None:
    """Checklist 1: from each loss alone a gradient on what first sees pixels, or none at all."""
    changes = {"backbone": RESNET} if kind == "resnet" else {}
    method = method_of(mask2former_config(**changes), end_to_end=end_to_end).train()
    first = first_weight(kind, method)
    terms = losses(method, batch_of())
    for name in ("generation", "selection", "mask"):
        (found,) = torch.autograd.grad(terms[name], first, retain_graph=True, allow_unused=True)
        taught = found is not None and bool(found.any())
        assert taught == (end_to_end or name == "mask"), name
    heads = [method.generator.words.weight, method.text.bert.embeddings.word_embeddings.weight]
    for name, weight in zip(("generation", "selection"), heads, strict=True):
        (found,) = torch.autograd.grad(terms[name], weight, retain_graph=True)
        assert found.any()


def test_one_matching_serves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traps 1 to 3: asked once a step; the extractor's loss and k get the same answer."""
    method, batch = method_of(mask2former_config()), batch_of()
    made, used = [], []
    match, loss = Mask2FormerExtractor.match, Mask2FormerExtractor.loss

    def counted(self: Any, *given: Any) -> Matching:
        made.append(match(self, *given))
        return made[-1]

    def watched(self: Any, proposals: Any, objects: Any, matching: Matching, *more: Any) -> Any:
        used.append(matching)
        return loss(self, proposals, objects, matching, *more)

    monkeypatch.setattr(Mask2FormerExtractor, "match", counted)
    monkeypatch.setattr(Mask2FormerExtractor, "loss", watched)
    with torch.no_grad():
        outputs = method(batch)
        terms = method.loss(outputs, batch)
        assert len(made) == 1
        assert used == made
        rows, k = chosen_objects(made[0], batch)
        expected = selection_loss(outputs.scores, rows, k, batch.weights)
        assert torch.equal(terms["selection"], expected)
        again = method.match(outputs.proposals, batch)
    assert torch.equal(again.proposal, made[0].proposal)


def test_bad_matches_are_learned_from_and_told_but_add_nothing() -> None:
    """The log's shares are of the step's own matching, and in no sum."""
    method, batch = method_of(mask2former_config(queries=1)), batch_of()
    terms = losses(method, batch)
    looked_at = {"unmatched", "poorly matched"}
    learned = {"class", "mask", "dice", "selection", "generation"}
    assert set(terms) == learned | looked_at | {"total"}
    torch.testing.assert_close(terms["total"], sum(terms[name] for name in learned))
    assert not any(terms[name].requires_grad for name in looked_at)
    with torch.no_grad():
        matching = method.match(method.propose(batch), batch)
    assert batch.targets is not None
    told = matching.proposal[batch.image_of, batch.targets]
    fits = matching.iou[batch.image_of, batch.targets]
    assert float(terms["unmatched"]) == (told < 0).sum() / 4 == 0.5
    assert float(terms["poorly matched"]) == (fits < 0.5).sum() / 4 > 0
    assert float(terms["selection"].detach()) == 0  # of one proposal there is no choice
    assert float(terms["generation"].detach()) > 0
    assert looked_at.isdisjoint(losses(method_of(), batch))  # objects are their own proposals
