"""The edge network: the pair loss against loops, what learns and what does not, and a toy of it."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from refseg.errors import ConfigError, DataError
from refseg.methods.tris.edges import EdgeBatch, EdgeNet, EdgeNetConfig, cells, taps
from refseg.methods.tris.refine import RefineSettings, refine
from refseg.methods.tris.seeds import IGNORE, SeedConfig, on_grid, seeds
from refseg.nn.clip_resnet import ClipResNetConfig
from refseg.nn.resnet import ResNetVisionConfig
from refseg.nn.vision import SwinVisionConfig

RESNET = ResNetVisionConfig(layers=(1, 1, 1, 1), width=8, last_stride=1)
ENCODERS = {
    "resnet": RESNET,
    "clip": ClipResNetConfig(layers=(1, 1, 1, 1), width=8),
    "swin": SwinVisionConfig(
        image_size=64, width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path=0.5
    ),
}


def small(**changes):
    config = EdgeNetConfig(
        vision=RESNET,
        edge_width=8,
        widths=(8, 8, 16, 16, 16),
        groups=(2, 2, 4, 4, 4),
        joined_width=16,
        joined_groups=4,
        radius=4,
    )
    return EdgeNetConfig.model_validate({**config.model_dump(), **changes})


def a_net(seed=0, **changes):
    torch.manual_seed(seed)
    return EdgeNet(small(**changes))


def a_batch(hw=(64, 64), count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *hw, generator=generator)
    picked = torch.randint(3, (count, *cells(hw)), generator=generator)
    return EdgeBatch(images, torch.tensor([0, 1, IGNORE])[picked])


# -- the network -----------------------------------------------------------------------------


def test_papers_sizes():
    config = EdgeNetConfig()
    assert (config.vision.width, *config.vision.channels) == (64, 256, 512, 1024, 2048)
    with torch.device("meta"):  # sizes alone
        net, image = EdgeNet(config), torch.zeros(1, 3, 64, 96)
    channels = 64 + 256 + 512 + 1024 + 2048
    edge = 32 * channels + 5 * 2 * 32 + 160 + 1
    sizes = zip((64, 256, 512, 1024, 2048), (64, 128, 256, 256, 256), strict=True)
    displacement = sum(taken * width + 2 * width for taken, width in sizes)
    displacement += (768 + 2) * 256 + (448 + 2) * 256 + 2 * 256
    count = {
        group.name: sum(p.numel() for p in group.parameters) for group in net.parameter_groups()
    }
    assert count == {"edge": edge, "displacement": displacement}
    found = taps(net.backbone, image)
    assert [tuple(x.shape[1:]) for x in found] == [
        (64, 16, 24),
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 4, 6),
    ]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("hw", [(64, 64), (33, 50), (3, 70), (1, 1)])
def test_sizes(name, hw):
    net = a_net(vision=ENCODERS[name].model_dump())
    batch = a_batch(hw)
    outputs = net(batch)
    assert outputs.edge.shape == (2, *cells(hw))
    assert outputs.displacement.shape == (2, 2, *cells(hw))
    assert torch.isfinite(net.loss(outputs, batch)["total"])
    edge, displacement = net.look(batch.images)
    assert edge.shape == (2, *cells(hw))
    assert displacement.shape == (2, 2, *cells(hw))
    (found,) = refine(
        np.ones((1, *hw), np.float32),
        edge[0].numpy(),
        displacement[0].numpy(),
        RefineSettings(steps=4),
        hw,
    )
    assert found.mask.shape == hw


@pytest.mark.parametrize("name", ENCODERS)
def test_only_heads_learn(name):
    net = a_net(vision=ENCODERS[name].model_dump()).train()
    before = copy.deepcopy(net.state_dict())
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        batch = a_batch(seed=step)
        net.loss(net(batch), batch)["total"].backward()
        optimiser.step()
    assert all(p.grad is None and not p.requires_grad for p in net.backbone.parameters())
    assert not any(part.training for part in net.backbone.modules())
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    heads = {k for k, _ in net.named_parameters() if k.startswith(("edge.", "displacement."))}
    assert changed == heads


def test_learning_rates_are_irnets():
    groups = {group.name: group for group in a_net().parameter_groups()}
    base = 0.1
    assert base * groups["edge"].lr_scale == pytest.approx(0.1)
    assert base * groups["displacement"].lr_scale == pytest.approx(1.0)
    assert all(group.decay_scale == 1 for group in groups.values())


def test_mean_displacement_counts_in_eval_mode_alone():
    net = a_net().train()
    batches = [a_batch(count=3, seed=1), a_batch(count=1, seed=2)]
    raw = [net(batch).displacement for batch in batches]
    net.set_mean(batches)
    mean = torch.cat(raw).mean(dim=(0, 2, 3))
    torch.testing.assert_close(net.mean_displacement, mean)
    assert torch.equal(net(batches[0]).displacement, raw[0])
    centred = raw[0] - mean[:, None, None]
    torch.testing.assert_close(net.eval()(batches[0]).displacement, centred)
    net.set_mean(batches)  # once more changes nothing: it is of what the head says
    torch.testing.assert_close(net.mean_displacement, mean)
    with pytest.raises(DataError, match="no image"):
        net.set_mean([])


def test_look_is_the_mean_of_both_directions():
    net = a_net()
    batch = a_batch((64, 96))
    net.set_mean([batch])
    edge, displacement = net.look(batch.images)
    net.eval()
    outputs = net(batch)
    twin = net(EdgeBatch(batch.images.flip(-1), batch.labels)).edge.flip(-1)
    torch.testing.assert_close(edge, ((outputs.edge + twin) / 2).sigmoid())
    torch.testing.assert_close(displacement, outputs.displacement)
    mirrored, _ = net.look(batch.images.flip(-1))
    torch.testing.assert_close(mirrored, edge.flip(-1))
    assert torch.equal(net.train().look(batch.images)[0], edge)


def test_an_images_answer_is_its_own():
    net = a_net()
    batch = a_batch(count=3)
    edge, displacement = net.look(batch.images)
    alone, moved = net.look(batch.images[1:2])
    torch.testing.assert_close(alone[0], edge[1])
    torch.testing.assert_close(moved[0], displacement[1])


def test_bad_input_is_named():
    with pytest.raises(DataError, match="seeds of shape"):
        EdgeBatch(torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64))
    with pytest.raises(ConfigError, match="groups"):
        small(edge_width=10, edge_groups=4)
    with pytest.raises(ConfigError, match="groups"):
        small(edge_width=4, edge_groups=4)


def test_batch_moves():
    batch = a_batch().to("cpu")
    assert len(batch) == 2
    assert batch.labels.device.type == "cpu"


# -- a toy of the whole ------------------------------------------------------------------------

SIDE = 64


def drawn(seed):
    """An image [H, W, 3] in 0..1 of a light square on dark noise, and its mask."""
    generator = np.random.default_rng(seed)
    size = generator.integers(20, 32)
    top, left = generator.integers(4, SIDE - 4 - size, 2)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + size, left : left + size] = True
    image = 0.15 * generator.random((SIDE, SIDE, 3)) + np.where(mask[..., None], 0.7, 0.1)
    return image.astype(np.float32), mask


def blurred(mask, seed):
    """What a network's coarse response to the square could be: wide, uneven, off its place."""
    generator = np.random.default_rng(seed)
    moved = np.roll(mask, generator.integers(-4, 5, 2), axis=(0, 1))
    response = ndimage.gaussian_filter(moved.astype(np.float32), 7)
    return response / response.max()


