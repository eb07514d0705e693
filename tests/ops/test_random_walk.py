"""The random walk: neighbours and lines by their definition, a dense matrix squared, and laws."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from refseg.errors import ConfigError, DataError
from refseg.ops.random_walk import affinity, line, offsets, transition, walk

TINY = [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 2), (3, 5), (6, 3), (12, 2)]


def edges_of(seed, hw, dtype=np.float64):
    """Random edges; some of them are exactly 0 or exactly 1."""
    rng = np.random.default_rng(seed)
    edge = rng.random(hw) ** 2
    edge[rng.random(hw) < 0.1] = 0
    edge[rng.random(hw) < 0.1] = 1
    return edge.astype(dtype)


@st.composite
def pictures(draw, high=9):
    """Edges [h, w], as many maps as may be, and a radius that may be larger than both sides."""
    hw = draw(st.integers(1, high)), draw(st.integers(1, high))
    seed = draw(st.integers(0, 2**31))
    maps = np.random.default_rng(seed + 1).random((draw(st.integers(1, 3)), *hw))
    return maps, edges_of(seed, hw), draw(st.integers(1, 7))


# -- twins -----------------------------------------------------------------------------------


def affinity_by_loop(edge, radius):
    """Every pair of cells, and every cell between."""
    height, width = edge.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    found = np.eye(len(cells))
    for i, (a, b) in enumerate(cells):
        for j, (c, d) in enumerate(cells):
            length = (c - a) ** 2 + (d - b) ** 2
            if not 0 < length < radius**2:
                continue
            highest = 0.0
            for y, x in cells:
                inside = min(a, c) <= y <= max(a, c) and min(b, d) <= x <= max(b, d)
                across = (c - a) * (x - b) - (d - b) * (y - a)
                if inside and Fraction(across**2, length) < 1:
                    highest = max(highest, edge[y, x])
            found[i, j] = 1 - highest
    return found


def dense_walk(maps, edge, free, beta=10, squarings=8):
    """The official form: a matrix of all pairs, squared again and again."""
    chances = free**beta
    chances = chances / chances.sum(axis=0, keepdims=True)
    for _ in range(squarings):
        chances = chances @ chances
    return ((maps * (1 - edge)).reshape(-1, edge.size) @ chances).reshape(maps.shape)


# -- neighbours and lines ----------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "count"), [(1, 0), (2, 4), (5, 34), (10, 152)])
def test_as_many_neighbours_as_the_paper_has(radius, count):
    found = offsets(radius)
    assert found.shape == (count, 2)
    assert found.dtype == np.int64


@pytest.mark.parametrize("radius", range(1, 12))
def test_neighbours_and_their_opposites_are_the_open_circle(radius):
    half = [tuple(offset) for offset in offsets(radius).tolist()]
    both = {*half, *((-dy, -dx) for dy, dx in half)}
    around = range(-radius, radius + 1)
    circle = {(y, x) for y in around for x in around if 0 < y * y + x * x < radius**2}
    assert half == sorted(half)
    assert len(both) == 2 * len(half)
    assert both == circle


def test_lines_by_hand():
    """From upper left to lower right; a cell at a distance of exactly 1 is not of the line."""
    drawn = {
        (0, 3): ["####"],
        (2, 0): ["#", "#", "#"],
        (1, 1): ["##", "##"],
        (1, 3): ["####", "####"],
        (2, 2): ["##.", "###", ".##"],
        (3, 4): ["##...", "###..", "..###", "...##"],
    }
    for (dy, dx), rows in drawn.items():
        cells = {(y, x) for y, row in enumerate(rows) for x, c in enumerate(row) if c == "#"}
        assert {tuple(cell) for cell in line(dy, dx).tolist()} == cells
        assert {tuple(cell) for cell in line(dy, -dx).tolist()} == {(y, -x) for y, x in cells}


def test_lines_hang_together_by_sides_and_are_the_same_from_both_ends():
    """Why no wall is slipped through."""
    for dy, dx in offsets(12).tolist():
        cells = line(dy, dx)
        canvas = np.zeros((12, 23), bool)
        canvas[cells[:, 0], cells[:, 1] + 11] = True
        assert ndimage.label(canvas)[1] == 1
        assert canvas[0, 11]
        assert canvas[dy, 11 + dx]
        assert sorted(line(-dy, -dx).tolist()) == sorted((cells - [dy, dx]).tolist())


# -- affinity and transition -------------------------------------------------------------------


@settings(max_examples=15)
@given(pictures(high=6))
def test_affinity_is_its_definition(picture):
    _, edge, radius = picture
    found = affinity(edge, radius).toarray()
    assert np.array_equal(found, affinity_by_loop(edge, radius))
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("hw", TINY)
def test_affinity_of_images_smaller_than_the_radius(hw):
    edge = edges_of(5, hw)
    assert np.array_equal(affinity(edge, 5).toarray(), affinity_by_loop(edge, 5))


def test_as_many_neighbours_a_row_as_the_paper_has():
    found = affinity(np.full((13, 15), 0.5), 5).tocsr()
    counts = np.diff(found.indptr).reshape(13, 15)
    assert (counts[4:-4, 4:-4] == 69).all()
    assert counts[0, 0] == 22  # a quarter of the circle with two of its four arms, and itself
    assert counts.max() == 69


@settings(max_examples=50)
@given(pictures(), st.sampled_from([0.5, 1, 10]))
def test_columns_sum_to_one(picture, beta):
    _, edge, radius = picture
    chances = transition(affinity(edge, radius), beta)
    assert np.allclose(chances.sum(axis=0), 1, rtol=0, atol=1e-12)
    assert chances.toarray().min() >= 0


def test_edges_of_one_everywhere_leave_every_cell_alone():
    found = affinity(np.ones((6, 7)), 5)
    assert np.array_equal(found.toarray(), np.eye(42))
    assert np.array_equal(transition(found).toarray(), np.eye(42))
    assert not walk(np.ones((6, 7)), np.ones((6, 7))).any()


# -- the walk ----------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([(12, 14), (5, 17), (14, 3)]), st.integers(2, 6))
def test_256_steps_are_eight_squarings(seed, hw, radius):
    maps, edge = np.random.default_rng(seed).random((2, *hw)), edges_of(seed, hw)
    expected = dense_walk(maps, edge, affinity(edge, radius).toarray())
    assert np.abs(walk(maps, edge, radius=radius) - expected).max() < 1e-9


def test_256_steps_are_eight_squarings_of_the_definition():
    maps, edge = np.random.default_rng(3).random((2, 7, 8)), edges_of(3, (7, 8))
    expected = dense_walk(maps, edge, affinity_by_loop(edge, 5))
    assert np.abs(walk(maps, edge) - expected).max() < 1e-9


@pytest.mark.parametrize("squarings", range(6))
def test_other_powers_and_other_betas(squarings):
    maps, edge = np.random.default_rng(4).random((2, 8, 9)), edges_of(4, (8, 9))
    expected = dense_walk(maps, edge, affinity(edge, 4).toarray(), 2.5, squarings)
    found = walk(maps, edge, radius=4, beta=2.5, steps=2**squarings)
    assert np.abs(found - expected).max() < 1e-12


@settings(max_examples=50)
@given(pictures())
def test_no_steps_and_no_neighbours_give_what_is_walked(picture):
    maps, edge, radius = picture
    weighted = (1 - edge) * maps
    assert np.array_equal(walk(maps, edge, radius=radius, steps=0), weighted)
    assert np.array_equal(walk(maps, edge, radius=1, steps=9), weighted)


@settings(max_examples=50)
@given(pictures(), st.integers(0, 40))
def test_stays_between_the_lowest_and_the_highest(picture, steps):
    maps, edge, radius = picture
    weighted = (1 - edge) * maps
    for row, found in zip(weighted, walk(maps, edge, radius=radius, steps=steps), strict=True):
        assert row.min() - 1e-12 <= found.min()
        assert found.max() <= row.max() + 1e-12


@pytest.mark.parametrize("hw", [(13, 11), *TINY])
def test_a_constant_map_stays_where_there_is_no_edge(hw):
    for dtype, slack in ((np.float64, 1e-12), (np.float32, 1e-4)):
        found = walk(np.full(hw, 0.7, dtype), np.zeros(hw, dtype))
        np.testing.assert_allclose(found, 0.7, rtol=slack)


@settings(max_examples=50)
@given(pictures(), st.integers(0, 2**31))
def test_what_lies_at_an_edge_of_one_gives_and_gets_nothing(picture, seed):
    maps, edge, radius = picture
    other = np.where(edge == 1, np.random.default_rng(seed).random(maps.shape), maps)
    found = walk(maps, edge, radius=radius, steps=20)
    assert np.array_equal(found, walk(other, edge, radius=radius, steps=20))
    assert not found[:, edge == 1].any()


@settings(max_examples=30)
@given(st.lists(st.integers(-1, 1), min_size=11, max_size=11), st.integers(2, 9), st.data())
def test_nothing_crosses_a_wall_of_one_cell(turns, start, data):
    """From border to border, a cell a row; where it moves aside its cells touch at corners only."""
    at = np.clip(start + np.cumsum([0, *turns]), 1, 10)[:, None]
    columns = np.arange(12)
    edge, map_ = (columns == at) * 1.0, (columns < at) * 1.0
    if data.draw(st.booleans()):
        edge, map_ = edge.T, map_.T
    found = walk(map_, edge, radius=data.draw(st.integers(2, 9)))
    assert not found[map_ == 0].any()
    np.testing.assert_allclose(found[map_ == 1], 1)


def test_nothing_leaves_a_closed_ring_and_little_leaves_one_of_almost_one():
    """Four slanted walls whose cells touch at corners only."""
    y, x = np.abs(np.mgrid[-8:9, -8:9])
    edge, map_ = (y + x == 5) * 1.0, (y + x < 5) * 1.0
    assert not walk(map_, edge)[y + x >= 5].any()
    assert walk(map_, edge * 0.9)[y + x > 5].max() < 1e-6
    edge[3, 8] = 0  # a corner of the ring
    assert (walk(map_, edge)[y + x > 5] > 0).all()


def test_maps_together_are_maps_one_by_one():
    maps, edge = np.random.default_rng(6).random((2, 3, 9, 8)), edges_of(6, (9, 8))
    before = maps.copy(), edge.copy()
    together = walk(maps, edge)
    assert together.shape == maps.shape
    for n in np.ndindex(2, 3):
        assert np.array_equal(together[n], walk(maps[n], edge))
    turned = np.asfortranarray(maps)  # how they lie in memory is no matter
    assert np.array_equal(walk(turned, edge), together)
    assert walk(maps[:, :0], edge).shape == (2, 0, 9, 8)
    assert np.array_equal(maps, before[0])
    assert np.array_equal(edge, before[1])


def test_columns_of_float32_sum_to_one_by_one_rounding():
    chances = transition(affinity(edges_of(8, (30, 30), np.float32), 5))
    assert chances.dtype == np.float32
    assert np.abs(chances.data.astype(np.float64).sum(axis=0) - 1).max() < 1e-7


def test_float32_is_near_float64_and_stays():
    maps, edge = np.random.default_rng(7).random((2, 20, 24)), edges_of(7, (20, 24))
    exact = walk(maps, edge)
    found = walk(maps.astype(np.float32), edge.astype(np.float32))
    assert found.dtype == np.float32
    assert exact.dtype == np.float64
    assert affinity(edge.astype(np.float32), 5).dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    for types in ((np.float32, np.float64), (np.float64, np.float32)):
        mixed = walk(maps.astype(types[0]), edge.astype(types[1]))
        assert mixed.dtype == np.float64
        np.testing.assert_allclose(mixed, exact, rtol=1e-5)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        (np.zeros((0, 3)), "shape"),
        (np.zeros((1, 3, 3)), "shape"),
        (np.zeros((3, 3), np.uint8), "uint8"),
        (np.zeros((3, 3), np.float16), "float16"),
        (np.full((3, 3), np.nan), "nan"),
        (np.full((3, 3), 1.5), "1.5"),
        (np.full((3, 3), -0.5), "-0.5"),
    ],
)
def test_edges_that_are_none(edge, why):
    for use in (affinity, lambda edge: walk(np.zeros((3, 3)), edge)):
        with pytest.raises(DataError, match=why):
            use(edge)


@pytest.mark.parametrize(
    ("maps", "why"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((3, 4)), "shape"),
        (np.zeros((3, 3), bool), "bool"),
        (np.full((2, 3, 3), np.nan), "nan"),
        (np.full((3, 3), np.inf), "inf"),
        (np.full((3, 3), -0.5), "-0.5"),
    ],
)
def test_maps_that_are_none(maps, why):
    with pytest.raises(DataError, match=why):
        walk(maps, np.zeros((3, 3)))


@pytest.mark.parametrize("setting", [{"radius": 0}, {"beta": 0}, {"beta": np.nan}, {"steps": -1}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        walk(np.zeros((3, 3)), np.zeros((3, 3)), **setting)
