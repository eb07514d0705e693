"""GroupViT: segments, the two queries, parity with transformers, every field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from refseg.errors import ConfigError
from refseg.methods.groupvit import GroupVitConfig
from refseg.methods.groupvit.decode import decode, segments_in_px
from refseg.methods.groupvit.grouping import patch_shares, segment_margins
from refseg.methods.groupvit.towers import read, see
from refseg.models import build_method
from refseg.ops.masks import response_in_px
from refseg.types import Batch
from tests.methods.groupvit.toys import groupvit_config
from tests.methods.toy import (
    SIDE,
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


def method_of(config: GroupVitConfig | None = None, seed: int = 0) -> Any:
    """With batch norms and weights that are not as they begin."""
    torch.manual_seed(seed)
    method = build_method("groupvit", config or groupvit_config())
    method.spell(toy_tokenizer().ids)
    for value in method.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    return method.eval()


# -- segments ------------------------------------------------------------------------------------


def test_shares_patch_by_patch() -> None:
    """A patch has a last segment as far as it has those between, each as far as it has that one."""
    torch.manual_seed(0)
    first = torch.randn(2, 5, 7).softmax(dim=1)
    second = torch.randn(2, 3, 5).softmax(dim=1)
    found = patch_shares([first, second])
    for i in range(2):
        for segment in range(3):
            for patch in range(7):
                expected = sum(
                    float(second[i, segment, between] * first[i, between, patch])
                    for between in range(5)
                )
                assert float(found[i, segment, patch]) == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 7))
    torch.testing.assert_close(patch_shares([first]), first)


@torch.no_grad()
def test_segments_are_those_of_transformers() -> None:
    from transformers.models.groupvit.modeling_groupvit import get_grouping_from_attentions

    method = method_of()
    images = torch.randn(2, 3, SIDE, SIDE)
    segments, shares = see(method.net, images)
    theirs = method.net.vision_model(pixel_values=images, output_attentions=True, return_dict=True)
    grouping = get_grouping_from_attentions(theirs.attentions, (SIDE, SIDE))
    ours = torch.nn.functional.interpolate(shares, (SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(ours, grouping)
    assert torch.equal(segments, theirs.last_hidden_state)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, 8, 8))


@torch.no_grad()
def test_similarities_are_those_of_transformers() -> None:
    """Whole images and texts, as its own forward compares them; texts end at the highest id."""
    method, batch = method_of(), toy_batch(toy_samples(2))
    words = torch.where(batch.word_mask, batch.words, 0)
    ends = batch.word_mask.sum(dim=1) - 1
    method.net.text_model.eos_token_id = int(words[0, ends[0]])
    out = method.net(
        input_ids=words, pixel_values=batch.images, attention_mask=batch.word_mask.long()
    )
    outputs = method(batch)
    images = method._images(outputs.segments.mean(dim=1))
    texts = method._texts(outputs.sentences)
    torch.testing.assert_close(images, out.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(texts, out.text_embeds, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_is_read_at_its_last_real_token() -> None:
    method = method_of()
    words = torch.tensor([[3, 9, 8, 4, 7, 7], [3, 9, 8, 4, 0, 0], [3, 5, 4, 0, 0, 0]])
    mask = torch.arange(6) < torch.tensor([[4], [4], [3]])
    states = read(method.net, words, mask)
    torch.testing.assert_close(states[0], states[1])
    alone = read(method.net, words[2:, :3], mask[2:, :3])
    torch.testing.assert_close(states[2:], alone)


def test_pixels_go_to_the_largest_share() -> None:
    torch.manual_seed(0)
    shares = torch.randn(4, 8, 8).softmax(dim=0).numpy()
    (geometry,) = toy_batch(toy_samples(1, [PX])[:1]).geometry
    found = segments_in_px(shares, geometry)
    in_px = np.stack([response_in_px(one, geometry) for one in shares])
    assert found.shape == PX
    np.testing.assert_array_equal(found, in_px.argmax(axis=0))


# -- two queries ---------------------------------------------------------------------------------


def test_margins_one_by_one() -> None:
    torch.manual_seed(0)
    segments, texts, dummy = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(5)
    image_of = torch.tensor([0, 1, 1, 0])
    found = segment_margins(segments, texts, dummy, image_of)
    for b, image in enumerate(image_of.tolist()):
        for g in range(3):
            expected = float(segments[image, g] @ texts[b]) - float(segments[image, g] @ dummy)
            assert float(found[b, g]) == pytest.approx(expected, abs=1e-5)


def test_the_mask_is_the_union_of_the_segments_won() -> None:
    torch.manual_seed(0)
    batch = toy_batch(toy_samples(1, [PX]), share_images=True)
    shares = torch.randn(1, 4, 8, 8).softmax(dim=1)
    margins = torch.tensor([[0.1, -0.2, 0.3, -0.4], [-0.1, -0.1, 0.0, -0.1]])
    won, nothing = decode(shares, margins, 10.0, batch)
    which = segments_in_px(shares[0].numpy(), batch.geometry[0])
    expected = np.zeros(PX, bool)
    chances = []
    for segment, margin in ((0, 0.1), (2, 0.3)):
        expected |= which == segment
        chances += [1 / (1 + np.exp(-10 * margin))] * int((which == segment).sum())
    np.testing.assert_array_equal(won.mask, expected)
    assert won.score == pytest.approx(np.mean(chances), rel=1e-5)
    assert not won.empty
    assert won.response is None
    np.testing.assert_allclose(won.maps["won"], shares[0, [0, 2]].sum(dim=0), rtol=1e-6)
    # The dummy wins what is equal: nothing is meant.
    assert nothing.empty
    assert not nothing.mask.any()
    assert nothing.score == 0
    assert not nothing.maps["won"].any()


def test_all_segments_won_are_the_whole_image() -> None:
    batch = toy_batch(toy_samples(1, [PX]))
    shares = torch.randn(2, 4, 8, 8).softmax(dim=1)
    for prediction in decode(shares, torch.ones(2, 4), 10.0, batch):
        assert prediction.mask.all()


@torch.no_grad()
def test_the_dummy_is_read_as_expressions_are() -> None:
    """Against itself it is level, whatever stands beside it in the batch."""
    samples = toy_samples(1)
    method, batch = method_of(groupvit_config(dummy=samples[0].text)), toy_batch(samples)
    found = method.margins(method(batch))
    torch.testing.assert_close(found[0], torch.zeros(4), atol=1e-5, rtol=0)
    assert found[1].abs().max() > 1e-4


def test_a_dummy_must_be_spelled_and_short() -> None:
    method, batch = build_method("groupvit", groupvit_config()).eval(), toy_batch(toy_samples(1))
    outputs = method(batch)  # answers need it, neither forward nor the loss does
    with pytest.raises(ConfigError, match='dummy "a photo of a nothing" was not spelled'):
        method.decode(outputs, batch)
    with pytest.raises(ConfigError, match="dummy of 99 tokens, and places for 32"):
        method.spell(lambda text: [1] * 99)


def test_one_segment_is_all_or_nothing() -> None:
    vision = groupvit_config().vision.model_copy(
        update={"depths": (1,), "group_tokens": (1,), "segments": (1,)}
    )
    method = method_of(groupvit_config(vision=vision))
    for prediction in answers(method, toy_batch(toy_samples(2))):
        assert prediction.mask.all() or (prediction.empty and not prediction.mask.any())


# -- learning ------------------------------------------------------------------------------------


def test_the_loss_falls() -> None:
    method, batch = toy_method("groupvit"), toy_batch(toy_samples(2))
    two = rows_of(batch, [0, 2])
    method.eval()  # batch norms of two rows would tell them apart by themselves
    before = float(losses(method, two)["total"].detach())
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        method.loss(method(two), two)["total"].backward()
        optimiser.step()
    assert float(losses(method, two)["total"].detach()) < 0.5 * before


def test_one_pair_is_refused() -> None:
    method, batch = toy_method("groupvit"), toy_batch(toy_samples(1)[:1])
    method.train()
    with pytest.raises(ConfigError, match="nothing to tell apart"):
        method.loss(method(batch), batch)


def test_another_size_is_refused() -> None:
    method, batch = toy_method("groupvit"), toy_batch(toy_samples(1))
    with pytest.raises(ConfigError, match="64 x 48 px, and a GroupViT for 64") as caught:
        method(replace(batch, images=batch.images[..., :48]))
    assert "preprocess.size=64" in caught.value.remedy


# -- fields --------------------------------------------------------------------------------------

FLIPS: dict[str, Any] = {
    "vision": {
        "patch": 16, "width": 16, "depths": (2, 1, 1), "group_tokens": (6, 5, 0),
        "segments": (6, 3, 3), "heads": 4, "mlp_width": 32,
    },
    "text": {"vocab_size": 170, "width": 16, "layers": 1, "heads": 4, "mlp_width": 32},
    "embed": 8,
    "hidden": 40,
    "dummy": "the one on my far side please",
}  # fmt: skip


def flips() -> list[tuple[str, dict[str, Any]]]:
    base, found = groupvit_config().model_dump(), []
    for name, value in FLIPS.items():
        if not isinstance(value, dict):
            found.append((name, {**base, name: value}))
            continue
        for key, inner in value.items():
            found.append((f"{name}.{key}", {**base, name: {**base[name], key: inner}}))
    return found


def answer(config: GroupVitConfig, batch: Batch) -> list[Tensor]:
    method = method_of(config)
    with torch.no_grad():
        outputs = method(batch)
        return [*(value for _, value in tensors(outputs)), method.margins(outputs)]


@pytest.mark.parametrize(("name", "fields"), flips(), ids=[name for name, _ in flips()])
def test_every_field_does_something(name: str, fields: dict[str, Any]) -> None:
    batch = toy_batch(toy_samples(2))
    before = answer(groupvit_config(), batch)
    after = answer(GroupVitConfig.model_validate(fields), batch)
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert not all(same), f"{name} does nothing"


def test_every_field_has_a_flip() -> None:
    told = {"vision.image_size", "text.max_positions"}  # tested elsewhere
    base = groupvit_config().model_dump()
    keys = {f"{k}.{i}" for k in ("vision", "text") for i in base[k]}
    keys |= base.keys() - {"vision", "text"}
    assert {name for name, _ in flips()} == keys - told


@pytest.mark.parametrize(
    "change",
    [
        {"group_tokens": (6, 4)},
        {"group_tokens": (0, 0, 0)},
        {"segments": (6, 0, 4)},
        {"heads": 5},
        {"image_size": 4},
        {"depths": (1, 0, 1)},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    base = groupvit_config().model_dump()
    with pytest.raises((ConfigError, ValidationError)):
        GroupVitConfig.model_validate({**base, "vision": {**base["vision"], **change}})


def test_the_papers_size() -> None:
    """55.73 M parameters, of which the image tower has 28.84 M."""
    with torch.device("meta"):
        method = build_method("groupvit", GroupVitConfig())
    assert sum(p.numel() for p in method.parameters()) == 55_726_609
    assert sum(p.numel() for p in method.net.vision_model.parameters()) == 28_837_136
