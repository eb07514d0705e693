"""Any size of image and kind of encoder: forward, loss, backward and decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.data.collate import collate
from refseg.data.transforms import PreprocessConfig
from refseg.methods.partial_res import PartialRes, PartialResConfig
from refseg.methods.partial_res.config import FusionConfig
from refseg.methods.partial_res.fusion import BottomUp
from refseg.nn.darknet import DarkNetVisionConfig
from refseg.types import Batch, Prediction
from tests.methods.partial_res import literal
from tests.methods.toy import answers, rows_of, taught, toy_batch, toy_method, toy_samples
from tests.methods.toy_configs import partial_res_config, toy_text, toy_tokenizer

DARKNET = DarkNetVisionConfig(width=4, depths=(1, 1, 1, 1, 1), neck=False, frozen="none")
KINDS: dict[str, dict[str, Any]] = {
    "Swin": {},
    "Swin, two levels": {"fusion": FusionConfig(strides=(4, 16), grid=16, width=32, norm="group")},
    "Swin, a coarser level": {
        "fusion": FusionConfig(strides=(4, 8, 16), grid=4, width=32, norm="group")
    },
    "DarkNet": {"vision": DARKNET, "fusion": FusionConfig(width=32, norm="group")},
    "DarkNet, fine grid": {
        "vision": DARKNET,
        "fusion": FusionConfig(grid=8, width=32, norm="group"),
    },
    "BERT": {"text": toy_text()},
    "DarkNet and BERT, SeqTR's norm": {
        "vision": DARKNET,
        "text": toy_text(),
        "fusion": FusionConfig(width=32),
    },
}


def method(seed: int = 0, **changes: Any) -> PartialRes:
    torch.manual_seed(seed)
    config = PartialResConfig.model_validate(partial_res_config(**changes).model_dump())
    return PartialRes(config)


def batch_at(size: int, hw: list[tuple[int, int]], fit: str = "square", images: int = 2) -> Batch:
    samples = toy_samples(images, hw)
    preprocess = PreprocessConfig.model_validate({"size": size, "fit": fit})
    return collate(samples, toy_tokenizer(), preprocess)


def worked(model: PartialRes, batch: Batch) -> list[Prediction]:
    """One step of learning, then the answers; everything finite and of the image's size."""
    model.train()
    outputs = model(batch)
    height, width = batch.geometry[0].net_hw
    stride = model.config.fusion.grid
    assert outputs.grid.hw == (-(-height // stride), -(-width // stride))
    total = model.loss(outputs, batch)["total"]
    total.backward()
    assert bool(total.isfinite())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    found = answers(model.eval(), batch)
    for prediction, geometry in zip(found, batch.geometry, strict=True):
        assert prediction.mask.shape == geometry.original_hw
        assert prediction.maps["attention"].shape == outputs.grid.hw
        assert np.isfinite(prediction.maps["attention"]).all()
        assert 0 <= prediction.score <= 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_answers(kind: str) -> None:
    worked(method(**KINDS[kind]), toy_batch(toy_samples(2)))


@pytest.mark.parametrize("kind", ["Swin", "Swin, a coarser level", "DarkNet, fine grid"])
@pytest.mark.parametrize("size", [50, 70, 33])
def test_sides_that_the_stride_does_not_divide(kind: str, size: int) -> None:
    worked(method(**KINDS[kind]), batch_at(size, [(48, 64), (80, 53)]))


@pytest.mark.parametrize("hw", [(20, 400), (400, 20), (1, 20), (20, 1)])
def test_extreme_shapes_in_a_letterbox(hw: tuple[int, int]) -> None:
    """1 : 20, so that one or two rows or columns of cells hold all of the image."""
    batch = batch_at(64, [(40, 40)], "letterbox", images=1)
    strip = batch_at(64, [hw], "letterbox", images=1) if min(hw) > 1 else None
    model = method()
    if strip is not None:
        worked(model, strip)
        outputs = model(strip)
        seen = outputs.memory.seen[:, :-1].reshape(-1, 8, 8)
        assert sorted((int(seen[0].any(0).sum()), int(seen[0].any(1).sum()))) == [2, 8]
    else:
        geometry = PreprocessConfig(size=64, fit="letterbox").geometry(hw)
        thin = Batch(**{**vars(batch), "geometry": (geometry,) * len(batch), "masks": None})
        for prediction in answers(model.eval(), thin):
            assert prediction.mask.shape == hw


@pytest.mark.parametrize("kind", ["Swin", "DarkNet"])
def test_a_batch_of_one_learns_with_group_norms(kind: str) -> None:
    worked(method(**KINDS[kind]), rows_of(toy_batch(toy_samples(1)), [0]))


def test_one_word_is_an_expression() -> None:
    batch = rows_of(toy_batch(toy_samples(1)), [0])
    mask = torch.zeros_like(batch.word_mask)
    mask[:, 0] = True
    worked(method(), Batch(**{**vars(batch), "word_mask": mask}))


# -- frozen parts ----------------------------------------------------------------------------


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_frozen_swin_has_no_gradients_and_stays() -> None:
    vision = partial_res_config().vision.model_copy(update={"drop_path": 0.5})
    model = method(vision=vision, freeze_vision=True)
    before, others = states(model.levels), states(model.encoder)
    batch = toy_batch(toy_samples(2))
    assert all(not p.requires_grad for p in model.levels.parameters())
    groups = {group.name.split(".")[0] for group in model.parameter_groups()}
    assert "levels" not in groups
    assert "fuse" in groups
    taught(model, batch, steps=2, lr=1e-3)
    assert all(p.grad is None for p in model.levels.parameters())
    for name, value in states(model.levels).items():
        assert torch.equal(value, before[name]), name
    assert any(not torch.equal(v, others[n]) for n, v in states(model.encoder).items())
    # It drops nothing out while the rest learns.
    model.train()
    first, second = model.levels(batch.images), model.levels(batch.images)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_a_frozen_darknet_keeps_its_statistics() -> None:
    vision = DarkNetVisionConfig(width=4, depths=(1, 1, 1, 1, 1))
    model = method(vision=vision, fusion=FusionConfig(width=32, norm="group"))
    before = states(model.levels)
    taught(model, toy_batch(toy_samples(2)), steps=2, lr=1e-3)
    changed = {n for n, value in states(model.levels).items() if not torch.equal(value, before[n])}
    assert changed
    assert {name.split(".")[1] for name in changed} == {"neck"}


def test_words_may_rest() -> None:
    text = partial_res_config().text.model_copy(update={"frozen_words": True})
    model = method(text=text)
    before = states(model.text)
    taught(model, toy_batch(toy_samples(2)), steps=2, lr=1e-3)
    after = states(model.text)
    assert torch.equal(before["words.weight"], after["words.weight"])
    assert not torch.equal(before["gru.weight_ih_l0"], after["gru.weight_ih_l0"])


# -- what is fused ---------------------------------------------------------------------------


def averaged(x: Tensor, factor: int) -> Tensor:
    """Means over blocks of factor x factor places, those at the far edges over what is there."""
    rows, columns = -(-x.shape[2] // factor), -(-x.shape[3] // factor)
    found = torch.zeros(*x.shape[:2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            block = x[:, :, factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
            found[:, :, i, j] = block.mean(dim=(2, 3))
    return found


@pytest.mark.parametrize("hw", [(32, 32), (26, 35)])
@torch.no_grad()
def test_levels_meet_bottom_up(hw: tuple[int, int]) -> None:
    """Pooled, convolved and joined with the next; a coarser one is narrowed and enlarged."""
    torch.manual_seed(0)
    fuse = BottomUp(FusionConfig(strides=(2, 4, 8, 16), grid=8, width=6), (3, 4, 5, 8)).eval()
    maps = [
        torch.randn(2, channels, *(-(-side // stride) for side in hw))
        for channels, stride in zip((3, 4, 5, 8), (2, 4, 8, 16), strict=True)
    ]
    x = torch.cat([fuse.down[0](averaged(maps[0], 2)), maps[1]], dim=1)
    x = torch.cat([fuse.down[1](averaged(x, 2)), maps[2]], dim=1)
    narrow = fuse.narrow[0](maps[3])
    assert narrow.shape[1] == 2  # half of the five of the grid's own level
    height, width = maps[2].shape[-2:]
    large = torch.zeros(2, 2, height, width)
    for i in range(height):
        for j in range(width):
            row, column = i * narrow.shape[2] // height, j * narrow.shape[3] // width
            large[:, :, i, j] = narrow[:, :, row, column]
    expected = fuse.join(torch.cat([x, large], dim=1))
    torch.testing.assert_close(fuse(maps), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("placed", [False, True])
@torch.no_grad()
def test_the_memory_is_the_papers(placed: bool) -> None:
    """tanh(V) * tanh(y) and tanh(y) itself, projected, normed in groups, encoded.

    placed, which the papers have not: positions enter the encoder, too.
    """
    model = toy_method("partial_res").eval()
    shape = model.config.transformer.model_copy(update={"placed": placed})
    model.config = model.config.model_copy(update={"transformer": shape})
    batch = toy_batch(toy_samples(2, ((64, 64), (37, 91))), fit="letterbox")
    outputs = model(batch)
    _, sentence = model.text(batch.words, batch.word_mask)
    y = torch.tanh(sentence)
    v = torch.tanh(model.fuse(model.levels(batch.images)))
    for row in (0, 3):
        cells = [v[row, :, i, j] * y[row] for i in range(8) for j in range(8)]
        x = model.project(torch.stack([*cells, y[row]]))
        groups = x.reshape(65, 32, -1)
        mean = groups.mean(dim=(0, 2), keepdim=True)
        spread = groups.var(dim=(0, 2), keepdim=True, unbiased=False)
        normed = ((groups - mean) / (spread + 1e-5).sqrt()).reshape(65, -1)
        x = normed * model.group.weight + model.group.bias
        valid = literal.valid_cells(batch.geometry[row], (8, 8), 8)
        places = F.pad(literal.sine_positions(valid, 32).flatten(0, 1), (0, 0, 0, 1))
        seen = F.pad(valid.flatten(), (0, 1), value=True)
        x = x + places if placed else x
        for layer in model.encoder:
            x = literal.encoder_layer(layer, x, places, seen)
        assert torch.equal(outputs.memory.seen[row], seen)
        torch.testing.assert_close(outputs.memory.tokens[row], x, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_v_may_be_normed() -> None:
    """Then tanh(V) is not at its ends, however large the levels are. Not in the papers."""
    maps = [30 * torch.randn(2, channels, 8, 8) for channels in (3, 4)]
    for normed in (False, True):
        torch.manual_seed(0)
        settings = FusionConfig(strides=(8, 16), grid=16, width=8, normed=normed)
        fuse = BottomUp(settings, (3, 4)).eval()
        found = fuse([maps[0], maps[1][:, :, ::2, ::2]])
        if normed:
            mean, spread = found.flatten(2).mean(dim=2), found.flatten(2).std(dim=2)
            torch.testing.assert_close(mean, torch.zeros(2, 8), atol=1e-5, rtol=0)
            torch.testing.assert_close(spread, torch.ones(2, 8), atol=0.05, rtol=0)
        else:
            assert float(found.std()) > 2
