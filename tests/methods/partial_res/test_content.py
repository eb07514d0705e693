"""CCTF against loops: what a coordinate brings, in the intended form and the released code's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from refseg.data.transforms import PreprocessConfig
from refseg.methods.partial_res.content import Content
from refseg.methods.partial_res.places import Grid, extents, line_of_sines, valid_cells
from refseg.nn.positions import sine_positions
from tests.methods.partial_res import literal
from tests.methods.partial_res.literal import Contents, some_valid

STRIDE, BINS = 8, 100
FORMS = ["intended", "swapped"]
# Grids, the net sides that they cover, and the cells of three images.
GRIDS = {
    "square": ((5, 5), (40, 40), ((0, 0, 5, 5), (0, 0, 5, 3), (1, 0, 3, 5))),
    "tall": ((7, 3), (56, 24), ((0, 0, 7, 3), (2, 0, 4, 3), (0, 1, 7, 1))),
    "wide": ((3, 8), (24, 64), ((0, 0, 3, 8), (1, 0, 1, 8), (0, 2, 3, 5))),
    "sides that no stride divides": ((7, 9), (50, 70), ((0, 0, 7, 9), (1, 0, 5, 9), (0, 2, 7, 4))),
    "one cell": ((1, 1), (8, 8), ((0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1))),
}
AXES = torch.tensor([0, 1] * 12)


def looked_at(grid: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Grid]:
    """memory [3, H, W, 6], valid [3, H, W], tokens [3, 24] with some END, the grid."""
    hw, net_hw, rectangles = GRIDS[grid]
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(3, *hw, 6, generator=generator)
    tokens = torch.randint(0, BINS, (3, 24), generator=generator)
    tokens[1, 10:] = BINS
    tokens[0, :4] = torch.tensor([0, 0, BINS - 1, BINS - 1])
    return memory, some_valid(*rectangles, hw=hw), tokens, Grid(hw, net_hw, STRIDE)


def content(memory: Tensor, valid: Tensor, grid: Grid, form: str) -> Content:
    return Content.of(memory, valid, grid, BINS, swapped=form == "swapped")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_gather_is_the_loop(grid: str, form: str) -> None:
    memory, valid, tokens, places = looked_at(grid)
    loop = Contents(memory.double(), valid, places.net_hw, STRIDE, BINS)
    expected = loop.of(tokens, AXES.tolist(), form)
    exact = content(memory.double(), valid, places, form).of_tokens(tokens, AXES)
    assert (exact - expected).abs().max() < 1e-15
    single = content(memory, valid, places, form).of_tokens(tokens, AXES)
    assert (single - expected).abs().max() < 5e-7


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_loops(form: str) -> None:
    memory, valid, tokens, places = looked_at("wide")
    pull = torch.randn(3, 24, 6, generator=torch.Generator().manual_seed(1)).double()
    grads = []
    for fast in (True, False):
        own = memory.double().requires_grad_()
        if fast:
            brought = content(own, valid, places, form).of_tokens(tokens, AXES)
        else:
            loop = Contents(own, valid, places.net_hw, STRIDE, BINS)
            brought = loop.of(tokens, AXES.tolist(), form)
        (brought * pull).sum().backward()
        assert own.grad is not None
        grads.append(own.grad)
    assert grads[0].any()
    torch.testing.assert_close(grads[0], grads[1], atol=1e-14, rtol=0)


def test_the_forms_differ_where_rows_and_columns_do() -> None:
    memory, valid, tokens, places = looked_at("square")
    everywhere = torch.ones_like(valid)
    intended = content(memory, everywhere, places, "intended").of_tokens(tokens, AXES)
    swapped = content(memory, everywhere, places, "swapped").of_tokens(tokens, AXES)
    written = tokens < BINS
    assert ((intended - swapped).abs().amax(dim=-1) > 0.01)[written].all()
    # Where rows and columns are the same, only the number of the cell can differ.
    mirrored = memory + memory.transpose(1, 2)
    ours = content(mirrored, everywhere, places, "intended").of_tokens(tokens, AXES)
    crossed = content(mirrored, everywhere, places, "intended").of_tokens(tokens, 1 - AXES)
    torch.testing.assert_close(ours, crossed, atol=1e-6, rtol=0)


def test_an_x_brings_its_column_and_a_y_its_row() -> None:
    """Drawn so that it can be read: a stripe in column 3, and one in row 1."""
    places = Grid((4, 5), (32, 40), STRIDE)
    memory = torch.zeros(1, 4, 5, 2)
    memory[0, :, 3, 0] = 1.0
    memory[0, 1, :, 1] = 1.0
    whole = torch.ones(1, 4, 5, dtype=torch.bool)
    found = content(memory, whole, places, "intended").of_tokens(
        torch.tensor([[65, 30]]),
        torch.tensor([0, 1]),  # 26.2 px: column 3; 9.8 px: row 1
    )
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.2, 1.0]))


def test_end_brings_nothing_unless_swapped() -> None:
    memory, valid, _, places = looked_at("tall")
    ends = torch.full((3, 24), BINS)
    assert not content(memory, valid, places, "intended").of_tokens(ends, AXES).any()
    swapped = content(memory, valid, places, "swapped").of_tokens(ends, AXES)
    torch.testing.assert_close(swapped[:, 0], memory[:, -1].mean(dim=1))  # the last row
    torch.testing.assert_close(swapped[:, 1], memory[:, :, -1].mean(dim=1))  # the last column


def test_the_codes_last_line_is_reached_by_end_alone() -> None:
    """The scale is H - 1 there; ours gives every line its share of the bins."""
    memory, valid, _, places = looked_at("tall")
    tokens = torch.arange(BINS + 1)[None].expand(3, -1)
    crossed = content(memory, valid, places, "swapped")._lines_of(tokens, 0)[0].tolist()
    assert crossed.index(6) == BINS
    ours = content(memory, valid, places, "intended")._lines_of(tokens, 1)[0].tolist()
    assert [ours.count(line) for line in range(7)] == [14, 15, 14, 14, 14, 15, 15]


def test_padding_has_no_share_unless_swapped() -> None:
    memory, valid, tokens, places = looked_at("wide")
    junk = torch.where(valid[..., None], memory, 1e3 * torch.randn_like(memory))
    clean = content(memory, valid, places, "intended").of_tokens(tokens, AXES)
    assert torch.equal(clean, content(junk, valid, places, "intended").of_tokens(tokens, AXES))
    crossed = content(memory, valid, places, "swapped").of_tokens(tokens, AXES)
    assert not torch.equal(crossed, content(junk, valid, places, "swapped").of_tokens(tokens, AXES))


def test_a_line_of_padding_brings_nothing() -> None:
    memory, valid, _, places = looked_at("wide")
    tokens, axes = torch.tensor([[0, 0]] * 3), torch.tensor([0, 1])
    found = content(memory, valid, places, "intended").of_tokens(tokens, axes)
    assert found[0].any()
    assert not found[2, 0].any()  # columns 0 and 1 of the third are padding
    assert not found[1, 1].any()  # so is row 0 of the second
    assert bool(found.isfinite().all())


# -- places ----------------------------------------------------------------------------------


def test_cells_are_those_under_the_middle_of_a_bin() -> None:
    tokens = torch.arange(1001)
    for side in (8, 50, 64, 70, 128, 608, 640):
        for stride in (4, 8, 16, 32):
            count = -(-side // stride)
            grid = Grid((count, 1), (side, 1), stride)
            found = grid.cells(tokens, 1, 1000)
            exact = [min((2 * t + 1) * side // (2000 * stride), count - 1) for t in range(1000)]
            assert found.tolist() == [*exact, exact[-1]], (side, stride)


@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_valid_cells_share_a_pixel_with_the_image(fit: str) -> None:
    preprocess = PreprocessConfig.model_validate({"size": 40, "fit": fit})
    for hw in ((40, 40), (30, 61), (97, 13), (1, 90), (90, 1), (3, 2)):
        geometry = preprocess.geometry(hw)
        found = valid_cells([geometry], Grid((5, 5), (40, 40), STRIDE))[0]
        assert torch.equal(found, literal.valid_cells(geometry, (5, 5), STRIDE)), hw


def test_rounding_lets_no_column_of_padding_in() -> None:
    """275 * (96 / 275) is a little more than 96, where the image ends and a cell begins."""
    geometry = PreprocessConfig(size=128, fit="letterbox").geometry((365, 275))
    assert geometry.scale_xy[0] * 275 > 96
    found = valid_cells([geometry], Grid((8, 8), (128, 128), 16))[0]
    assert found.any(dim=0).tolist() == [False] + [True] * 6 + [False]


def test_extents_are_the_valid_rectangle() -> None:
    valid = some_valid((0, 0, 4, 6), (1, 2, 2, 3), (3, 5, 1, 1), hw=(4, 6))
    expected = [[0, 0, 6, 4], [2, 1, 3, 2], [5, 3, 1, 1]]
    assert extents(valid).tolist() == expected


def test_positions_are_the_loops() -> None:
    valid = some_valid((0, 0, 4, 6), (1, 2, 2, 3), (0, 0, 4, 1), hw=(4, 6))
    found = sine_positions(valid, 12)
    for row, one in enumerate(valid):
        expected = literal.sine_positions(one, 12)
        # DETR adds 1e-6 to the count, which ours does not.
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [2, 128, 1000])
def test_a_line_of_sines_has_neighbours_alike_and_all_different(count: int) -> None:
    """As large as the papers' random table, so that all else is on the same scale."""
    table = line_of_sines(count, 32)
    assert table.shape == (count, 32)
    assert float(table.square().mean()) == pytest.approx(1.0, abs=1e-5)
    apart = torch.cdist(table, table)
    far = apart + 1e9 * torch.eye(count)
    assert float(far.min()) > 0.5
    if count > 2:
        near = apart.diagonal(1)
        assert float(near.mean()) < float(apart.mean()) / 2
