"""Step 2: its network against a literal one, the published sizes, what a padded place means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.method import trainable
from refseg.methods.tris import Tris, TrisConfig
from refseg.methods.tris.config import CutConfig
from refseg.methods.tris.segmenter import ImageState, TrisOutputs
from refseg.nn.resnet import ResNetVisionConfig
from refseg.types import Batch
from tests.methods.toy import acquainted, answers, assert_same, toy_batch, toy_samples, with_padding
from tests.methods.toy_configs import SIDE, toy_vision
from tests.methods.tris.test_fusion import literal as literal_fusion
from tests.methods.tris.toys import tris_config

POOL = 14_789_632  # CLIP's attention pool, which the released network carries along


def made(**changes: Any) -> Tris:
    torch.manual_seed(0)
    method: Tris = acquainted(Tris(tris_config(**changes)))
    return method.eval()


@torch.no_grad()
def logits(method: Tris, batch: Batch) -> Tensor:
    found: Tensor = method(batch).logits[0]
    return found


def four() -> Batch:
    """Four expressions about two images."""
    return toy_batch(toy_samples(2), share_images=True)


def norm_prelu(block: Any, x: Tensor) -> Tensor:
    """conv, batch norm, PReLU on [C, h, w] with what the norm remembers."""
    conv, norm, act = block
    y = F.conv2d(x[None], conv.weight, padding=1)[0]
    y = (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
    y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    return torch.where(y > 0, y, act.weight * y)


def literal(method: Tris, batch: Batch, row: int) -> list[Tensor]:
    """All four heads [h, w] of one expression, one step after another."""
    c1, c2, c3, c4 = (x[0] for x in method.vision(batch.images[batch.image_of[row]][None]))
    places = method.config.cut.length
    ids = [*batch.words[row][batch.word_mask[row]].tolist(), *[0] * places][:places]
    states, _ = method.text.words(torch.tensor([ids]), torch.ones(1, places, dtype=torch.bool))
    count = int(batch.word_mask[row].sum()) if method.config.mask_padding else places
    heard = list(range(min(count, places)))
    fused = [
        literal_fusion(module, v, states[0], heard)
        for module, v in zip(method.fusion, (c2, c3, c4), strict=True)
    ]
    narrow, steps, heads = method.decoder.narrow, method.decoder.steps, method.decoder.heads

    def enlarged(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x[None], like.shape[-2:], mode="bilinear", align_corners=False)[0]

    d1, d2, d3, d4 = (norm_prelu(narrow[i], x) for i, x in enumerate((c1, *fused)))
    out4 = enlarged(norm_prelu(steps[3], d4), d3)
    out3 = enlarged(norm_prelu(steps[2], out4 + d3), d2)
    out2 = enlarged(norm_prelu(steps[1], out3 + d2), d1)
    out1 = norm_prelu(steps[0], out2 + d1)
    told = []
    for ask, x in zip(heads, (out1, out2, out3, out4), strict=True):
        told.append((ask[1].weight.flatten() @ norm_prelu(ask[0], x).flatten(1)).view(x.shape[1:]))
    return told


@pytest.mark.parametrize("mask_padding", [False, True])
def test_the_network_is_the_literal_one(mask_padding: bool) -> None:
    method, batch = made(mask_padding=mask_padding), four()
    with torch.no_grad():
        state = method.encode_image(batch)
        read = method.text(batch.words, batch.word_mask)
        heard = read.mask if mask_padding else None
        coarser = [
            fuse(level.of(batch.image_of), read.states, heard)
            for fuse, level in zip(method.fusion, state.coarser, strict=True)
        ]
        found = method.decoder(state.finest[batch.image_of], coarser, sides=True)
        whole = logits(method, batch)
        for row in range(4):
            expected = literal(method, batch, row)
            torch.testing.assert_close(whole[row, 0], expected[0], atol=1e-4, rtol=1e-3)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[row, 0], theirs, atol=1e-4, rtol=1e-3)


def test_the_published_size() -> None:
    """Fact 17; the released network has the pool, and CLIP's temperature, besides."""
    with torch.device("meta"):
        method = Tris(TrisConfig())
    assert sum(p.numel() for p in method.vision.parameters()) == 23_527_264
    assert sum(p.numel() for p in method.parameters()) + POOL + 1 == 142_085_869
    projection = 512 * 1024  # carried along by the text tower, trained by nothing
    assert trainable(method) + projection + POOL + 1 == 142_085_869


