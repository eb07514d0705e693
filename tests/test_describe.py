"""Writing about regions and referring back, with models that never learned anything."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refseg.data.collate import collate_pictures
from refseg.describe import Asked, Described, Verdict, describe, refer_back, writes
from refseg.errors import ConfigError, DataError, NoProposal
from refseg.methods.mutual import Mutual
from refseg.models import Model
from refseg.nn.beam import Found
from refseg.types import Objects, Picture
from tests.methods.toy import learned, toy_model, toy_samples
from tests.methods.toy_configs import annotated_config, mask2former_config, mutual_config

ASKED: Asked = ((1, 0), (0, 1), (1, 1), (2, 0))
BOTH = pytest.mark.parametrize("name", ["mutual", "mutual annotated"])


def model_of(name: str = "mutual annotated") -> Model:
    """Shaken, so that sentences and scores are many."""
    model = toy_model(name, seed=1)
    with torch.no_grad():
        for parameter in model.method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def with_config(extractor: Any, **changes: Any) -> Model:
    torch.manual_seed(0)
    made = Mutual(mutual_config(extractor, **changes))
    return replace(toy_model("mutual annotated"), method=made)


def pictures(sizes: tuple[tuple[int, int], ...] = ((64, 64), (40, 90))) -> list[Picture]:
    """Three, of two objects each."""
    return [Picture(s.image_id, s.image, s.objects) for s in toy_samples(3, sizes)[::2]]


def texts(found: list[Described]) -> list[list[str]]:
    return [[one.text for one in each.expressions] for each in found]


@BOTH
def test_expressions_are_distinct_and_the_best_come_first(name: str) -> None:
    model = model_of(name)
    found = describe(model, pictures(), ASKED, beams=4, keep=3)
    assert len(found) == len(ASKED)
    for each in found:
        said = [one.text for one in each.expressions]
        scores = [one.score for one in each.expressions]
        assert 1 <= len(said) <= 3
        assert len(set(said)) == len(said)
        assert scores == sorted(scores, reverse=True)
        assert all(score <= 0 for score in scores)
        assert all(one.refers_back is one.margin is None for one in each.expressions)
    assert len({tuple(said) for said in texts(found)}) > 1  # another region, another text


def test_what_was_learned_is_written_and_refers_back() -> None:
    model = replace(toy_model("mutual annotated"), method=learned("mutual annotated"))
    samples = toy_samples(2)
    seen = [Picture(s.image_id, s.image, s.objects) for s in samples[::2]]
    asked = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for beams in (1, 3):
        found = describe(model, seen, asked, beams=beams, verify=True)
        assert texts(found) == [[s.text] for s in samples]
        assert all(each.expressions[0].refers_back for each in found)
    margins = [v.margin for v in refer_back(model, seen, asked, [s.text for s in samples])]
    assert min(margins) > 0.5
    swapped = refer_back(model, seen, asked, [samples[i].text for i in (1, 0, 3, 2)])
    assert not any(v.hit for v in swapped)


@BOTH
def test_many_regions_are_each_alone(name: str) -> None:
    model = model_of(name)
    together = describe(model, pictures(), ASKED, beams=2, keep=2)
    for (place, row), each in zip(ASKED, together, strict=True):
        (alone,) = describe(model, [pictures()[place]], [(0, row)], beams=2, keep=2)
        assert texts([alone]) == texts([each])
        for one, other in zip(alone.expressions, each.expressions, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-3)


def test_greedy_is_one_sentence_word_by_word() -> None:
    model = model_of()
    found = describe(model, pictures(), ASKED, beams=1)
    for (place, row), each in zip(ASKED, found, strict=True):
        picture = pictures()[place]
        batch = model.batch(
            [replace(toy_samples(1)[0], image=picture.image, objects=picture.objects)]
        )
        ids = [model.method.config.generator.start]
        with torch.no_grad():
            memory = model.method.remember(
                model.method.propose(batch), torch.tensor([0]), torch.tensor([row])
            )
            for _ in range(model.method.config.generator.max_words - 2):
                logits = model.method.generator(torch.tensor([ids]), memory)[0, -1]
                logits[list(model.method.config.generator.never)] = -torch.inf
                if len(ids) == 1:
                    logits[model.method.config.generator.end] = -torch.inf  # a word at least
                ids.append(int(logits.argmax()))
                if ids[-1] == model.method.config.generator.end:
                    break
        said = model.tokenizer.decode(ids)
        assert texts([each]) == [[said] if any(c.isalnum() for c in said) else []]


def test_how_well_a_proposal_stands_for_the_region() -> None:
    model = model_of("mutual")
    found = describe(model, pictures(), ASKED, beams=1)
    batch = model.batch(toy_samples(3, ((64, 64), (40, 90))), share_images=True)
    with torch.no_grad():
        matching = model.method.match(model.method.propose(batch), batch)
    for (place, row), each in zip(ASKED, found, strict=True):
        assert each.proposal == int(matching.proposal[place, row])
        assert each.iou == pytest.approx(float(matching.iou[place, row]), abs=1e-6)
        assert 0 <= each.iou <= 1
    given = describe(model_of(), pictures(), ASKED, beams=1)
    assert [(each.iou, each.proposal) for each in given] == [(None, row) for _, row in ASKED]


def literal_verdict(model: Model, picture: Picture, k: int, text: str) -> tuple[bool, float]:
    """By the scores of one sentence about one picture."""
    sample = replace(toy_samples(1)[0], image=picture.image, objects=picture.objects, text=text)
    (scores,) = model.scores([sample])
    chance = np.exp(scores - scores.max())
    chance /= chance.sum()
    others = np.delete(chance, k)
    return int(scores.argmax()) == k, float(chance[k] - (others.max() if len(others) else 0))


@BOTH
def test_verdicts_are_the_scores_of_the_text(name: str) -> None:
    model = model_of(name)
    found = describe(model, pictures(), ASKED, beams=3, keep=2, verify=True)
    assert texts(found) == texts(describe(model, pictures(), ASKED, beams=3, keep=2))
    seen = set()
    for (place, _), each in zip(ASKED, found, strict=True):
        for one in each.expressions:
            hit, margin = literal_verdict(model, pictures()[place], each.proposal, one.text)
            assert one.refers_back is hit
            assert one.margin == pytest.approx(margin, abs=1e-4)
            assert one.margin is not None
            assert hit == (one.margin > 0)
            seen.add(hit)
    if name == "mutual annotated":  # of two, not of eight
        assert seen == {True, False}, "verdicts that are all alike test nothing"
    first = [each.expressions[0] for each in found]
    verdicts = refer_back(model, pictures(), ASKED, [one.text for one in first])
    assert [v.hit for v in verdicts] == [one.refers_back for one in first]
    assert [v.margin for v in verdicts] == pytest.approx([one.margin for one in first], abs=1e-5)


def test_another_model_may_judge() -> None:
    """Its own proposals stand for the regions."""
    judge = model_of("mutual")
    said = ["left red disc", "right blue square", "green disc", "the one on my far side"]
    verdicts = refer_back(judge, pictures(), ASKED, said)
    owner = [each.proposal for each in describe(judge, pictures(), ASKED, beams=1)]
    for (place, _), k, text, verdict in zip(ASKED, owner, said, verdicts, strict=True):
        hit, margin = literal_verdict(judge, pictures()[place], k, text)
        assert verdict.hit is hit
        assert verdict.margin == pytest.approx(margin, abs=1e-4)


def test_a_lone_proposal_has_no_rival() -> None:
    picture = pictures()[0]
    objects = picture.objects
    assert objects is not None
    assert objects.boxes_xyxy is not None
    lone = Objects(objects.ann_ids[:1], objects.categories[:1], objects.boxes_xyxy[:1])
    (verdict,) = refer_back(model_of(), [replace(picture, objects=lone)], [(0, 0)], ["red disc"])
    assert (verdict.hit, verdict.margin) == (True, 1.0)


@BOTH
def test_nothing_asked_is_nothing_said(name: str) -> None:
    model = model_of(name)
    for seen in (pictures(), []):
        assert describe(model, seen, [], verify=True) == []
        assert refer_back(model, seen, [], []) == []


def test_the_same_text_twice_and_no_text_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    red, disc, unknown = (
        model.tokenizer.tokenizer.token_to_id(t) for t in ("red", "disc", "[UNK]")
    )
    end = model.method.config.generator.end
    words = torch.tensor(
        [
            [[red, disc, end], [red, unknown, disc], [disc, end, 0], [end, 0, 0]],
            [[end, 0, 0], [unknown, end, 0], [0, 0, 0], [0, 0, 0]],
        ]
    )
    lengths = torch.tensor([[3, 3, 2, 1], [1, 2, 0, 0]])
    log_p = torch.tensor([[-1.0, -2, -3, -4], [-1, -2, -torch.inf, -torch.inf]])
    monkeypatch.setattr(model.method, "write", lambda *_, **__: Found(words, lengths, log_p))
    found = describe(model, pictures(), ASKED[:2], beams=4, keep=4, verify=True)
    assert texts(found) == [["red disc", "disc"], []]
    assert [one.score for one in found[0].expressions] == [-1.0, -3.0]
    assert all(one.margin is not None for one in found[0].expressions)
    assert texts(describe(model, pictures(), ASKED[:2], beams=4, keep=1)) == [["red disc"], []]


def test_proposals_that_are_known_are_not_looked_for_again() -> None:
    """Pictures may then come without pixels."""
    model = model_of("mutual")
    bare = [replace(one, image=one.image[..., :0]) for one in pictures()]
    with torch.no_grad():
        proposals = model.method.propose(collate_pictures(pictures(), model.preprocess))
    found = describe(model, bare, ASKED, beams=2, keep=2, proposals=proposals)
    assert found == describe(model, pictures(), ASKED, beams=2, keep=2)
    with pytest.raises(DataError, match="pixels=True"):
        describe(model, bare, ASKED)


@pytest.mark.parametrize("change", [{"beams": 0}, {"keep": 0}, {"beams": 10**6}])
def test_searches_have_a_size(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=rf"{name} .* out of range"):
        describe(model_of(), pictures(), ASKED, **change)


def test_who_cannot_write_says_so() -> None:
    vega, silent = toy_model("vega"), with_config(annotated_config(), generate=False)
    for model in (vega, silent):
        assert not writes(model)
        with pytest.raises(ConfigError, match="cannot write expressions"):
            describe(model, pictures(), ASKED)
    assert writes(model_of())


def test_who_cannot_read_says_so() -> None:
    deaf = with_config(annotated_config(), select=False)
    for model in (toy_model("vega"), deaf):
        with pytest.raises(ConfigError, match="does not choose among proposals"):
            refer_back(model, pictures(), ASKED[:1], ["red disc"])
    assert describe(deaf, pictures(), ASKED, beams=1)
    with pytest.raises(ConfigError, match=r"(?s)not taught to read.*method\.select=true"):
        describe(deaf, pictures(), ASKED, verify=True)


def without(row: int, image_id: int) -> Picture:
    """One of `pictures` whose object `row` has neither a box nor a mask."""
    picture = pictures()[0]
    objects = picture.objects
    assert objects is not None
    assert objects.boxes_xyxy is not None
    assert objects.masks is not None
    boxes, masks = objects.boxes_xyxy.copy(), list(objects.masks)
    boxes[row], masks[row] = np.nan, np.zeros_like(masks[row])
    gone = replace(objects, boxes_xyxy=boxes, masks=tuple(masks))
    return replace(picture, image_id=image_id, objects=gone)


def test_a_region_that_no_proposal_stands_for() -> None:
    """The picture and the region are named: no extent, or too many objects for too few queries."""
    seen, picture = without(1, 77), pictures()[0]
    crowded = with_config(mask2former_config(queries=1))
    for model, shown, asked in (
        (model_of(), seen, [(0, 1)]),
        (model_of("mutual"), seen, [(0, 0), (0, 1)]),
        (crowded, picture, [(0, 0), (0, 1)]),
    ):
        told = rf"image {shown.image_id}: no proposal .* object [01]"
        with pytest.raises(NoProposal, match=told) as caught:
            describe(model, [shown], asked)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert str(copy) == str(caught.value)
        with pytest.raises(NoProposal, match=told):
            refer_back(model, [shown], asked, ["red disc"] * len(asked))
    assert len(describe(model_of(), [seen], [(0, 0)])) == 1
    with pytest.raises(DataError, match="objects=True"):
        describe(model_of(), [replace(picture, objects=None)], [(0, 0)], strict=False)


@BOTH
def test_the_others_get_what_they_would_get_alone(name: str) -> None:
    """Regions without a proposal, in mixed pictures, go without, and no others change."""
    model = model_of(name)
    options: dict[str, Any] = {"beams": 3, "keep": 2, "verify": True}
    shown = [without(1, 7), *pictures()[1:], without(0, 8)]
    asked = [(0, 1), (1, 0), (0, 0), (3, 0), (2, 1), (3, 1)]
    lost = {(0, 1), (3, 0)}
    kept = [one for one in asked if one not in lost]
    nothing = Described((), None if name == "mutual annotated" else 0.0, -1)
    alone = dict(zip(kept, describe(model, shown, kept, **options), strict=True))
    found = describe(model, shown, asked, strict=False, **options)
    assert found == [alone.get(one, nothing) for one in asked]
    assert describe(model, shown, kept, strict=False, **options) == list(alone.values())

    said = dict(zip(asked, ["disc", "red disc", "left", "ball", "square", "a blue"], strict=True))
    verdicts = refer_back(model, shown, kept, [said[one] for one in kept])
    assert len({one.margin for one in verdicts}) > 1
    told = dict(zip(kept, verdicts, strict=True))
    missed = Verdict(hit=False, margin=-1.0, matched=False)
    assert refer_back(model, shown, asked, list(said.values()), strict=False) == [
        told.get(one, missed) for one in asked
    ]


@BOTH
def test_where_no_region_has_a_proposal_no_head_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shown, asked = model_of(name), [without(1, 7), without(0, 8)], [(1, 0), (0, 1)]
    for head in ("write", "score"):
        monkeypatch.setattr(model.method, head, None)
    iou = None if name == "mutual annotated" else 0.0
    found = describe(model, shown, asked, verify=True, strict=False)
    assert found == [Described((), iou, -1)] * 2
    verdicts = refer_back(model, shown, asked, ["red disc", "disc"], strict=False)
    assert verdicts == [Verdict(False, -1.0, matched=False)] * 2
