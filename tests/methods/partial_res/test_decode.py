"""From tokens to outlines and masks in px: any number of points, any image, END anywhere."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from torch import Tensor

from refseg.data.transforms import PreprocessConfig
from refseg.methods.partial_res import PartialResConfig
from refseg.methods.partial_res.config import LossConfig, SequenceConfig
from refseg.methods.partial_res.decode import points_of, predictions, scores_of
from refseg.methods.partial_res.generate import Written
from refseg.methods.partial_res.loss import neighbours, surest
from refseg.ops.masks import box_mask, decode_segmentation
from refseg.ops.rle import rle_decode
from refseg.types import Geometry, Prediction
from tests.methods.toy import answers, toy_batch, toy_method, toy_samples
from tests.methods.toy_configs import partial_res_config

BINS, GRID = 64, (2, 3)
TASKS = {
    "rec": {"task": "rec", "task_token": "zero"},
    "res": {"task": "res", "task_token": "learnable"},
    "multi": {"task": "multi", "task_token": "task-wise"},
}
PLAIN = Geometry((64, 64), (64, 64), (1.0, 1.0))  # a bin is a pixel


def config(task: str = "res", **sequence: Any) -> PartialResConfig:
    written = SequenceConfig(**{"points": 5, "bins": BINS, **sequence})
    return partial_res_config(**TASKS[task], sequence=written)


def written(tokens: list[list[int]], chance: float = 0.5) -> Written:
    """Rows of tokens, all with one probability, looking at everything alike."""
    rows = torch.tensor(tokens)
    cells = GRID[0] * GRID[1]
    looked = torch.full((len(rows), 4, rows.shape[1], cells + 1), 1 / (cells + 1))
    return Written(rows, torch.full(rows.shape, chance), looked)


def answer(
    tokens: list[int], geometry: Geometry = PLAIN, made: PartialResConfig | None = None
) -> Prediction:
    found: Prediction = predictions(written([tokens]), made or config(), [geometry], GRID)[0]
    return found


def padded(tokens: list[int], length: int = 10) -> list[int]:
    return [*tokens, *[BINS] * (length - len(tokens))]


def rasterised(polygon: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """COCO's own mask of one polygon."""
    flat = polygon.astype(np.float64).reshape(-1).tolist()
    return rle_decode(coco.frPyObjects([flat], *hw)[0])


# -- how many points -------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(11))
def test_any_number_of_coordinates_is_an_answer(count: int) -> None:
    walk = [10, 10, 10, 50, 50, 50, 50, 10, 30, 5][:count]
    found = answer(padded(walk))
    assert found.mask.shape == (64, 64)
    if count < 6:
        assert not found.mask.any()
        assert found.polygons == ()
        assert found.score == 0
    else:
        assert found.mask.any()
        assert len(found.polygons[0]) == count // 2  # an x without its y is dropped
        assert found.score == pytest.approx(0.5)


def test_two_points_are_no_box() -> None:
    """The papers' code gives them to COCO's tools, which read x, y, width, height."""
    tokens = [100, 100, 200, 300]
    geometry = Geometry((640, 640), (640, 640), (1.0, 1.0))
    made = config(bins=640)
    found = answer([*tokens, *[640] * 6], geometry, made)
    assert not found.mask.any()
    assert found.polygons == ()
    trap = coco.frPyObjects(np.array([tokens], float), 640, 640)
    assert int(coco.area(trap)[0]) == 60_000


def test_the_first_end_cuts() -> None:
    whole = [10, 10, 10, 50, 50, 50]
    found = answer([*whole, BINS, 5, 60, 5])  # what stands behind it is not read
    np.testing.assert_array_equal(found.mask, answer(padded(whole)).mask)
    assert points_of(np.array([BINS, 1, 2, 3, 4, 5, 6, 7, 8, 9]), config(), PLAIN).shape == (0, 2)
    odd = answer([*whole, 20, BINS, 7, 7])
    np.testing.assert_array_equal(odd.polygons[0], answer(padded(whole)).polygons[0])


def test_points_on_one_line_enclose_nothing() -> None:
    for walk in ([5, 5, 20, 20, 40, 40], [5, 5] * 4, [3, 9, 3, 20, 3, 30]):
        assert not answer(padded(walk)).mask.any()


def test_of_both_tasks_the_contour_is_the_answer() -> None:
    outline = [10, 10, 10, 50, 50, 50, 50, 10]
    both = answer([1, 2, 3, 4, *padded(outline)], made=config("multi"))
    np.testing.assert_array_equal(both.mask, answer(padded(outline)).mask)
    nothing = answer([1, 2, 3, 4, *[BINS] * 10], made=config("multi"))
    assert not nothing.mask.any()
    assert nothing.polygons == ()


