"""MaskCLIP: from cosines to masks, prompts, the loss, and every field of the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.maskclip import MaskClipConfig
from refseg.methods.maskclip.decode import decode
from refseg.methods.maskclip.prompt import framed
from refseg.metrics.compare import compare
from refseg.metrics.protocols import get_protocol
from refseg.models import build_method
from refseg.nn.clip import ClipVisionConfig
from refseg.ops.masks import response_in_px
from refseg.types import Batch
from tests.methods.maskclip.toys import maskclip_config
from tests.methods.toy import (
    answers,
    losses,
    rows_of,
    tensors,
    toy_batch,
    toy_method,
    toy_samples,
    toy_tokenizer,
)

PX = (40, 100)
NAMES = ("maskclip", "maskclip resnet", "maskclip prompted")


def decoded(similarity: Tensor, threshold: float = 0.5, fit: str = "square") -> list[Any]:
    return decode(similarity, toy_batch(toy_samples(1, [PX]), fit=fit), threshold)


# -- from cosines to masks -----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_resized_then_stretched_then_cut(threshold: float) -> None:
    torch.manual_seed(0)
    similarity = 0.25 + 0.05 * torch.randn(2, 5, 5)
    for row, prediction in enumerate(decoded(similarity, threshold)):
        in_px = response_in_px(similarity[row].numpy(), prediction.geometry)
        low, high = in_px.min(), in_px.max()
        inside = [
            [(float(value) - low) / (high - low) >= threshold for value in line] for line in in_px
        ]
        assert (prediction.mask != np.array(inside)).mean() < 1e-3  # rounding
        told = np.mean([float(in_px[y, x]) for y, x in np.argwhere(prediction.mask)])
        assert prediction.score == pytest.approx((1 + told) / 2, abs=1e-5)


def test_the_mask_is_that_of_the_protocol() -> None:
    """Shatter and Gather's evaluation makes the same mask of the response by itself."""
    torch.manual_seed(1)
    for fit in ("square", "letterbox"):
        for prediction in decoded(torch.randn(2, 8, 8).clamp(-1, 1), fit=fit):
            found = compare(prediction, prediction.mask, get_protocol("sag"))
            assert found.iou > 0.995


def test_a_flat_map_is_an_empty_mask() -> None:
    """Stretching nothing would make a picture of rounding; a tenth is no power of two."""
    for flat in (0.0, 0.1, 0.3, -0.7):
        for prediction in decoded(torch.full((2, 7, 7), flat)):
            assert not prediction.mask.any()
            assert prediction.score == 0
            assert not prediction.response.any()


def test_one_place_is_a_flat_map() -> None:
    vision = ClipVisionConfig(
        image_size=64, patch=64, width=32, layers=2, heads=2, mlp_width=64, embed=32
    )
    method = build_method("maskclip", maskclip_config().model_copy(update={"vision": vision}))
    for prediction in answers(method.eval(), toy_batch(toy_samples(1))):
        assert prediction.maps["similarity"].shape == (1, 1)
        assert not prediction.mask.any()


def test_the_mask_grows_as_the_threshold_falls() -> None:
    torch.manual_seed(0)
    similarity = torch.randn(2, 6, 6).clamp(-1, 1)
    masks = [[p.mask for p in decoded(similarity, tau)] for tau in (0.7, 0.5, 0.3, 1.0)]
    for row in range(2):
        assert not (masks[0][row] & ~masks[1][row]).any()
        assert not (masks[1][row] & ~masks[2][row]).any()
        assert masks[3][row].any(), "the highest place is always in it"


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_cosines_of_unit_vectors(name: str) -> None:
    method, batch = toy_method(name).eval(), toy_batch(toy_samples(2))
    with torch.no_grad():
        outputs = method(batch)
        state = method.encode_image(batch)
    torch.testing.assert_close(state.places.norm(dim=1), torch.ones_like(state.places[:, 0]))
    torch.testing.assert_close(outputs.texts.norm(dim=1), torch.ones(len(batch)))
    assert outputs.similarity.abs().max() <= 1 + 1e-5
    place = state.places[batch.image_of[2], :, 1, 0]
    assert float(outputs.similarity[2, 1, 0]) == pytest.approx(
        float(place @ outputs.texts[2]), abs=1e-5
    )


# -- prompts -------------------------------------------------------------------------------------


def test_an_expression_is_framed_id_by_id() -> None:
    words = torch.tensor([[1, 7, 8, 2, 0, 0], [1, 9, 2, 5, 5, 5]])  # junk behind the second's end
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    ids, real = framed(words, mask, [3, 4], [6])
    assert ids.tolist() == [[1, 3, 4, 7, 8, 6, 2], [1, 3, 4, 9, 6, 2, 0]]
    assert real.tolist() == [[True] * 7, [True] * 6 + [False]]
    same = framed(words, mask, [], [])
    assert same[0] is words
    assert same[1] is mask


def test_a_prompt_reads_as_the_whole_sentence() -> None:
    prompted, plain = toy_method("maskclip prompted").eval(), toy_method("maskclip").eval()
    plain.load_state_dict(prompted.state_dict())
    samples = toy_samples(1)
    told = [replace(one, text=f"the {one.text} please") for one in samples]
    with torch.no_grad():
        framed_texts = prompted(toy_batch(samples)).texts
        written = plain(toy_batch(told)).texts
    torch.testing.assert_close(framed_texts, written)


