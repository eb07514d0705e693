"""The Swin adapter: equal to transformers' own, at sizes that fit the windows and that do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refseg.nn.positions import sine_table
from refseg.nn.vision import SwinPyramid, SwinVisionConfig

SMALL = {
    "image_size": 64,
    "patch": 2,
    "width": 8,
    "depths": (2, 2, 2, 2),
    "heads": (1, 2, 2, 4),
    "window": 4,
    "drop_path": 0.0,
}


def pyramid(seed: int = 0, **changes: Any) -> SwinPyramid:
    torch.manual_seed(seed)
    made = SwinPyramid(SwinVisionConfig.model_validate({**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def swin_config(made: SwinPyramid, **changes: Any) -> Any:
    from transformers import SwinConfig

    c = made.config
    return SwinConfig(
        image_size=c.image_size,
        patch_size=c.patch,
        embed_dim=c.width,
        depths=list(c.depths),
        num_heads=list(c.heads),
        window_size=c.window,
        drop_path_rate=c.drop_path,
        use_absolute_embeddings=c.absolute_positions,
        **changes,
    )


def backbone_maps(made: SwinPyramid, images: Tensor) -> list[Tensor]:
    """transformers' SwinBackbone (which always partitions) on the same weights, norms taken out."""
    from transformers import SwinBackbone

    stages = [f"stage{i}" for i in range(1, 5)]
    theirs = SwinBackbone(swin_config(made, out_features=stages)).eval()
    theirs.hidden_states_norms = nn.ModuleDict({stage: nn.Identity() for stage in stages})
    report = getattr(theirs, "swin", theirs).load_state_dict(made.swin.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert all("layernorm." in key and ".layers." not in key for key in report.missing_keys)
    with torch.no_grad():
        return list(theirs(images).feature_maps)


def as_maps(levels: list[tuple[Tensor, tuple[int, int]]]) -> list[Tensor]:
    return [tokens.transpose(1, 2).unflatten(2, hw) for tokens, hw in levels]


@pytest.mark.parametrize(
    ("size", "hw"),
    [(64, (64, 64)), (72, (72, 72)), (90, (90, 66)), (81, (81, 99))],
    ids=["fits", "padded windows", "not square", "padded patches"],
)
def test_it_is_transformers_backbone(size: int, hw: tuple[int, int]) -> None:
    """Sizes whose last stage is wider than a window, so shifts are the same everywhere."""
    made = pyramid(image_size=size, window=3)
    images = torch.randn(2, 3, *hw)
    with torch.no_grad():
        ours = as_maps(made(images))
    for one, other in zip(ours, backbone_maps(made, images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_it_is_transformers_model_where_one_window_covers_the_last_stage() -> None:
    """Swin does not shift there; SwinModel says so, SwinBackbone does not."""
    from transformers import SwinModel

    made = pyramid()
    images = torch.randn(2, 3, 64, 64)
    theirs = SwinModel(swin_config(made), add_pooling_layer=False).eval()
    theirs.load_state_dict(made.swin.state_dict(), strict=False)
    theirs.layernorm = nn.Identity()
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
        ours, hw = made(images)[-1]
    assert hw == (4, 4)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(
        ours, backbone_maps(made, images)[-1].flatten(2).transpose(1, 2), atol=1e-3
    )


def test_shifts_are_planned_from_the_size() -> None:
    def shifts(**changes: Any) -> list[list[int]]:
        return [
            [int(b.shift_size) for b in stage.blocks]
            for stage in pyramid(**changes).swin.encoder.layers
        ]

    assert shifts() == [[0, 2], [0, 2], [0, 2], [0, 0]]
    assert shifts(image_size=128) == [[0, 2]] * 4
    assert shifts(image_size=16) == [[0, 2]] + [[0, 0]] * 3


@pytest.mark.parametrize("hw", [(64, 64), (70, 33), (7, 9), (1, 1)])
def test_sizes_round_up(hw: tuple[int, int]) -> None:
    made = pyramid()
    sizes = [tuple(-(-side // (2 * 2**i)) for side in hw) for i in range(4)]
    with torch.no_grad():
        levels = made(torch.randn(1, 3, *hw))
    assert [found for _, found in levels] == sizes
    assert [tuple(t.shape) for t, _ in levels] == [
        (1, h * w, c) for (h, w), c in zip(sizes, (8, 16, 32, 64), strict=True)
    ]


def test_a_small_picture_does_not_change_the_answer_to_the_next() -> None:
    """Without always_partition transformers shrinks the windows of a block for good."""
    made = pyramid()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = made(images)[-1][0]
        made(torch.randn(1, 3, 8, 8))
        assert torch.equal(made(images)[-1][0], before)


def test_blocks_and_merges_make_the_pyramid() -> None:
    made = pyramid()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens, hw = made.stem(images)
        for i, (level, size) in enumerate(made(images)):
            tokens = made.blocks(i, tokens, hw)
            assert torch.equal(tokens, level)
            assert hw == size
            if i < 3:
                tokens, hw = made.merge(i, tokens, hw)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_that_nobody_reads_are_neither_run_nor_trained(stages: int) -> None:
    made = pyramid()
    made.rest(stages)
    images = torch.randn(1, 3, 64, 64)
    whole, found = made(images), made(images, stages)
    assert len(found) == stages
    for (tokens, hw), (wanted, size) in zip(found, whole, strict=False):
        assert torch.equal(tokens, wanted)
        assert hw == size
    sum(tokens.sum() for tokens, _ in found).backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert any(not parameter.requires_grad for parameter in made.parameters()) == (stages < 4)


def test_positions_follow_the_size() -> None:
    made = pyramid(absolute_positions=True)
    table = made.swin.embeddings.position_embeddings
    assert torch.equal(made._positions(table, (32, 32)), table)
    flat = torch.full_like(table, 0.7)
    for hw in [(32, 17), (9, 5), (41, 41)]:
        found = made._positions(flat, hw)
        assert found.shape == (1, hw[0] * hw[1], 8)
        torch.testing.assert_close(found, torch.full_like(found, 0.7))
    columns = torch.arange(32.0).repeat(32)[None, :, None].expand(1, -1, 8)
    wide = made._positions(columns, (32, 64)).unflatten(1, (32, 64))
    assert (wide[:, :, 1:] >= wide[:, :, :-1]).all(), "columns stay columns"
    with torch.no_grad():
        assert made(torch.randn(1, 3, 33, 70))[0][1] == (17, 35)


def test_positions_are_learned_and_heard() -> None:
    made = pyramid(absolute_positions=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = made(images)[0][0]
        made.swin.embeddings.position_embeddings.normal_()
        assert not torch.allclose(made(images)[0][0], before, atol=1e-3)
    assert "swin.embeddings.position_embeddings" in dict(made.named_parameters())
    assert not any("position_embeddings" in n for n, _ in pyramid().named_parameters())


def test_the_windows_mask_is_made_once_a_size() -> None:
    made = pyramid()
    block = made.swin.encoder.layers[0].blocks[1]
    first = block.get_attn_mask(32, 32, torch.float32, torch.device("cpu"))
    assert block.get_attn_mask(32, 32, torch.float32, torch.device("cpu")) is first
    assert block.get_attn_mask(16, 16, torch.float32, torch.device("cpu")) is not first


def test_a_mask_made_while_predicting_serves_training() -> None:
    made = pyramid()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        made(images)
    made.train()
    made(images)[-1][0].square().sum().backward()
    grads = [p.grad for p in made.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)


def test_a_copy_is_independent() -> None:
    """The moving average of the training loop is a deep copy."""
    made = pyramid()
    twin = copy.deepcopy(made)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = twin(images)[-1][0]
        for parameter in made.parameters():
            parameter.zero_()
        assert torch.equal(twin(images)[-1][0], before)


def test_channels_last_images_can_be_trained_on() -> None:
    """Some strided convolutions of torch 2.13 crash in their backward on this layout."""
    images = torch.randn(2, 64, 64, 3).permute(0, 3, 1, 2)
    assert not images.is_contiguous()
    grads = []
    for layout in (images, images.contiguous()):
        made = pyramid().train()
        given: list[Tensor] = []
        projection = made.swin.embeddings.patch_embeddings.projection
        projection.register_forward_hook(lambda _, args, out, seen=given: seen.append(args[0]))
        made(layout)[-1][0].square().sum().backward()
        assert given[0].is_contiguous()
        grads.append(projection.weight.grad)
    assert torch.equal(grads[0], grads[1])


def test_there_is_no_unused_norm() -> None:
    assert "swin.layernorm.weight" not in dict(pyramid().named_parameters())


def test_the_table_of_sines_tells_every_cell_apart_and_ramp_across() -> None:
    table = sine_table(8, 16)
    assert table.shape == (64, 16)
    assert table.abs().max() <= 0.5
    distances = torch.cdist(table, table) + 9 * torch.eye(64)
    assert distances.min() > 0.05
    # Channels alternate between row and column; the first ones fall from side to side.
    grid = table.view(8, 8, 16)
    assert (grid[1:, :, 0] < grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] < grid[:, :-1, 1]).all()
    assert torch.equal(grid[0, :, 0], grid[0, :1, 0].expand(8))


def test_the_position_table_starts_from_sines() -> None:
    pyramid = SwinPyramid(
        SwinVisionConfig(
            image_size=32, width=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=4,
            absolute_positions=True,
        )
    )  # fmt: skip
    assert torch.equal(pyramid.swin.embeddings.position_embeddings[0], sine_table(8, 8))