def test_the_published_shapes() -> None:
    """Fact 18, at 320 px."""
    with torch.device("meta"), torch.no_grad():
        method = Tris(TrisConfig()).eval()
        images, states = torch.empty(1, 3, 320, 320), torch.empty(1, 20, 512)
        c1, *coarser = method.vision(images)
        shapes = [tuple(x.shape[1:]) for x in (c1, *coarser)]
        sides = (80, 40, 20, 10)
        assert shapes == [(256 << i, side, side) for i, side in enumerate(sides)]
        fused = [f(f.look(x), states, None) for f, x in zip(method.fusion, coarser, strict=True)]
        narrowed = [n(x) for n, x in zip(method.decoder.narrow, (c1, *fused), strict=True)]
        assert [x.shape[1] for x in narrowed] == [64, 128, 256, 512]
        assert [step[0].out_channels for step in method.decoder.steps] == [32, 64, 128, 256]
        heads = method.decoder(narrowed[0], fused, sides=True)
        assert [tuple(x.shape) for x in heads] == [(1, 1, s, s) for s in (80, 80, 40, 20)]
        assert len(method.decoder(narrowed[0], fused, sides=False)) == 1


def test_four_heads_learn_and_one_answers() -> None:
    method, batch = made(), four()
    assert len(method(batch).logits) == 1
    learning = method.train()(batch)
    assert [x.shape[-1] for x in learning.logits] == [SIDE // 4, SIDE // 4, SIDE // 8, SIDE // 16]
    names = {"main", "side_2", "side_3", "side_4", "total"}
    assert set(method.loss(learning, batch)) == names
    assert set(method.eval().loss(method(batch), batch)) == {"main", "total"}


def test_the_text_side_hands_over_states_alone() -> None:
    method = made()
    frozen = [name for name, p in method.named_parameters() if not p.requires_grad]
    assert frozen == ["text.words.projection.weight"]


def test_encoders_learn_at_a_tenth() -> None:
    groups = Tris(tris_config(encoder_lr_scale=0.1)).parameter_groups()
    scales = {group.name.split(".")[0]: group.lr_scale for group in groups}
    assert scales == {"vision": 0.1, "text": 0.1, "fusion": 1.0, "decoder": 1.0}


# -- words ---------------------------------------------------------------------------------------


def test_each_word_changes_its_own_answer() -> None:
    method, batch = made(), four()
    before = logits(method, batch)
    for place in range(1, 4):
        words = batch.words.clone()
        words[2, place] = 5 if words[2, place] != 5 else 6
        after = logits(method, replace(batch, words=words))
        assert (before[2] - after[2]).abs().max() > 1e-3
        torch.testing.assert_close(before[[0, 1, 3]], after[[0, 1, 3]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_padded_places_speak_in_the_released_network_alone(mask_padding: bool) -> None:
    """They hold id 0, whose embedding no word has."""
    method, batch = made(mask_padding=mask_padding), four()
    before = logits(method, batch)
    torch.testing.assert_close(before, logits(method, with_padding(batch, 9)), atol=1e-6, rtol=0)
    tables = [p for n, p in method.text.named_parameters() if n.endswith("token_embedding.weight")]
    with torch.no_grad():
        tables[0][0] += torch.randn(tables[0].shape[1])
    changed = (before - logits(method, batch)).abs().amax(dim=(1, 2, 3))
    assert (changed == 0).all() if mask_padding else (changed > 1e-4).all()


def test_what_lies_beyond_the_cut_is_not_read_but_a_kept_end() -> None:
    batch = four()
    words = batch.words.repeat(1, 4)[:, :16]
    long = replace(batch, words=words, word_mask=torch.ones_like(words, dtype=torch.bool))
    tail = words.clone()
    tail[:, 14] = words[:, 14].roll(1) + 1
    last = words.clone()
    last[:, 15] = words[:, 15] + 1
    for keep_end in (False, True):
        method = made(cut=CutConfig(length=12, keep_end=keep_end))
        first = logits(method, long)
        assert torch.equal(first, logits(method, replace(long, words=tail)))
        assert torch.equal(first, logits(method, replace(long, words=last))) != keep_end


# -- images --------------------------------------------------------------------------------------


def test_two_answers_are_what_each_would_be_alone() -> None:
    method, samples = made(), toy_samples(1)
    together = answers(method, toy_batch(samples, share_images=True))
    for sample, prediction in zip(samples, together, strict=True):
        assert_same(prediction, answers(method, toy_batch([sample]))[0])


def test_the_image_is_encoded_once() -> None:
    method, batch = made(), four()
    with torch.no_grad():
        state = method.encode_image(batch)
        assert isinstance(state, ImageState)
        assert len(state.finest) == 2
        assert torch.equal(method.answer(state, batch).logits[0], logits(method, batch))


@pytest.mark.parametrize("hw", [(1, 1), (32, 32), (33, 47), (7, 90)])
@pytest.mark.parametrize("vision", ["clip", "resnet", "swin"])
def test_images_of_any_size(vision: str, hw: tuple[int, int]) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "clip": {},
        "resnet": {"vision": ResNetVisionConfig(layers=(1, 1, 1, 1), width=4, bottleneck=False)},
        "swin": {"vision": toy_vision(patch=4)},
    }
    method, batch = made(**kinds[vision]), four()
    found = logits(method, replace(batch, images=torch.randn(2, 3, *hw)))
    assert found.shape == (4, 1, -(-hw[0] // 4), -(-hw[1] // 4))
    assert bool(found.isfinite().all())


# -- loss ----------------------------------------------------------------------------------------


def silent(batch: Batch) -> TrisOutputs:
    return TrisOutputs(tuple(torch.zeros(len(batch), 1, side, side) for side in (16, 16, 8, 4)))


def noisy(batch: Batch) -> TrisOutputs:
    torch.manual_seed(0)
    return TrisOutputs(tuple(3 * torch.randn_like(x) for x in silent(batch).logits))


def test_zero_logits_cost_four_times_ln_2() -> None:
    terms = made().loss(silent(four()), four())
    assert float(terms["total"]) == pytest.approx(2.772589, abs=1e-6)
    assert [float(terms[name]) for name in terms] == pytest.approx([0.693147] * 4 + [2.772589])


def test_the_loss_is_four_plain_means() -> None:
    batch = four()
    assert batch.masks is not None
    outputs = noisy(batch)
    expected = 0.0
    for one in outputs.logits:
        full = F.interpolate(one, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
        expected += float(F.binary_cross_entropy_with_logits(full, batch.masks))
    assert float(made().loss(outputs, batch)["total"]) == pytest.approx(expected, rel=1e-5)


def test_weights_and_unknown_masks_count_as_told() -> None:
    method, batch = made(), four()
    outputs = noisy(batch)
    each = []
    for row in range(4):
        alone = torch.zeros(4)
        alone[row] = 1.0
        each.append(float(method.loss(outputs, replace(batch, weights=alone))["total"]))
    known = torch.tensor([True, True, False, True])
    told = replace(batch, weights=torch.tensor([1.0, 0.5, 1.0, 0.0]), has_mask=known)
    expected = (each[0] + 0.5 * each[1]) / 1.5
    assert float(method.loss(outputs, told)["total"]) == pytest.approx(expected, rel=1e-5)
    assert method.loss_weight(told) == pytest.approx(1.5)
    nothing = replace(batch, has_mask=torch.zeros(4, dtype=torch.bool))
    assert float(method.loss(outputs, nothing)["total"]) == 0
    assert method.loss_weight(nothing) > 0
    with pytest.raises(ValueError, match="mask label"):
        method.loss(outputs, replace(batch, masks=None))
