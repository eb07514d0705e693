"""What every method promises (see `refseg.method`), asked of a toy of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refseg import models
from refseg.method import Method, MethodConfig, check_groups
from refseg.methods import METHODS, method_types
from refseg.methods.maskclip import MaskClip
from refseg.methods.sag import Sag
from refseg.ops.masks import box_mask
from refseg.types import Labels, Objects
from tests.methods.toy import (
    TOYS,
    answers,
    assert_same,
    drawn_objects,
    learned,
    losses,
    other_scene,
    rows_of,
    tensors,
    toy_batch,
    toy_method,
    toy_model,
    toy_samples,
    with_padding,
    without_labels,
)

ODD_SIZES = ((37, 91), (80, 53))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=sorted(TOYS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str) -> Any:
    return shaken(toy_method(name).eval())


def shaken(method: Any) -> Any:
    """Zero-initialised parts moved off zero, so that what hides behind them is tested too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0, 0.2, generator=generator)
    return method


def test_every_method_has_a_toy() -> None:
    assert {toy.method for toy in TOYS.values()} == set(METHODS)


def test_it_keeps_the_protocol(name: str, method: Any) -> None:
    kind, config = method_types(TOYS[name].method)
    assert isinstance(method, Method)
    assert isinstance(method, kind)
    assert isinstance(method.config, config)
    assert issubclass(config, MethodConfig)
    assert isinstance(method.needs, Labels)


def test_answers_have_the_size_of_the_image(method: Any) -> None:
    samples = toy_samples(2, ODD_SIZES)
    for fit in ("square", "letterbox"):
        batch = toy_batch(samples, fit=fit)
        predictions = answers(method, batch)
        assert len(predictions) == len(samples)
        for prediction, sample, geometry in zip(predictions, samples, batch.geometry, strict=True):
            assert prediction.mask.shape == sample.image.shape[:2]
            assert prediction.mask.dtype == np.bool_
            assert 0 <= prediction.score <= 1
            assert prediction.geometry == geometry
            if prediction.response is not None:
                assert prediction.response.dtype == np.float32
                assert 0 <= prediction.response.min() <= prediction.response.max() <= 1
            for polygon in prediction.polygons:
                assert polygon.ndim == 2
                assert polygon.shape[1] == 2


def test_one_pixel_and_strips_are_images_too(method: Any) -> None:
    samples = toy_samples(1, [(40, 40)])[:1] * 3
    sizes = [(1, 1), (1, 90), (90, 1)]
    tiny = [
        replace(s, image=np.full((*hw, 3), 7, np.uint8), mask=mask, objects=objects, target=0)
        for s, hw in zip(samples, sizes, strict=True)
        for mask in [np.ones(hw, bool)]
        for objects in [drawn_objects([mask], ["square"])]
    ]
    for fit in ("square", "letterbox"):
        masks = [p.mask for p in answers(method, toy_batch(tiny, fit=fit))]
        assert [mask.shape for mask in masks] == sizes