def test_a_prompt_takes_places() -> None:
    assert toy_method("maskclip").word_limits == {"text.max_positions": 32}
    assert toy_method("maskclip prompted").word_limits == {"text.max_positions": 30}
    prompted = toy_method("maskclip prompted").eval()
    words = torch.ones(4, 31, dtype=torch.int64)
    batch = replace(toy_batch(toy_samples(2)), words=words, word_mask=words.bool())
    with pytest.raises(ConfigError, match="texts of 33 tokens, prompt included, and places for 32"):
        prompted(batch)


def test_a_prompt_must_be_spelled() -> None:
    method = build_method("maskclip", maskclip_config(prompt="the {}"))
    with pytest.raises(ConfigError, match=r'"the \{\}" was not spelled') as caught:
        method(toy_batch(toy_samples(1)))
    assert "refseg.models.load" in caught.value.remedy


@pytest.mark.parametrize("prompt", ["a photo", "", "{} and {}"])
def test_a_prompt_has_one_place(prompt: str) -> None:
    with pytest.raises(ConfigError, match="no one place"):
        maskclip_config(prompt=prompt)


# -- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    method, batch = toy_method(name), toy_batch(toy_samples(2))
    two = rows_of(batch, [0, 2])  # a text an image: those of one image would be wrong texts
    method.eval()
    before = float(losses(method, two)["total"].detach())
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    for _ in range(15):
        optimiser.zero_grad()
        method.loss(method(two), two)["total"].backward()
        optimiser.step()
    assert float(losses(method, two)["total"].detach()) < 0.5 * before


def test_one_pair_is_refused() -> None:
    method = toy_method("maskclip")
    for batch in (
        toy_batch(toy_samples(1)[:1]),
        toy_batch(toy_samples(1), share_images=True),  # two texts, but one image
    ):
        with pytest.raises(ConfigError, match="nothing to tell apart"):
            method.loss(method(batch), batch)


def test_shared_images_are_one_image() -> None:
    """With a row an image, texts about it are no wrong texts; else they are taken for such."""
    method = toy_method("maskclip").eval()
    with torch.no_grad():
        shared = float(losses(method, toy_batch(toy_samples(2), share_images=True))["total"])
        apart = float(losses(method, toy_batch(toy_samples(2)))["total"])
    assert shared < apart


# -- fields --------------------------------------------------------------------------------------

FLIPS: dict[str, Any] = {
    "vision": {"image_size": 32, "patch": 16, "width": 16, "layers": 1, "heads": 4, "mlp_width": 8},
    "text": {"vocab_size": 170, "width": 16, "layers": 1, "heads": 4, "mlp_width": 8},
    "residual": True,
    "prompt": "the {}",
    "threshold": 0.7,
}


def answer(config: MaskClipConfig, batch: Batch) -> list[Tensor]:
    torch.manual_seed(0)
    method = build_method("maskclip", config)
    method.spell(toy_tokenizer().ids)
    method.eval()
    with torch.no_grad():
        found = [value for _, value in tensors(method(batch))]
    masks = [torch.from_numpy(prediction.mask) for prediction in answers(method, batch)]
    return [*found, *masks]


def flips() -> list[tuple[str, dict[str, Any]]]:
    base, found = maskclip_config().model_dump(), []
    for name, value in FLIPS.items():
        if not isinstance(value, dict):
            found.append((name, {**base, name: value}))
            continue
        for key, inner in value.items():
            found.append((f"{name}.{key}", {**base, name: {**base[name], key: inner}}))
    return found


@pytest.mark.parametrize(("name", "fields"), flips(), ids=[name for name, _ in flips()])
def test_every_field_does_something(name: str, fields: dict[str, Any]) -> None:
    batch = toy_batch(toy_samples(2))
    before = answer(maskclip_config(), batch)
    after = answer(MaskClipConfig.model_validate(fields), batch)
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert not all(same), f"{name} does nothing"


def test_every_field_has_a_flip() -> None:
    told = {"vision.kind", "vision.embed", "text.embed", "text.max_positions"}  # tested elsewhere
    base = maskclip_config().model_dump()
    keys = {f"{k}.{i}" for k in ("vision", "text") for i in base[k]}
    keys |= base.keys() - {"vision", "text"}
    assert {name for name, _ in flips()} == keys - told


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"threshold": 1.5},
        {"vision": {**maskclip_config().vision.model_dump(), "embed": 16}},
        {"vision": {**maskclip_config().vision.model_dump(), "heads": 3}},
        {"vision": {**maskclip_config(resnet=True).vision.model_dump(), "pool": False}},
        {"vision": maskclip_config(resnet=True).vision, "residual": True},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValidationError)):
        MaskClipConfig.model_validate({**maskclip_config().model_dump(), **change})


def test_the_papers_size() -> None:
    """ViT-B/16 and its text tower: 149.62 M parameters, 14 x 14 places at 224 px."""
    with torch.device("meta"):
        method = build_method("maskclip", MaskClipConfig())
    assert sum(p.numel() for p in method.parameters()) == 149_620_737
