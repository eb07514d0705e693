"""C3 by loops, and which images a sentence is told apart from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from refseg.methods.sag.loss import counted_images, cycle_consistency, same_pixels
from refseg.types import Batch
from tests.methods.sag.toys import made, sag_config
from tests.methods.toy import rows_of, toy_batch, toy_samples


def six() -> Batch:
    """Six sentences about three images, an image each."""
    return toy_batch(toy_samples(3))


def shared() -> Batch:
    return toy_batch(toy_samples(3), share_images=True)


def test_the_loss_is_its_loop() -> None:
    torch.manual_seed(0)
    batch = replace(shared(), weights=torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 1.0]))
    target, found = 3 * torch.randn(6, 5), torch.randn(6, 3, 5)
    counted = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]])
    total = 0.0
    for t in range(6):
        own = int(batch.image_of[t])
        logits = [float(target[t] @ found[t, i]) / 0.7 for i in range(3)]
        rivals = sum(math.exp(logits[i]) for i in range(3) if counted[t, i])
        total += float(batch.weights[t]) * (math.log(rivals) - logits[own])
    value = float(cycle_consistency(target, found, counted.bool(), batch, 0.7))
    assert value == pytest.approx(total / 5.5, rel=1e-5)


def test_as_released_all_images_count_one_that_is_there_twice_too() -> None:
    assert counted_images(six(), distinct=False).all()
    assert counted_images(six(), distinct=False).shape == (6, 6)
    assert counted_images(shared(), distinct=False).shape == (6, 3)


@pytest.mark.parametrize("make", [six, shared])
def test_images_of_which_a_sentence_is_true_are_no_rivals(make: Callable[[], Batch]) -> None:
    """Those of the same pixels as one that the same words are about; here 1 and 3 are alike."""
    batch = make()
    assert batch.texts[1] == batch.texts[3]
    assert len(set(batch.texts)) == 5
    expected = torch.zeros(6, len(batch.images)).bool()
    for t, text in enumerate(batch.texts):
        about = [int(batch.image_of[s]) for s, other in enumerate(batch.texts) if other == text]
        for i, image in enumerate(batch.images):
            true = any(torch.equal(image, batch.images[j]) for j in about)
            expected[t, i] = not true or i == int(batch.image_of[t])
    assert torch.equal(counted_images(batch, distinct=True), expected)
    assert (~expected).sum() == (6 + 4 if make is six else 2)


def distinct_words() -> Batch:
    """Six sentences about three images, no two alike."""
    batch = shared()
    words = batch.words.clone()
    words[:, 1] = torch.arange(20, 26)
    return replace(batch, words=words)


def test_padding_is_no_word() -> None:
    batch = distinct_words()
    words, real = batch.words.clone(), batch.word_mask.clone()
    real[:, -1] = False
    words[5, :-1] = words[0, :-1]  # said of images 0 and 2
    words[5, -1], words[0, -1] = 7, 8
    counted = counted_images(replace(batch, words=words, word_mask=real), distinct=True)
    expected = torch.ones(6, 3).bool()
    expected[0, 2] = expected[5, 0] = False
    assert torch.equal(counted, expected)


def test_a_longer_sentence_that_begins_alike_is_another() -> None:
    batch = distinct_words()
    words, real = batch.words.clone(), batch.word_mask.clone()
    words[5] = words[0]
    real[5, -1] = False
    assert counted_images(replace(batch, words=words, word_mask=real), distinct=True).all()


def test_the_own_image_always_counts() -> None:
    batch = rows_of(six(), [0, 0, 0])
    assert torch.equal(counted_images(batch, distinct=True), torch.eye(3).bool())


def test_one_pixel_between_those_looked_at_first_is_enough() -> None:
    images = torch.randn(1, 3, 16, 16).repeat(3, 1, 1, 1)
    images[1, 2, 15, 14] += 1
    expected = torch.eye(3).bool()
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(same_pixels(images), expected)


def test_the_total_weighs_the_reconstruction() -> None:
    part = sag_config().reconstruction.model_copy(update={"weight": 0.25})
    method, batch = made(sag_config(reconstruction=part)), six()
    with torch.no_grad():
        terms = method.loss(method(batch), batch)
    expected = terms["contrast"] + 0.25 * terms["reconstruction"]
    torch.testing.assert_close(terms["total"], expected)


@torch.no_grad()
def test_a_share_of_the_patches_is_drawn_while_training_alone() -> None:
    part = sag_config().reconstruction.model_copy(update={"share": 0.25})
    method, whole, batch = made(sag_config(reconstruction=part)), made(), six()
    outputs = method(batch)
    found = method.loss(outputs, batch)["reconstruction"]
    torch.testing.assert_close(found, whole.loss(whole(batch), batch)["reconstruction"])
    method.train()
    few = torch.stack([method.loss(outputs, batch)["reconstruction"] for _ in range(60)])
    assert few.std() > 1e-3
    assert float(few.mean()) == pytest.approx(float(found), rel=0.1), "the mean is the same"