def test_the_loss_is_finite_and_its_terms_are_scalars(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    method.train()
    terms = method.loss(method(batch), batch)
    assert "total" in terms
    assert len(terms) > 1
    for term, value in terms.items():
        assert value.shape == (), term
        assert bool(torch.isfinite(value)), term


def test_every_trainable_parameter_gets_a_gradient(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    method.train()
    method.loss(method(batch), batch)["total"].backward()
    without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    # Biases may be cancelled by a norm or a softmax behind them; a matrix without any gradient
    # is one that nothing listens to.
    deaf = [
        n
        for n, p in method.named_parameters()
        if p.grad is not None and p.ndim > 1 and not p.grad.any()
    ]
    assert deaf == []
    frozen = [n for n, p in method.named_parameters() if not p.requires_grad and p.grad is not None]
    assert frozen == []


def test_the_groups_cover_what_is_trained_exactly(method: Any) -> None:
    groups = method.parameter_groups()
    check_groups(method, groups)
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)
    assert all(group.parameters for group in groups)
    tables = {id(p) for g in groups if g.decay_scale for p in g.parameters}
    decayed = [n for n, p in method.named_parameters() if id(p) in tables and p.ndim < 2]
    assert decayed == [], "norms, biases and scalars must not decay"


def rounding(method: Any) -> float:
    """Maps that are stretched to 0..1 have their rounding stretched, too."""
    return 1e-4 if isinstance(method, Sag | MaskClip) else 2e-5


def test_a_batch_is_its_rows_one_at_a_time(method: Any) -> None:
    batch = toy_batch(toy_samples(3, ((64, 64), *ODD_SIZES)))
    together = answers(method, batch)
    for row, prediction in enumerate(together):
        assert_same(prediction, answers(method, rows_of(batch, [row]))[0], rounding(method))


def test_rows_keep_their_order(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    straight = answers(method, batch)
    turned = answers(method, rows_of(batch, [3, 1, 0, 2]))
    for row, prediction in zip([3, 1, 0, 2], turned, strict=True):
        assert_same(straight[row], prediction, rounding(method))


def test_padding_changes_nothing(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    more = with_padding(batch, 5)
    assert not torch.equal(more.words[:, -5:], torch.zeros_like(more.words[:, -5:]))
    for ours, theirs in zip(answers(method, batch), answers(method, more), strict=True):
        assert_same(ours, theirs, rounding(method))
    with torch.no_grad():
        loss, padded = losses(method, batch)["total"], losses(method, more)["total"]
    torch.testing.assert_close(loss, padded, atol=1e-5, rtol=1e-5)


def test_words_and_scenes_both_matter(method: Any) -> None:
    """Guards the tests above: a method that ignores its input would pass them."""
    batch = toy_batch(toy_samples(2))
    with torch.no_grad():
        base = losses(method, batch)["total"]
        # To the other image: what learns from images as wholes may not care whose of one's it is.
        words = replace(batch, words=batch.words.roll(2, 0), word_mask=batch.word_mask.roll(2, 0))
        for other in (words, other_scene(batch, range(4))):
            assert not torch.isclose(base, losses(method, other)["total"], rtol=1e-5)


def test_a_row_is_blind_to_its_neighbours(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    before = answers(method, batch)
    words = batch.words.clone()
    words[2] = words[2].flip(0)
    after = answers(method, replace(other_scene(batch, [1]), words=words))
    for row in (0, 3):
        assert_same(before[row], after[row], tolerance=1e-6)


def test_forward_does_not_read_labels(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    assert batch.masks is not None
    bare = without_labels(batch, objects_are_seen=getattr(method, "reads_objects", False))
    with torch.no_grad():
        seen = dict(tensors(method(batch)))
        blind = dict(tensors(method(bare)))
    assert seen.keys() == blind.keys()
    for key, value in seen.items():
        assert torch.equal(value, blind[key]), key


def test_the_loss_reads_only_the_labels_it_needs(method: Any) -> None:
    samples = toy_samples(2)
    granted = method.needs.granted

    def kept(value: Any, kind: str) -> Any:
        return value if kind in granted else None

    def objects(all_of_them: Objects) -> Objects:
        return Objects(
            all_of_them.ann_ids,
            kept(all_of_them.categories, "category"),
            kept(all_of_them.boxes_xyxy, "box"),
            kept(all_of_them.masks, "mask"),
        )

    few = [
        replace(
            s,
            mask=kept(s.mask, "mask"),
            box_xyxy=kept(s.box_xyxy, "box"),
            category=kept(s.category, "category"),
            objects=None if s.objects is None else objects(s.objects),
        )
        for s in samples
    ]
    with torch.no_grad():
        assert torch.equal(
            losses(method, toy_batch(few))["total"], losses(method, toy_batch(samples))["total"]
        )


def test_encode_once_ask_many(method: Any) -> None:
    if not hasattr(method, "encode_image") or not getattr(method, "reads_pixels", True):
        pytest.skip("the method has no part that expressions leave alone")
    samples = toy_samples(2)
    shared = toy_batch(samples, share_images=True)
    assert shared.images.shape[0] == 2
    assert len(shared) == 4
    with torch.no_grad():
        whole = dict(tensors(method(shared)))
        state = method.encode_image(shared)
        asked = dict(tensors(method.answer(state, shared)))
    for key, value in whole.items():
        assert torch.equal(value, asked[key]), key
    singly = [answers(method, toy_batch([sample]))[0] for sample in samples]
    for ours, theirs in zip(answers(method, shared), singly, strict=True):
        assert_same(ours, theirs, rounding(method))


def test_forward_leaves_the_method_as_it_was(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    first = answers(method, batch)
    answers(method, toy_batch(toy_samples(1, ODD_SIZES), fit="letterbox"))
    for ours, theirs in zip(first, answers(method, batch), strict=True):
        assert_same(ours, theirs, tolerance=0.0)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_bf16_autocast_stays_finite_and_near(method: Any) -> None:
    batch = toy_batch(toy_samples(2))
    method.train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses(method, batch)
    terms["total"].backward()
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    full = losses(method, batch)["total"]
    torch.testing.assert_close(terms["total"].detach(), full.detach(), atol=0.1, rtol=0.1)


def test_save_and_load_reproduce_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = toy_model(name, seed=3)
    shaken(model.method.eval())
    samples = toy_samples(2, ODD_SIZES)
    models.save(tmp_path / "model", model)
    again = models.load(tmp_path / "model")
    assert again.method.config == model.method.config
    ours, theirs = model.method.state_dict(), again.method.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    for one, other in zip(model.predict(samples), again.predict(samples), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.score == other.score
        if one.response is not None:
            np.testing.assert_array_equal(one.response, other.response)


def test_four_samples_are_learned_by_heart(name: str) -> None:
    toy = TOYS[name]
    if toy.answers is None:
        pytest.skip("its loss sees no mask")
    method, samples = learned(name), toy_samples(2)
    predictions = answers(method, toy_batch(samples))
    for prediction, sample in zip(predictions, samples, strict=True):
        assert sample.mask is not None
        assert sample.box_xyxy is not None
        truth = sample.mask
        if toy.answers == "box":
            truth = box_mask(sample.box_xyxy, truth.shape)
        both = (prediction.mask & truth).sum()
        assert both / (prediction.mask | truth).sum() >= 0.9, sample.text