# -- boxes -----------------------------------------------------------------------------------


def test_corners_are_a_rectangle_in_any_order() -> None:
    expected = box_mask(np.array([10.5, 20.5, 30.5, 50.5]), (64, 64))
    masks = []
    for corners in ([10, 20, 30, 50], [30, 50, 10, 20], [30, 20, 10, 50], [10, 50, 30, 20]):
        found = answer(corners, made=config("rec"))
        assert len(found.polygons[0]) == 4
        assert found.polygons[0].min(axis=0).tolist() == [10.5, 20.5]
        assert found.polygons[0].max(axis=0).tolist() == [30.5, 50.5]
        masks.append(found.mask)
        np.testing.assert_array_equal(found.mask, masks[0])
    # COCO rounds half pixels its own way: one row and column at most.
    assert np.abs(masks[0].any(axis=0).sum() - expected.any(axis=0).sum()) <= 1
    assert np.abs(masks[0].any(axis=1).sum() - expected.any(axis=1).sum()) <= 1


def test_a_box_without_area_is_empty() -> None:
    for corners in ([10, 20, 10, 20], [10, 20, 40, 20], [10, 20, 10, 50]):
        assert not answer(corners, made=config("rec")).mask.any()


# -- back to px ------------------------------------------------------------------------------


def test_bins_are_centres_or_left_edges() -> None:
    tokens = np.array([0, 63, 32, 0, 63, 63])
    centre = points_of(tokens, config(), PLAIN)
    left = points_of(tokens, config(bin_centre=False), PLAIN)
    np.testing.assert_array_equal(centre, [[0.5, 63.5], [32.5, 0.5], [63.5, 63.5]])
    np.testing.assert_array_equal(left, centre - 0.5)


