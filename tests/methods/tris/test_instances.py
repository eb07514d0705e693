"""Instances: the fast form against a walk cell by cell, and fields that lead nowhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.methods.tris.instances import follow, instance_map


def at(field, y, x):
    """Bilinear between cell centres; (y, x) is inside of the map."""
    height, width = field.shape
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    below, beside = y - top, x - left
    above = field[top, left] * (1 - beside) + field[top, right] * beside
    under = field[bottom, left] * (1 - beside) + field[bottom, right] * beside
    return above * (1 - below) + under * below


def literal_follow(displacement, steps):
    _, height, width = displacement.shape
    ends = np.zeros(displacement.shape)
    for place in np.ndindex(height, width):
        y, x = map(float, place)
        for _ in range(steps):
            dy, dx = at(displacement[0], y, x), at(displacement[1], y, x)
            y, x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
        ends[0][place], ends[1][place] = y, x
    return ends


def literal_regions(weak):
    """Numbers of regions connected by sides, by flooding; 0 is not weak."""
    found = np.zeros(weak.shape, int)
    for start in np.ndindex(weak.shape):
        if not weak[start] or found[start]:
            continue
        number, reached = found.max() + 1, [start]
        while reached:
            y, x = reached.pop()
            inside = 0 <= y < weak.shape[0] and 0 <= x < weak.shape[1]
            if inside and weak[y, x] and not found[y, x]:
                found[y, x] = number
                reached += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return found


def literal_instances(displacement, steps, weak):
    regions = literal_regions(np.sqrt(displacement[0] ** 2 + displacement[1] ** 2) < weak)
    ends = literal_follow(displacement, steps)
    found = np.zeros(regions.shape, int)
    for place in np.ndindex(regions.shape):
        found[place] = regions[round(ends[0][place]), round(ends[1][place])]
    ranks = {number: rank for rank, number in enumerate(sorted(set(found.flat)))}
    return np.vectorize(ranks.__getitem__)(found)


def to_centres(hw, centres):
    """Each cell's displacement to the nearest of the centres (y, x)."""
    displacement = np.zeros((2, *hw), np.float32)
    for y, x in np.ndindex(hw):
        near = min(centres, key=lambda c: (c[0] - y) ** 2 + (c[1] - x) ** 2)
        displacement[:, y, x] = near[0] - y, near[1] - x
    return displacement


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10_000), st.sampled_from((0.5, 2, 6)))
def test_as_the_plain_walk(height, width, seed, size):
    displacement = np.random.default_rng(seed).normal(size=(2, height, width), scale=size)
    # Few steps: a field of noise is chaotic, and rounding would be all that is compared.
    expected = literal_follow(displacement, 6)
    np.testing.assert_allclose(follow(displacement, 6), expected, atol=1e-7)
    away = np.abs(expected - np.floor(expected) - 0.5).min()
    if away > 1e-6:
        found = instance_map(displacement, steps=6, weak=1.5)
        assert np.array_equal(found, literal_instances(displacement, 6, 1.5))


def test_centres_become_instances():
    displacement = to_centres((12, 30), [(5, 5), (6, 22)])
    found = instance_map(displacement)
    assert np.array_equal(found, literal_instances(displacement, 300, 2.5))
    nearer = displacement[1] + np.arange(30) > 15  # where each cell is sent
    assert set(np.unique(found)) == {0, 1}
    assert np.array_equal(found == found[6, 22], nearer)


def test_small_steps_lead_to_the_centre_in_time():
    displacement = 0.1 * to_centres((9, 9), [(4, 4)])
    np.testing.assert_allclose(follow(displacement), np.full((2, 9, 9), 4.0), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 50.0])
def test_nothing_weak_or_all_weak_is_one_instance(value):
    displacement = np.full((2, 6, 7), value, np.float32)
    assert np.array_equal(instance_map(displacement), np.zeros((6, 7), int))


def test_what_ends_in_no_weak_region_is_one_instance():
    displacement = np.zeros((2, 3, 8), np.float32)
    displacement[1, :, 0] = 3.0  # a strong column from which one gets to a weak one
    displacement[0, :, 7] = 100.0  # and one in which everyone is pushed to its end, and stays
    found = instance_map(displacement)
    assert np.array_equal(found[:, 7], np.zeros(3, int))
    assert np.array_equal(found[:, :7], np.ones((3, 7), int))


def test_weak_regions_touching_at_corners_are_two():
    displacement = np.full((2, 4, 4), 0.0)
    displacement[0, :2, 2:], displacement[0, 2:, :2] = -9.0, 9.0
    found = instance_map(displacement)
    assert found[0, 0] != found[3, 3]


def test_one_cell():
    assert instance_map(np.ones((2, 1, 1), np.float32)).tolist() == [[0]]


def test_bad_input_is_named():
    with pytest.raises(DataError, match="shape"):
        instance_map(np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match="finite"):
        instance_map(np.full((2, 4, 4), np.nan))
