"""The whole method, and each of its cheaper forms, against the literal twin on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from refseg.methods.sag.config import AnswerConfig, LossConfig, ReconstructionConfig
from refseg.methods.sag.decode import relevance
from refseg.methods.sag.slots import keyed_noise
from refseg.types import Batch
from tests.methods.sag import literal
from tests.methods.sag.toys import made, sag_config, slots_config, toy_vit
from tests.methods.toy import toy_batch, toy_samples

VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "random slots": {"slots": slots_config(kind="random")},
    "query slots": {"slots": slots_config(kind="query")},
    "over patches": {"slots": slots_config(over="patches")},
    "no interaction": {"slots": slots_config(interaction=False)},
    "one iteration": {"slots": slots_config(iterations=1)},
    "learned positions": {
        "reconstruction": ReconstructionConfig(layers=2, width=20, position="learned")
    },
    "three draws": {"answer": AnswerConfig(draws=3, seed=5)},
}


def coarse(**changes: Any) -> Any:
    """4 x 4 patches, every image a rival: the loops take a second."""
    return sag_config(vision=toy_vit(patch=16), loss=LossConfig(others="all"), **changes)


def four() -> Batch:
    return toy_batch(toy_samples(2), share_images=True)


def words_of(batch: Batch) -> list[Tensor]:
    return [ids[real] for ids, real in zip(batch.words, batch.word_mask, strict=True)]


def noise_of(method: Any, images: Tensor) -> list[list[Tensor]]:
    """By image and draw, [K, D]."""
    config = method.config
    shape = (config.slots.count, config.width)
    drawn = keyed_noise(images, config.draws, shape, config.answer.seed)
    return [list(image) for image in drawn]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_answers_are_those_of_the_loops(variant: str) -> None:
    method, batch = made(coarse(**VARIANTS[variant])), four()
    found = relevance(method(batch), "sum")
    assert found.std(dim=(1, 2)).min() > 1e-4, "a flat map would agree with anything"
    noises = noise_of(method, batch.images)
    for row, (words, image) in enumerate(zip(words_of(batch), batch.image_of, strict=True)):
        expected = literal.respond(method, batch.images[image], words, noises[image])
        torch.testing.assert_close(found[row].flatten(), expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("variant", list(VARIANTS)[:-1])
@torch.no_grad()
def test_losses_are_those_of_the_loops(variant: str) -> None:
    method, batch = made(coarse(**VARIANTS[variant])), four()
    terms = method.loss(method(batch), batch)
    noises = [drawn[0] for drawn in noise_of(method, batch.images)]
    contrast, rebuilt = literal.losses(
        method, batch.images, words_of(batch), batch.image_of.tolist(), noises
    )
    torch.testing.assert_close(terms["contrast"], contrast, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["reconstruction"], rebuilt, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["total"], contrast + rebuilt, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_the_loops() -> None:
    """So the cheaper forms also learn alike."""
    method, batch = made(coarse()), four()
    method.loss(method(batch), batch)["total"].backward()
    ours = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    noises = [drawn[0] for drawn in noise_of(method, batch.images)]
    contrast, rebuilt = literal.losses(
        method, batch.images, words_of(batch), batch.image_of.tolist(), noises
    )
    (contrast + rebuilt).backward()
    theirs = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=2e-5, rtol=2e-3, msg=name)


@torch.no_grad()
def test_all_pairs_at_once_are_each_pair_by_itself() -> None:
    method, batch = made(coarse()), four()
    outputs = method(batch)
    psi = method.fusion.pairs(outputs.sentences, outputs.heard)
    for b, sentence in enumerate(outputs.sentences):
        for i, slots in enumerate(outputs.slots[:, 0]):
            expected, _ = literal.fuse(method.fusion, sentence, slots)
            torch.testing.assert_close(psi[b, i], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_share_of_the_patches_is_rebuilt_as_in_the_whole() -> None:
    for position in ("sine", "learned"):
        part = ReconstructionConfig.model_validate({"layers": 3, "width": 20, "position": position})
        method, batch = made(coarse(reconstruction=part)), four()
        outputs = method(batch)
        assert method.decoder is not None
        whole, shares = method.decoder(outputs.slots[:, 0], outputs.hw)
        asked = torch.tensor([9, 0, 15])
        some, few = method.decoder(outputs.slots[:, 0], outputs.hw, asked)
        torch.testing.assert_close(some, whole[:, asked], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(few, shares[:, :, asked], atol=1e-6, rtol=1e-5)