def test_points_come_back_through_the_letterbox() -> None:
    geometry = PreprocessConfig(size=64, fit="letterbox").geometry((100, 200))
    assert geometry.offset_xy == (0.0, 16.0)
    tokens = np.array([16, 32, 48, 20, 0, 0, 63, 63])
    found = points_of(tokens, config(), geometry)
    expected = [
        [16.5 / 0.32, 16.5 / 0.32],
        [48.5 / 0.32, 4.5 / 0.32],
        [0.5 / 0.32, 0],
        [63.5 / 0.32, 100],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@st.composite
def images_and_tokens(draw: Any) -> tuple[Geometry, str, list[int], int]:
    fit = draw(st.sampled_from(["square", "letterbox"]))
    hw = draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    net = draw(st.sampled_from([50, 64, 70, 128]))
    geometry = PreprocessConfig(size=net, fit=fit).geometry(hw)
    task = draw(st.sampled_from(sorted(TASKS)))
    bins = draw(st.sampled_from([10, 64, 1000]))
    count = {"rec": 4, "res": 10, "multi": 14}[task]
    never = 4 if task == "multi" else count if task == "rec" else 0
    tokens = [draw(st.integers(0, bins - 1 if place < never else bins)) for place in range(count)]
    return geometry, task, tokens, bins


@settings(max_examples=200)
@given(images_and_tokens())
def test_all_of_it_lies_in_the_image(drawn: tuple[Geometry, str, list[int], int]) -> None:
    """And the mask is COCO's of the polygon that is handed out, to a file and back."""
    geometry, task, tokens, bins = drawn
    found = answer(tokens, geometry, config(task, bins=bins))
    height, width = geometry.original_hw
    assert found.mask.shape == (height, width)
    assert 0 <= found.score <= 1
    for polygon in found.polygons:
        assert polygon.dtype == np.float32
        assert (polygon >= 0).all()
        assert (polygon <= [width, height]).all()
    if found.mask.any():
        [polygon] = found.polygons
        np.testing.assert_array_equal(found.mask, rasterised(polygon, (height, width)))
        told = json.loads(json.dumps([polygon.reshape(-1).tolist()]))
        again, parts = decode_segmentation(told, (height, width))
        assert parts == 1
        np.testing.assert_array_equal(found.mask, again)
    elif found.polygons:
        # Thin: COCO has no pixel either, or only those that it rounds onto a line.
        assert rasterised(found.polygons[0], (height, width)).sum() <= height + width


# -- scores and maps -------------------------------------------------------------------------


def test_the_score_is_the_geometric_mean_of_what_was_written() -> None:
    tokens = torch.tensor([padded([1, 2, 3, 4, 5, 6]), padded([]), padded([1] * 10)])
    chances = torch.linspace(0.05, 0.95, 30).reshape(3, 10)
    found = scores_of(Written(tokens, chances, torch.zeros(3, 4, 10, 7)), config())
    assert found[0] == pytest.approx(float(chances[0, :6].double().prod() ** (1 / 6)))
    assert found[1] == 0
    assert found[2] == pytest.approx(float(chances[2].double().prod() ** (1 / 10)))
    nothing = scores_of(Written(tokens, torch.zeros(3, 10), torch.zeros(3, 4, 10, 7)), config())
    assert np.isfinite(nothing).all()


def test_a_score_of_1_is_as_sure_as_the_loss_lets_one_be() -> None:
    """Mass that the targets give to neighbours is no doubt."""
    own = config()
    own = own.model_copy(update={"loss": LossConfig(spread=1.5, smoothing=0.1)})
    ids = own.sequence.bins + 1
    true = ids // 2
    target = 0.9 * neighbours(ids, 1.5)[true] + 0.1 / ids
    assert surest(own.loss, ids) == pytest.approx(float(target[true]))
    tokens = torch.tensor([padded([1, 2, 3, 4, 5, 6])])
    for chance, score in ((surest(own.loss, ids), 1.0), (surest(own.loss, ids) / 2, 0.5), (1, 1)):
        row = Written(tokens, torch.full((1, 10), float(chance)), torch.zeros(1, 4, 10, 7))
        assert scores_of(row, own)[0] == pytest.approx(score)


def test_the_map_is_where_it_looked_in_the_image() -> None:
    """Without the sentence's share, heads and points at the mean."""
    row = written([padded([1, 2, 3, 4, 5, 6])])
    row.attention[0, :, :, :6] = torch.arange(6.0)
    shown = predictions(row, config(), [PLAIN], GRID)[0].maps["attention"]
    np.testing.assert_array_equal(shown, np.arange(6, dtype=np.float32).reshape(2, 3))


# -- what decoding allows --------------------------------------------------------------------


def preferring_end(task: str, constrained: bool) -> Any:
    """A toy that would rather end, everywhere."""
    sequence = SequenceConfig(constrained=constrained)
    made = partial_res_config(**TASKS[task], sequence=sequence)
    name = {"rec": "partial_res rec", "res": "partial_res", "multi": "partial_res multi"}[task]
    method = toy_method(name).eval()
    method.config = method.decoder.config = made
    with torch.no_grad():
        method.decoder.predictor[-1].bias[sequence.bins] = 100.0
    return method


def tokens_of(method: Any) -> tuple[Tensor, list[Prediction]]:
    batch = toy_batch(toy_samples(2))
    with torch.no_grad():
        return method.coordinates(method(batch)).tokens, answers(method, batch)


def test_constrained_writing_ends_behind_whole_polygons() -> None:
    tokens, found = tokens_of(preferring_end("res", constrained=True))
    assert (tokens[:, :6] < 1000).all()
    assert (tokens[:, 6:] == 1000).all()
    for prediction in found:
        assert [len(outline) for outline in prediction.polygons] in ([3], [])
        assert bool(prediction.polygons) == bool(prediction.mask.any())
        assert 0 <= prediction.score <= 1


def test_the_papers_form_may_end_at_once() -> None:
    tokens, found = tokens_of(preferring_end("res", constrained=False))
    assert (tokens == 1000).all()
    for prediction in found:
        assert not prediction.mask.any()
        assert prediction.polygons == ()
        assert prediction.score == 0


@pytest.mark.parametrize("constrained", [True, False])
def test_a_box_never_ends_early(constrained: bool) -> None:
    tokens, found = tokens_of(preferring_end("rec", constrained))
    assert (tokens < 1000).all()
    assert all(len(prediction.polygons[0]) == 4 for prediction in found)
    both, _ = tokens_of(preferring_end("multi", constrained))
    assert (both[:, :4] < 1000).all()
    assert (both[:, 4:] == 1000).all(dim=1).all().item() is not constrained


def test_end_never_stands_for_a_y() -> None:
    """Wherever it is preferred: at y positions alone here, at x positions from the fourth on."""
    method = preferring_end("res", constrained=True)
    head, places = method.decoder.predictor, []

    def only_there(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        """END at every y, and at the x of the sixth point."""
        at = len(places)
        places.append(at)
        liked = 100.0 if at % 2 or at == 10 else -100.0
        changed = logits.clone()
        changed[:, 1000] = liked
        return changed

    hook = head.register_forward_hook(only_there)
    batch = toy_batch(toy_samples(2))
    with torch.no_grad():
        tokens = method.coordinates(method(batch)).tokens
    hook.remove()
    assert (tokens[:, :10] < 1000).all()
    assert (tokens[:, 10:] == 1000).all()
