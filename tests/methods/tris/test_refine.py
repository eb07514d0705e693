"""Refinement: the steps one by one as a twin, walls, empty maps, odd and tiny sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.methods.tris.instances import instance_map
from refseg.methods.tris.refine import RefineSettings, refine
from refseg.ops.random_walk import walk
from tests.methods.tris.test_instances import literal_regions

FEW = RefineSettings(steps=8)


def cells_of(hw):
    return -(-hw[0] // 4), -(-hw[1] // 4)


def still(hw):
    """Displacements that make everything one instance."""
    return np.zeros((2, *cells_of(hw)), np.float32)


def no_edge(hw):
    return np.zeros(cells_of(hw), np.float32)


def resized(maps, **how):
    return F.interpolate(torch.from_numpy(maps)[None], **how, mode="bilinear")[0].numpy()


def literal(response, edge, displacement, settings, hw):
    """One ref, in the released order: mask [H, W], (mask, score) of each component."""
    small = resized(response[None], size=edge.shape, align_corners=True)[0]
    instances = instance_map(displacement) if settings.split else np.zeros(edge.shape, int)
    split = np.stack([small * (instances == n) for n in range(instances.max() + 1)])
    walked = walk(split, edge, radius=settings.radius, beta=settings.beta, steps=settings.steps)
    large = resized(walked, scale_factor=4, align_corners=False)[:, : hw[0], : hw[1]]
    if large.max() == 0:  # the released code divides by it and fails
        return np.zeros(hw, bool), []
    large = large / large.max()
    winners = np.concatenate([np.full((1, *hw), settings.background), large]).argmax(axis=0)
    components = []
    for n in range(len(large)):
        regions = literal_regions(winners == n + 1)
        for number in range(1, regions.max() + 1):
            mask = regions == number
            highest = max(large[n][place] for place in zip(*np.nonzero(mask), strict=True))
            score = 0.0 if mask.sum() < settings.fragments * hw[0] * hw[1] else highest
            components.append((mask, score))
    union = np.zeros(hw, bool)
    for mask, _ in components:
        union |= mask
    return union, components


def some(hw, seed, count=1):
    """Maps, edges and a field with a few instances."""
    generator = np.random.default_rng(seed)
    cells = cells_of(hw)
    maps = generator.random((count, *hw), np.float32) * (generator.random((count, *hw)) < 0.5)
    edge = generator.random(cells, np.float32) ** 4
    coarse = generator.normal(size=(1, 2, 3, 3), scale=4)
    field = F.interpolate(torch.from_numpy(coarse), size=cells, mode="bicubic")[0]
    return maps.astype(np.float32), edge, field.numpy().astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(5, 50), st.integers(5, 50), st.integers(0, 10_000), st.booleans(), st.integers(0, 9)
)
def test_as_the_literal_steps(height, width, seed, split, steps):
    hw = (height, width)
    maps, edge, field = some(hw, seed, count=2)
    config = RefineSettings(split=split, steps=steps)
    for response, found in zip(maps, refine(maps, edge, field, config, hw), strict=True):
        mask, components = literal(response, edge, field, config, hw)
        # OpenCV and torch interpolate with other roundings: a tie at the threshold may differ.
        assert (found.mask != mask).sum() <= 1
        if np.array_equal(found.mask, mask) and len(components) == len(found.components):
            for own, (other, score) in zip(found.components, components, strict=True):
                assert np.array_equal(own.mask, other)
                assert own.score == pytest.approx(score, abs=1e-5)


def test_literal_is_met_with_several_instances_and_fragments():
    hw = (47, 61)
    maps, edge, field = some(hw, 26)
    (found,) = refine(maps, edge, field, FEW, hw)
    mask, components = literal(maps[0], edge, field, FEW, hw)
    assert instance_map(field).max() >= 2
    assert np.array_equal(found.mask, mask)
    assert [c.score for c in found.components] == pytest.approx(
        [s for _, s in components], abs=1e-5
    )
    assert all(
        np.array_equal(a.mask, b) for a, (b, _) in zip(found.components, components, strict=True)
    )
    assert found.score == pytest.approx(max(score for _, score in components), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_mask_is_the_union_of_disjoint_components(height, width, seed):
    hw = (height, width)
    maps, edge, field = some(hw, seed)
    (found,) = refine(maps, edge, field, FEW, hw)
    assert found.mask.shape == hw
    assert found.mask.dtype == bool
    counts = sum((c.mask.astype(int) for c in found.components), np.zeros(hw, int))
    assert counts.max(initial=0) <= 1
    assert np.array_equal(counts > 0, found.mask)


def test_other_refs_change_nothing():
    hw = (30, 41)
    maps, edge, field = some(hw, 5, count=3)
    together = refine(maps, edge, field, FEW, hw)
    for row, found in enumerate(together):
        (alone,) = refine(maps[row : row + 1], edge, field, FEW, hw)
        assert np.array_equal(found.mask, alone.mask)
        assert found.score == alone.score
    assert refine(maps[:0], edge, field, FEW, hw) == []


def test_scale_of_a_map_means_nothing():
    hw = (24, 24)
    maps, edge, field = some(hw, 8)
    (one,), (other,) = (refine(k * maps, edge, field, FEW, hw) for k in (1, 8))
    assert np.array_equal(one.mask, other.mask)


def wall_of_edges():
    """40 x 80 px, parted down the middle, and a map that is strong on the left alone."""
    hw = (40, 80)
    edge = no_edge(hw)
    edge[:, 10] = 1
    response = np.zeros((1, *hw), np.float32)
    response[:, 12:20, 8:16] = 1
    return hw, edge, response


@pytest.mark.parametrize("split", [True, False])
def test_a_wall_stops_the_walk_and_fills_one_side(split):
    hw, edge, response = wall_of_edges()
    config = RefineSettings(split=split)
    (found,) = refine(response, edge, still(hw), config, hw)
    assert found.mask[:, :40].all()
    assert not found.mask[:, 44:].any()
    (open_,) = refine(response, no_edge(hw), still(hw), config, hw)
    assert open_.mask[:, 44:].any()


def test_instances_compete_where_the_whole_would_not():
    # Two halves of unlike strength: alone the weaker is above the threshold nowhere.
    hw = (40, 80)
    response = np.zeros((1, *hw), np.float32)
    response[:, :, :40], response[:, :, 40:] = 1.0, 0.2
    halves = still(hw)
    halves[1] = np.where(np.arange(20) < 10, 5, 15) - np.arange(20)
    kept = RefineSettings(steps=0, background=0.1)
    (found,) = refine(response, no_edge(hw), halves, kept, hw)
    (whole,) = refine(response, no_edge(hw), halves, kept.model_copy(update={"split": False}), hw)
    assert len(found.components) == 2
    assert len(whole.components) == 1
    assert np.array_equal(found.mask, whole.mask)
    (strict,) = refine(response, no_edge(hw), halves, RefineSettings(steps=0), hw)
    assert not strict.mask[:, 48:].any()


def test_fragments_score_nothing_but_stay():
    hw = (80, 80)
    response = np.zeros((1, *hw), np.float32)
    response[0, 10:40, 10:40] = 0.8
    response[0, 66:76, 66:76] = 1.0
    config = RefineSettings(steps=0, fragments=0.05)  # of 320 px
    (found,) = refine(response, no_edge(hw), still(hw), config, hw)
    scores = sorted(c.score for c in found.components)
    assert len(scores) == 2
    assert scores[0] == 0
    assert 0 < scores[1] < 1  # the highest value lies in the fragment
    assert found.score == scores[1]
    assert found.mask[70, 70]
    (kept,) = refine(
        response, no_edge(hw), still(hw), config.model_copy(update={"fragments": 0}), hw
    )
    assert kept.score == 1


@pytest.mark.parametrize("split", [True, False])
def test_nothing_to_spread_is_an_empty_mask(split):
    hw = (20, 30)
    config = RefineSettings(split=split)
    zeros = np.zeros((1, *hw), np.float32)
    walled = np.ones(cells_of(hw), np.float32)
    for response, edge in ((zeros, no_edge(hw)), (zeros + 1, walled)):
        (found,) = refine(response, edge, still(hw), config, hw)
        assert found.mask.shape == hw
        assert not found.mask.any()
        assert (found.score, found.components) == (0.0, ())


def test_an_empty_map_beside_a_full_one():
    hw = (20, 30)
    maps = np.zeros((3, *hw), np.float32)
    maps[1] = 1
    first, second, third = refine(maps, no_edge(hw), still(hw), FEW, hw)
    assert not first.mask.any()
    assert second.mask.all()
    assert not third.mask.any()


def test_background_nobody_exceeds():
    hw = (16, 16)
    (found,) = refine(
        np.ones((1, *hw), np.float32), no_edge(hw), still(hw), RefineSettings(background=1), hw
    )
    assert not found.mask.any()
    assert (found.score, found.components) == (0.0, ())


@pytest.mark.parametrize("hw", [(1, 1), (2, 3), (1, 9), (5, 4), (7, 13)])
def test_tiny_and_odd_sizes(hw):
    (found,) = refine(np.ones((1, 6, 6)), no_edge(hw), still(hw), FEW, hw)
    assert found.mask.shape == hw
    assert found.mask.all()
    assert found.score == pytest.approx(1)


def test_bad_input_is_named():
    hw = (16, 16)
    maps = np.ones((1, *hw), np.float32)
    with pytest.raises(DataError, match="for an image of"):
        refine(maps, np.zeros((5, 4), np.float32), still(hw), FEW, hw)
    with pytest.raises(DataError, match="shape"):
        refine(maps[0], no_edge(hw), still(hw), FEW, hw)
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(DataError, match="response maps from"):
            refine(maps * bad, no_edge(hw), still(hw), FEW, hw)
