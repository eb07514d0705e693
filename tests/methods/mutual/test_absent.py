"""Expressions of what an image does not show: drawn soundly, learned by a loop's loss, told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from refseg.errors import DataError
from refseg.method import check_groups
from refseg.methods.mutual import Mutual, MutualConfig
from refseg.methods.mutual.absent import absent_loss, elsewhere, with_nothing
from refseg.methods.mutual.decode import decode
from refseg.methods.mutual.loss import selection_loss
from refseg.methods.mutual.proposals import Proposals
from refseg.types import Batch, NetObjects, Prediction
from tests.methods.toy import taught, toy_batch, toy_samples
from tests.methods.toy_configs import annotated_config, mutual_config

KINDS = ("cat", "dog", "kite")
SIDE = 32


def batch_of(shown: list[list[int]], asked: list[tuple[int, int]]) -> Batch:
    """Images showing things of KINDS; expressions (image, row of the object, -1 for none)."""
    whole = toy_batch(toy_samples(1), share_images=True)
    most = max(map(len, shown))
    known = torch.tensor([[k < len(one) for k in range(most)] for one in shown])
    objects = NetObjects(
        known=known,
        ann_ids=torch.arange(known.numel()).view(known.shape),
        geometry=whole.geometry[:1] * len(shown),
        categories=tuple(tuple(KINDS[k] for k in one) for one in shown),
    )
    return replace(
        whole,
        image_of=torch.tensor([image for image, _ in asked]),
        words=whole.words[:1].expand(len(asked), -1),
        keys=tuple(map(str, range(len(asked)))),
        texts=("something",) * len(asked),
        objects=objects,
        targets=torch.tensor([row for _, row in asked]),
    )


@st.composite
def worlds(draw: Any) -> tuple[list[list[int]], list[tuple[int, int]]]:
    images = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=5)
    shown = draw(images.filter(lambda found: any(found)))
    place = st.integers(0, len(shown) - 1).flatmap(
        lambda image: st.tuples(st.just(image), st.integers(-1, len(shown[image]) - 1))
    )
    return shown, draw(st.lists(place, min_size=1, max_size=8))


@given(worlds(), st.integers(0, 2**16))
def test_who_is_asked_elsewhere_is_not_there(world: Any, seed: int) -> None:
    shown, asked = world
    torch.manual_seed(seed)
    rows, images = elsewhere(batch_of(shown, asked), 1.0)
    told = dict(zip(rows.tolist(), images.tolist(), strict=True))
    assert len(told) == len(rows)
    for row, (image, place) in enumerate(asked):
        kind = shown[image][place] if place >= 0 else None
        able = [i for i, there in enumerate(shown) if kind is not None and kind not in there]
        assert (row in told) == bool(able)
        assert row not in told or told[row] in able


def test_every_image_without_it_is_asked_and_the_share_is_kept() -> None:
    batch = batch_of([[0], [1], [2, 1], [0, 2]], [(0, 0)] * 400)
    torch.manual_seed(0)
    rows, images = elsewhere(batch, 0.25)
    assert 60 < len(rows) < 140
    assert set(images.tolist()) == {1, 2}
    assert abs(float((images == 1).float().mean()) - 0.5) < 0.2
    assert len(elsewhere(batch, 0.0)[0]) == 0


def test_without_categories_nobody_knows_what_is_not_there() -> None:
    batch = batch_of([[0], [1]], [(0, 0)])
    assert batch.objects is not None
    with pytest.raises(DataError, match="categories"):
        elsewhere(replace(batch, objects=replace(batch.objects, categories=None)), 1.0)


def test_both_losses_are_loops_over_one_answer_more() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 3, generator=generator)
    scores[2, 1:] = -torch.inf
    s0, weights = torch.tensor([0.3]), torch.tensor([1.0, 0.5, 2.0, 1.0])
    rows, target = torch.tensor([0, 2]), torch.tensor([2, 0])
    chosen = absent = 0.0
    for row, k in ((0, 2), (2, 0)):
        whole = float(scores[row].exp().sum() + s0.exp())
        chosen -= float(weights[row]) * float((scores[row, k].exp() / whole).log())
    for row in range(4):
        whole = float(scores[row].exp().sum() + s0.exp())
        absent -= float(weights[row]) * float((s0.exp() / whole).log())
    assert float(selection_loss(scores, rows, target, weights, None, s0)) == pytest.approx(
        chosen / 4
    )
    right = torch.zeros(2, 3, dtype=torch.bool)
    assert float(selection_loss(scores, rows, target, weights, right, s0)) == pytest.approx(
        chosen / 4
    )
    assert float(absent_loss(scores, s0, weights, 7)) == pytest.approx(absent / 7)


def test_a_score_counts_that_nothing_may_be_meant() -> None:
    """What is chosen stays; with no proposal at all the score is 0."""
    batch = toy_batch(toy_samples(2), share_images=True)
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]).expand(2, 2, 4)
    scores = torch.tensor([[2.0, 1.0], [0.0, 4.0], [-1.0, -3.0], [-torch.inf, -torch.inf]])
    proposals = Proposals(torch.zeros(2, 2, 1), boxes=boxes)
    plain, told = (decode(proposals, scores, batch, s) for s in (None, torch.tensor([1.0])))
    for row, (one, other) in enumerate(zip(plain, told, strict=True)):
        assert np.array_equal(one.mask, other.mask)
        exps = scores[row].exp()
        expected = float(exps.max() / (exps.sum() + np.e))
        assert other.score == pytest.approx(expected)
        assert other.score < one.score or row == 3
    assert with_nothing(scores.double(), torch.tensor([1.0])).dtype == torch.float32


def method_of(absent: float) -> Mutual:
    torch.manual_seed(0)
    return Mutual(mutual_config(annotated_config(), absent=absent)).float()


def test_it_is_a_switch_that_is_off_by_default() -> None:
    off, on = method_of(0.0), method_of(0.5)
    assert MutualConfig().absent == 0
    assert set(on.state_dict()) - set(off.state_dict()) == {"nothing"}
    check_groups(on, on.parameter_groups())
    batch = toy_batch(toy_samples(2), share_images=True)
    assert "absent" not in off.loss(off(batch), batch)
    terms = on.loss(on(batch), batch)
    parts = [terms[name] for name in ("selection", "absent", "generation")]
    torch.testing.assert_close(terms["total"], sum(parts))
    assert "category" in on.needs.granted
    with pytest.raises(ValidationError, match="select is off"):
        MutualConfig(select=False, absent=0.5)


def test_what_is_not_there_is_learned_to_be_missed() -> None:
    """Squares are asked of images with discs alone, and the other way round."""
    one, other = of_kind("square"), of_kind("disc")
    batch = toy_batch([*one, *other], share_images=True)
    method = taught(method_of(1.0), batch, steps=150, lr=3e-3)
    own = scores_of(method, batch)
    swapped = replace(batch, image_of=1 - batch.image_of)
    assert min(own) > 0.8
    assert max(scores_of(method, swapped)) < 0.2


def of_kind(kind: str) -> list[Any]:
    """The two samples of the first drawn image whose things are both of a kind, as image 0 or 1."""
    for image in range(50):
        samples = toy_samples(image + 1)[-2:]
        assert samples[0].objects is not None
        if set(samples[0].objects.categories or ()) == {kind}:
            number = 0 if kind == "square" else 1
            return [replace(sample, image_id=number) for sample in samples]
    raise AssertionError(kind)


@torch.no_grad()
def scores_of(method: Mutual, batch: Batch) -> list[float]:
    told: list[Prediction] = method.eval().decode(method(batch), batch)
    return [one.score for one in told]
