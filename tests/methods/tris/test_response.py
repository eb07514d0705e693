"""Step 1: what depends on what, where gradients go, and the published sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.tris import TrisResponse, TrisResponseConfig
from refseg.methods.tris.config import CutConfig, ResponseLossConfig
from refseg.methods.tris.response import ResponseOutputs, first_of_each
from refseg.types import Batch
from tests.methods.toy import toy_batch, toy_samples
from tests.methods.tris.toys import response_config, toy_calibrator, with_negatives

PROMPTS = ("batch", "words", "off")


def made(**changes: Any) -> TrisResponse:
    torch.manual_seed(0)
    method = TrisResponse(response_config(**changes))
    method.judge_by(toy_calibrator())
    if method.prompt is not None:  # at its start it is hidden by the norm's epsilon
        with torch.no_grad():
            for name, parameter in method.prompt.named_parameters():
                parameter.mul_(20 if parameter.ndim > 1 else 1)
                if name == "pixel_norm.bias":
                    parameter.normal_()
    return method.eval()


def batch_of_four(**changes: Any) -> Batch:
    """Four texts about two images, each told apart from two others."""
    return replace(with_negatives(toy_batch(toy_samples(2), share_images=True)), **changes)


@torch.no_grad()
def answered(method: TrisResponse, batch: Batch) -> tuple[Tensor, Tensor]:
    """All responses [I, N, B] and the own maps [B, h, w]."""
    outputs = method(batch)
    return method.responses(outputs), method.own(outputs)


def with_text(batch: Batch, row: int) -> Batch:
    """Another text in one row."""
    words = batch.words.clone()
    words[row, 1:3] = words[row, 1:3].flip(0)
    return replace(batch, words=words)


def with_image(batch: Batch, image: int) -> Batch:
    images = batch.images.clone()
    images[image] = images[image].flip(-1) + 0.5
    return replace(batch, images=images)


def test_the_response_is_its_formula_without_a_prompt() -> None:
    method, batch = made(prompt="off"), batch_of_four()
    outputs = method(batch)
    every, own = answered(method, batch)
    for image in range(2):
        for pixel in (0, 17):
            for text in range(4):
                cosine = F.cosine_similarity(
                    outputs.pixels[image, pixel], outputs.sentences[text], dim=0
                )
                found = every[image, pixel, text]
                torch.testing.assert_close(found, cosine.detach() / 0.07, atol=1e-4, rtol=1e-4)
    assert every.abs().max() <= 1 / 0.07 + 1e-4
    for row in range(4):
        expected = every[batch.image_of[row], :, row].view(8, 8)
        torch.testing.assert_close(own[row], expected, atol=1e-5, rtol=1e-5)


def test_without_a_prompt_a_row_depends_on_its_image_and_the_texts() -> None:
    method, batch = made(prompt="off"), batch_of_four()
    before, _ = answered(method, batch)
    after, _ = answered(method, with_image(batch, 1))
    assert torch.equal(before[0], after[0])
    other, _ = answered(method, with_text(batch, 2))
    assert torch.equal(before[:, :, [0, 1, 3]], other[:, :, [0, 1, 3]])


def test_with_the_papers_prompt_texts_leak_while_learning_and_not_into_answers() -> None:
    method, batch = made(prompt="batch"), batch_of_four()
    (before, own), (after, other) = answered(method, batch), answered(method, with_text(batch, 2))
    assert not torch.allclose(before[0, :, 0], after[0, :, 0], atol=1e-3)
    torch.testing.assert_close(own[[0, 1, 3]], other[[0, 1, 3]])


def test_an_answer_is_the_response_to_one_text_alone() -> None:
    for prompt in PROMPTS:
        method, batch = made(prompt=prompt), batch_of_four()
        _, own = answered(method, batch)
        for row in range(4):
            picked = slice(row, row + 1)
            alone = replace(
                batch, words=batch.words[picked], word_mask=batch.word_mask[picked],
                image_of=batch.image_of[picked],
            )  # fmt: skip
            with torch.no_grad():
                every = method.responses(method(alone))
            image = int(batch.image_of[row])
            expected = every[image, :, 0].view(8, 8)
            torch.testing.assert_close(own[row], expected, atol=2e-3, rtol=1e-3)


def test_with_words_learning_sees_what_answers_see() -> None:
    method, batch = made(prompt="words"), batch_of_four()
    every, own = answered(method, batch)
    for row in range(4):
        expected = every[batch.image_of[row], :, row].view(8, 8)
        torch.testing.assert_close(own[row], expected, atol=1e-4, rtol=1e-4)


def test_the_texts_are_told_apart_by_their_words() -> None:
    for prompt in PROMPTS:
        method, batch = made(prompt=prompt), batch_of_four()
        _, own = answered(method, batch)
        _, other = answered(method, with_text(batch, 1))
        assert not torch.allclose(own[1], other[1], atol=1e-4)


def gradients(term: str, **changes: Any) -> dict[str, float]:
    method = made(**changes)
    before = [p.clone() for p in toy_calibrator().pair.parameters()]
    batch = batch_of_four()
    method.train()
    method.loss(method(batch), batch)[term].backward()
    after = toy_calibrator().pair.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return {
        name: 0.0 if p.grad is None else float(p.grad.abs().sum())
        for name, p in method.named_parameters()
    }


@pytest.mark.parametrize("term", ["classification", "attract", "repel"])
def test_each_loss_reaches_encoders_projectors_and_prompt(term: str) -> None:
    found = gradients(term, loss=ResponseLossConfig(clamp_repel=True))
    for part in ("vision.trunk.layer2", "project_pixels", "project_texts", "text.words", "prompt"):
        reached = [v for k, v in found.items() if k.startswith(part) and v > 0]
        assert reached, part
    assert not [k for k in found if "scale" in k or "calibrator" in k]


def test_calibration_of_one_text_reaches_others_only_through_the_prompt() -> None:
    for prompt, leaks in (("off", False), ("words", False), ("batch", True)):
        method, batch = made(prompt=prompt), batch_of_four()
        outputs = method(batch)
        sentences = outputs.sentences.detach().requires_grad_()
        outputs = replace(outputs, sentences=sentences)
        method.loss(outputs, replace(batch, weights=torch.tensor([1.0, 0, 0, 0])))[
            "repel"
        ].backward()
        assert sentences.grad is not None
        assert bool(sentences.grad[1:].abs().sum() > 1e-7) == leaks, prompt


def test_one_text_of_each_image_may_be_calibrated() -> None:
    """As if the batch held the first text of each image alone; the same where each has one."""
    batch = replace(batch_of_four(), weights=torch.tensor([1.0, 2, 3, 4]))
    rows = first_of_each(batch.image_of)
    known = [batch.image_of.tolist().index(image) for image in range(len(batch.images))]
    assert rows.tolist() == known
    assert len(known) < len(batch)
    found = {}
    for judged in ("texts", "images"):
        loss = ResponseLossConfig(judged=judged, clamp_repel=True)  # type: ignore[arg-type]
        method = made(prompt="words", loss=loss)
        with torch.no_grad():
            outputs = method(batch)
            found[judged] = method.loss(outputs, batch)
            own = method.responses(outputs)[batch.image_of, :, torch.arange(4)].view(
                -1, *outputs.hw
            )
            parts = [method._calibrated(own[[row]], batch, torch.tensor([row])) for row in known]
    shares = batch.weights[known] / batch.weights[known].sum()
    for place, term in enumerate(("attract", "repel")):
        literal = sum(float(shares[n]) * float(part[place]) for n, part in enumerate(parts))
        assert float(found["images"][term]) == pytest.approx(literal, rel=1e-4)
        assert float(found["texts"][term]) != pytest.approx(literal, rel=1e-4)
    assert torch.equal(found["images"]["classification"], found["texts"]["classification"])


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    loss = ResponseLossConfig(classification=4, attract=0.5, repel=3)
    method, batch = made(loss=loss), batch_of_four()
    with torch.no_grad():
        terms = method.loss(method(batch), batch)
    expected = 4 * terms["classification"] + 0.5 * terms["attract"] + 3 * terms["repel"]
    torch.testing.assert_close(terms["total"], expected)


def test_without_calibration_no_judge_is_needed_and_with_it_one_is() -> None:
    batch = batch_of_four()
    quiet = TrisResponse(response_config(loss=ResponseLossConfig(attract=0, repel=0)))
    assert set(quiet.loss(quiet(batch), batch)) == {"classification", "total"}
    alone = TrisResponse(response_config())
    with pytest.raises(ConfigError) as caught:
        alone.loss(alone(batch), batch)
    assert "weights.calibrator" in str(caught.value.remedy)


def test_without_other_texts_nothing_is_pushed_away() -> None:
    method = made()
    batch = batch_of_four(negatives=None, negative_mask=None)
    with torch.no_grad():
        assert float(method.loss(method(batch), batch)["repel"]) == 0


def test_one_text_in_a_batch_and_the_same_text_twice() -> None:
    for prompt in PROMPTS:
        for others in ("all", "distinct"):
            loss = ResponseLossConfig(others=others, clamp_repel=True)  # type: ignore[arg-type]
            method = made(prompt=prompt, loss=loss)
            one = toy_samples(1)[:1]
            for samples in (one, one * 2):
                batch = with_negatives(toy_batch(samples))
                terms = method.loss(method(batch), batch)
                assert all(bool(torch.isfinite(value)) for value in terms.values())


def test_long_sentences_share_one_map_as_released_unless_they_keep_their_end() -> None:
    batch = batch_of_four()
    words = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    words[:, 0], words[:, -1] = batch.words[0, 0], 3
    long = replace(batch, words=words, word_mask=torch.ones(4, 9).bool())
    for keep_end in (False, True):
        method = made(cut=CutConfig(length=6, keep_end=keep_end))
        outputs: ResponseOutputs = method(long)
        same = torch.allclose(outputs.sentences[0], outputs.sentences[2], atol=1e-6)
        assert same != keep_end


def test_the_published_number_of_parameters() -> None:
    """113,559,906 with an attention pool of 14,789,632 and CLIP's and the response's own scales,
    which are numbers here (the text side's 63,690,241 counts CLIP's)."""
    with torch.device("meta"):
        method = TrisResponse(TrisResponseConfig())
    own = sum(p.numel() for p in method.parameters())
    assert own + 14_789_632 + 2 == 113_559_906


def test_answers_are_masks_where_the_response_is_positive() -> None:
    method, batch = made(), batch_of_four()
    with torch.no_grad():
        outputs = method(batch)
        own, predictions = method.own(outputs), method.decode(outputs, batch)
    for row, prediction in enumerate(predictions):
        net = F.interpolate(own[row][None, None], (64, 64), mode="bilinear")[0, 0]
        assert (prediction.mask == (net > 0).numpy()).mean() > 0.999
