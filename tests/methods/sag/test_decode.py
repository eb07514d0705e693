"""From relevance to masks: the order of the steps, flat maps, outlines, and what is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.data.collate import collate
from refseg.methods.sag import Sag
from refseg.methods.sag.config import AnswerConfig
from refseg.methods.sag.decode import relevance
from refseg.metrics.compare import compare
from refseg.metrics.protocols import get_protocol
from refseg.ops.crf import MASKS, RMI, refine
from refseg.types import Batch, Prediction
from tests.methods.sag.toys import made, sag_config, slots_config
from tests.methods.toy import (
    answers,
    preprocess,
    toy_batch,
    toy_model,
    toy_samples,
    toy_tokenizer,
)

SIZES = ((37, 91), (80, 53))


def batch(fit: str = "square", *, originals: bool = False) -> Batch:
    return collate(
        toy_samples(2, SIZES), toy_tokenizer(), preprocess(fit),
        share_images=True, originals=originals,
    )  # fmt: skip


def answered(answer: AnswerConfig, of: Batch) -> tuple[list[Prediction], Tensor]:
    """Predictions, and M [B, h, w]."""
    method = made(sag_config(answer=answer))
    with torch.no_grad():
        outputs = method(of)
    return method.decode(outputs, of), relevance(outputs, answer.scheme)


def literal_map(m: Tensor, hw: tuple[int, int]) -> np.ndarray:
    """Resized first, then stretched: by torch, where the method uses OpenCV."""
    big = F.interpolate(m[None, None], hw, mode="bilinear", align_corners=False)[0, 0]
    return ((big - big.min()) / (big.max() - big.min())).numpy()


def test_maps_are_resized_then_stretched_then_cut() -> None:
    for threshold in (0.5, 0.3):
        predictions, maps = answered(AnswerConfig(threshold=threshold), batch())
        for prediction, m in zip(predictions, maps, strict=True):
            expected = literal_map(m, prediction.geometry.original_hw)
            away = abs(expected - threshold) > 1e-4
            np.testing.assert_array_equal(prediction.mask[away], (expected >= threshold)[away])
            assert prediction.mask.any()
            assert not prediction.mask.all()
            if prediction.response is not None:
                low, high = m.min(), m.max()
                expected = ((m - low) / (high - low)).numpy()
                np.testing.assert_allclose(prediction.response, expected, atol=1e-5)


def test_half_way_is_inside() -> None:
    """As the protocol has it; an image of a pixel a patch, so that nothing is rounded."""
    of = toy_batch(toy_samples(1, [(8, 8)]), share_images=True)
    method = made()
    with torch.no_grad():
        outputs = method(of)
    assert outputs.attention is not None
    steps = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 0.0, 0.5, 1.0]).expand(8, 8).flatten()
    outputs = replace(outputs, attention=steps.expand_as(outputs.attention).clone())
    expected = np.tile([False, False, True, True, True, False, True, True], (8, 1))
    for prediction in method.decode(outputs, of):
        np.testing.assert_array_equal(prediction.mask, expected)
        assert compare(prediction, expected, get_protocol("sag")).iou == 1


def test_the_score_is_the_mean_of_m_inside() -> None:
    predictions, maps = answered(AnswerConfig(), batch())
    for prediction, m in zip(predictions, maps, strict=True):
        hw = prediction.geometry.original_hw
        big = F.interpolate(m[None, None], hw, mode="bilinear", align_corners=False)[0, 0]
        assert prediction.score == pytest.approx(float(big.numpy()[prediction.mask].mean()), 1e-4)


@pytest.mark.parametrize("scheme", ["max", "min"])
def test_one_slots_map_by_relevance(scheme: str) -> None:
    answer = AnswerConfig.model_validate({"scheme": scheme, "draws": 2})
    method, of = made(sag_config(answer=answer)), batch()
    with torch.no_grad():
        outputs = method(of)
    assert outputs.attention is not None
    found = relevance(outputs, scheme).flatten(1)
    for row in range(4):
        maps = []
        for draw in range(2):
            weights = outputs.fuse[row, draw].tolist()
            best = weights.index(max(weights) if scheme == "max" else min(weights))
            maps.append(outputs.attention[outputs.image_of[row], draw, best])
        torch.testing.assert_close(found[row], (maps[0] + maps[1]) / 2)


@torch.no_grad()
def test_draws_are_averaged() -> None:
    of = batch()
    many = relevance(made(sag_config(answer=AnswerConfig(draws=3)))(of), "sum")
    outputs = made(sag_config(answer=AnswerConfig(draws=3)))(of)
    assert outputs.attention is not None
    singles = [
        relevance(
            replace(
                outputs, fuse=outputs.fuse[:, [s]], attention=outputs.attention[:, [s]]
            ),
            "sum",
        )
        for s in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(many, torch.stack(singles).mean(dim=0))
    first = relevance(made()(of), "sum")
    torch.testing.assert_close(singles[0], first)
    assert (singles[1] - first).abs().max() > 1e-3


def flat(value: float, rounding: float = 0.0) -> tuple[Sag, Any, Batch]:
    """A method, and outputs whose M is the same everywhere but for rounding."""
    method, of = made(), batch()
    with torch.no_grad():
        outputs = method(of)
    assert outputs.attention is not None
    noise = rounding * torch.rand(outputs.attention.shape, generator=torch.manual_seed(0))
    return method, replace(outputs, attention=torch.full_like(outputs.attention, value) + noise), of


@pytest.mark.parametrize(("value", "rounding"), [(1 / 36, 0.0), (1 / 36, 5e-9), (1.0, 2e-7)])
def test_a_flat_map_becomes_an_empty_mask_and_no_noise(value: float, rounding: float) -> None:
    method, outputs, of = flat(value, rounding)
    for prediction in method.decode(outputs, of):
        assert not prediction.mask.any()
        assert prediction.score == 0
        assert not prediction.empty
        scored = compare(prediction, np.ones_like(prediction.mask), get_protocol("sag"))
        assert scored.intersection == 0, "the protocol sees the same"


@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_the_protocol_scores_the_mask_that_was_answered(fit: str) -> None:
    for answer in (
        AnswerConfig(), AnswerConfig(scheme="max"), AnswerConfig(draws=2),
        AnswerConfig(threshold=0.7), AnswerConfig(crf="lattice"),
    ):  # fmt: skip
        predictions, _ = answered(answer, batch(fit, originals=True))
        for prediction in predictions:
            scored = compare(prediction, prediction.mask, get_protocol("sag"))
            assert scored.iou == 1
            own = answer.threshold == 0.5 and answer.crf == "none"
            assert (prediction.response is not None) == own


@pytest.mark.parametrize("settings", ["masks", "rmi"])
def test_outlines_are_those_of_the_crf_on_the_stretched_map(settings: str) -> None:
    answer = AnswerConfig.model_validate(
        {"crf": "lattice", "crf_settings": settings, "crf_scale": 0.5}
    )
    of = batch(originals=True)
    assert of.originals is not None
    predictions, maps = answered(answer, of)
    plain, _ = answered(AnswerConfig(), of)
    chosen = replace(MASKS if settings == "masks" else RMI, scale=0.5)
    for row, (prediction, m) in enumerate(zip(predictions, maps, strict=True)):
        image = of.originals[of.image_of[row]]
        expected = refine(image, literal_map(m, image.shape[:2]), "lattice", chosen)
        away = abs(expected - 0.5) > 1e-3
        np.testing.assert_array_equal(prediction.mask[away], (expected >= 0.5)[away])
    assert any((a.mask != b.mask).any() for a, b in zip(predictions, plain, strict=True))


def test_a_flat_map_stays_empty_under_a_crf() -> None:
    _, outputs, _ = flat(1 / 36, 5e-9)
    answer = AnswerConfig(crf="lattice")
    kept = Sag(sag_config(answer=answer)).decode(outputs, batch(originals=True))
    assert not any(prediction.mask.any() for prediction in kept)


def test_a_model_brings_the_image_in_px_where_it_is_wanted() -> None:
    samples = toy_samples(1, SIZES)
    model = toy_model("sag")
    assert model.batch(samples).originals is None
    torch.manual_seed(0)
    model.method = Sag(sag_config(answer=AnswerConfig(crf="lattice")))
    originals = model.batch(samples, share_images=True).originals
    assert originals is not None
    np.testing.assert_array_equal(originals[0], samples[0].image)
    assert [p.mask.shape for p in model.predict(samples)] == [SIZES[0]] * 2


def test_entities_relevance_and_the_top_three_are_told() -> None:
    method, of = made(), batch()
    with torch.no_grad():
        outputs = method(of)
    assert outputs.attention is not None
    for row, prediction in enumerate(method.decode(outputs, of)):
        attention = outputs.attention[of.image_of[row], 0].numpy()  # [K, N]
        weights = outputs.fuse[row, 0].numpy()
        assert list(prediction.maps) == [
            "relevance", "entities", "entity_1", "entity_2", "entity_3"
        ]  # fmt: skip
        holder = attention.argmax(axis=0)
        np.testing.assert_array_equal(prediction.maps["entities"].ravel(), holder // 2)
        np.testing.assert_array_equal(prediction.maps["relevance"].ravel(), weights[holder])
        for place, k in enumerate(np.argsort(-weights)[:3], 1):
            np.testing.assert_array_equal(prediction.maps[f"entity_{place}"].ravel(), attention[k])
        assert all(m.dtype == np.float32 for m in prediction.maps.values())
        assert all(m.shape == (8, 8) for m in prediction.maps.values())


def test_fewer_than_three_entities_are_told_too() -> None:
    method = made(sag_config(slots=slots_config(groups=1)))
    maps = answers(method, toy_batch(toy_samples(1)))[0].maps
    assert [name for name in maps if name.startswith("entity")] == ["entity_1", "entity_2"]


def test_one_encoding_answers_every_sentence_and_no_decoder_is_asked() -> None:
    method, of = made(), batch()
    asked: list[str] = []
    assert method.decoder is not None
    method.decoder.register_forward_hook(lambda *_: asked.append("decoder"))
    method.vision.register_forward_hook(lambda *_: asked.append("vision"))
    with torch.no_grad():
        state = method.encode_image(of)
        for row in range(4):
            one = replace(
                of, image_of=of.image_of[[row]], words=of.words[[row]],
                word_mask=of.word_mask[[row]], geometry=of.geometry[row : row + 1],
            )  # fmt: skip
            method.decode(method.answer(state, one), one)
    assert asked == ["vision"]