def as_tensor(image):
    return torch.from_numpy((image - 0.3) / 0.3).permute(2, 0, 1)


@cache
def learned(seed=2, steps=50):
    """A net with a random frozen encoder that learned from blurred maps' seeds."""
    net = a_net(seed, radius=5, displacement_lr_scale=1.0).train()
    config = SeedConfig(foreground=0.55, background=0.2)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.02)
    batches = []
    for step in range(steps):
        images, labels = [], []
        for number in range(8 * step, 8 * step + 8):
            image, mask = drawn(number)
            found = seeds(blurred(mask, number), np.zeros((SIDE, SIDE, 3), np.uint8), config)
            images.append(as_tensor(image))
            labels.append(torch.from_numpy(on_grid(found)))
        batches.append(EdgeBatch(torch.stack(images), torch.stack(labels)))
        optimiser.zero_grad()
        net.loss(net(batches[-1]), batches[-1])["total"].backward()
        optimiser.step()
    net.set_mean(batches[:4])
    return net.eval()


UNSEEN = range(10_000, 10_010)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_edges_of_squares_are_learned_from_noisy_seeds():
    net = learned()
    on, off = [], []
    for number in UNSEEN:
        image, mask = drawn(number)
        edge = net.look(as_tensor(image)[None])[0][0].numpy()
        share = mask.reshape(16, 4, 16, 4).mean(axis=(1, 3))
        border = ndimage.binary_dilation(share > 0) & ~ndimage.binary_erosion(share == 1)
        on.append(edge[border].mean())
        off.append(edge[~ndimage.binary_dilation(border)].mean())
    assert np.mean(on) > 4 * np.mean(off)


def test_refined_masks_beat_the_blurred_maps():
    net = learned()
    cuts = (0.25, 0.4, 0.5, 0.6)
    before, after = [], []
    for number in UNSEEN:
        image, mask = drawn(number)
        response = blurred(mask, number)
        edge, displacement = (x[0].numpy() for x in net.look(as_tensor(image)[None]))
        before.append([iou(response > cut, mask) for cut in cuts])
        settings = [RefineSettings(background=cut) for cut in cuts]
        found = [refine(response[None], edge, displacement, s, mask.shape)[0] for s in settings]
        after.append([iou(one.mask, mask) for one in found])
    gain = np.mean(after, axis=0) - np.mean(before, axis=0)
    assert gain[0] > 0.08  # at the paper's threshold
    assert np.mean(after, axis=0).max() > np.mean(before, axis=0).max() + 0.04
