"""Mean-field in a fully connected CRF: the exact sums over all pairs, and the lattice by loops."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from refseg.errors import ConfigError, DataError, ImageError, RefsegError, UnknownName
from refseg.ops.crf import (
    MASKS,
    RMI,
    SEEDS,
    CrfSettings,
    dense_crf,
    label_probability,
    lattice_mean_field,
    refine,
)
from refseg.ops.lattice import lattice_filter

HW = 40, 44
#: Weights that leave most pixels undecided, so that nothing hides where sigmoids are flat.
MILD = CrfSettings(2, 0.5, 20, 20, 0.8, iterations=5)
needs_extra = pytest.mark.skipif(find_spec("pydensecrf") is None, reason="needs the extra `crf`")
both = pytest.mark.parametrize(
    "solve", [pytest.param(dense_crf, marks=needs_extra), lattice_mean_field]
)


def exact(image, probability, settings):
    """Every pair of pixels: q <- sigmoid(u + sum_m c_m K_m (2 q - 1)) with K [N, N]."""

    def kernel(features):
        k = np.exp(-cdist(features, features, "sqeuclidean") / 2)
        return k / np.sqrt(k.sum(axis=0) * k.sum(axis=1, keepdims=True))

    xy = np.indices(probability.shape).reshape(2, -1).T
    rgb = image.reshape(-1, 3).astype(float)
    both = np.concatenate([xy / settings.bilateral_xy, rgb / settings.bilateral_rgb], axis=1)
    pairs = settings.gaussian_weight * kernel(xy / settings.gaussian_xy)
    pairs += settings.bilateral_weight * kernel(both)
    p = np.clip(probability.ravel().astype(float), 1e-5, 1 - 1e-5)
    q = p
    for _ in range(settings.iterations):
        q = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + pairs @ (2 * q - 1))))
    return q.reshape(probability.shape)


def filtered(points, values):
    """The lattice as its paper has it, a point at a time: corners are D + 1 coordinates, sum 0."""
    dims = points.shape[1]
    basis = np.zeros((dims, dims + 1))
    for i in range(dims):
        basis[i, : i + 1], basis[i, i + 1] = 1, -(i + 1)
        basis[i] /= np.sqrt((i + 1) * (i + 2))
    corners = []
    for point in (dims + 1) * np.sqrt(2 / 3) * points @ basis:
        # The nearest corner whose coordinates are multiples of D + 1.
        near = np.rint(point / (dims + 1)).astype(int)
        rank = np.argsort(np.argsort(-(point - near * (dims + 1)))) + near.sum()
        near[rank < 0], near[rank > dims] = near[rank < 0] + 1, near[rank > dims] - 1
        rank = rank % (dims + 1)
        offset = np.sort(point / (dims + 1) - near)[::-1]
        around = []
        for k in range(dims + 1):
            corner = near * (dims + 1) + np.where(rank <= dims - k, k, k - dims - 1)
            after = offset[dims - k + 1] if k else offset[0] - 1
            around.append((tuple(corner.tolist()), offset[dims - k] - after))
        corners.append(around)
    held = dict.fromkeys((c for around in corners for c, _ in around), 0.0)
    for around, value in zip(corners, values, strict=True):
        for corner, weight in around:
            held[corner] += weight * value
    for axis in range(dims + 1):
        step = np.ones(dims + 1, int)
        step[axis] -= dims + 1
        held = {
            c: v + sum(held.get(tuple((c + s * step).tolist()), 0) for s in (-1, 1)) / 2
            for c, v in held.items()
        }
    return np.array([sum(weight * held[c] for c, weight in around) for around in corners])


def scene(seed, hw=HW):
    """A patch of one colour on another, with shades and grain; a map of it, coarse and noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(hw)
    centre, radius = rng.uniform(0.35, 0.65, 2) * hw, min(hw) * rng.uniform(0.2, 0.35)
    waves = 1 + 0.25 * np.sin(3 * np.arctan2(y - centre[0], x - centre[1]) + rng.uniform(0, 6))
    truth = np.hypot(y - centre[0], x - centre[1]) < radius * waves
    there, elsewhere = rng.uniform(40, 110, 3), rng.uniform(140, 215, 3)
    shades = ndimage.gaussian_filter(rng.standard_normal((*hw, 3)), (hw[0] / 8, hw[1] / 8, 0))
    image = np.where(truth[..., None], there, elsewhere) + 10 * shades / shades.std()
    image = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    coarse = ndimage.gaussian_filter(truth.astype(float), min(hw) / 20)
    noise = ndimage.gaussian_filter(rng.standard_normal(hw), 2)
    return image, (coarse + 0.15 * noise / noise.std()).clip(0, 1).astype(np.float32), truth


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@cache
def exact_scene(seed, settings):
    return exact(*scene(seed)[:2], settings)


def alike(a, b, *, apart, agree):
    assert np.abs(a - b).mean() <= apart
    assert ((a > 0.5) == (b > 0.5)).mean() >= agree


class TestAgainstEveryPair:
    @both
    @pytest.mark.parametrize("settings", [SEEDS, MASKS, MILD], ids=["seeds", "masks", "mild"])
    @pytest.mark.parametrize("iterations", [1, 5])
    @pytest.mark.parametrize("mixed", [True, False])
    def test_as_the_exact_sums(self, solve, settings, iterations, mixed):
        weight = settings.gaussian_weight * mixed
        settings = replace(settings, iterations=iterations, gaussian_weight=weight)
        for seed in range(3):
            found = solve(*scene(seed)[:2], settings)
            assert found.dtype == np.float32
            alike(found, exact_scene(seed, settings), apart=1e-3, agree=0.999)

    @both
    def test_small_sigmas_are_coarser_on_a_lattice(self, solve):
        for seed in range(2):
            found = solve(*scene(seed)[:2], RMI)
            alike(found, exact_scene(seed, RMI), apart=4e-3, agree=0.997)

    def test_the_blur_is_the_exact_sum(self):
        image, probability, _ = scene(0)
        settings = replace(MASKS, bilateral_weight=0)
        found = lattice_mean_field(image, probability, settings)
        assert np.abs(found - exact(image, probability, settings)).max() < 2e-3

    @needs_extra
    @pytest.mark.parametrize("settings", [SEEDS, MASKS, replace(SEEDS, scale=0.5)])
    def test_both_ways_are_nearer_to_each_other(self, settings):
        for seed in range(3):
            image, probability, _ = scene(seed, (96, 128))
            one, other = (f(image, probability, settings) for f in (dense_crf, lattice_mean_field))
            alike(one, other, apart=5e-4, agree=0.9995)

    @both
    @pytest.mark.parametrize("hw", [(1, 1), (1, 2), (1, 60), (37, 1), (2, 3)])
    def test_lines_and_points(self, solve, hw):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*hw, 3), np.uint8)
        found = solve(image, rng.random(hw), MASKS)
        assert found.shape == hw
        assert np.isfinite(found).all()
        half = solve(image, rng.random(hw), replace(MASKS, scale=0.5))
        assert half.shape == hw
        assert np.isfinite(half).all()

    @both
    def test_one_pixel_is_the_formula(self, solve):
        """K = 1: a pixel agrees with itself."""
        image, probability = np.full((1, 1, 3), 90, np.uint8), np.array([[0.6]])
        expected = exact(image, probability, MASKS)
        assert solve(image, probability, MASKS) == pytest.approx(expected, abs=1e-5)


class TestLattice:
    @options(max_examples=30, deadline=None)
    @given(st.integers(1, 5), st.integers(1, 40), st.floats(0.2, 6), st.integers(0, 2**31))
    def test_as_the_paper_has_it_point_by_point(self, dims, count, spread, seed):
        rng = np.random.default_rng(seed)
        points, values = rng.normal(0, spread, (count, dims)), rng.normal(size=count)
        found = lattice_filter(points)(values.astype(np.float32))
        assert found.dtype == np.float32
        assert found == pytest.approx(filtered(points, values), rel=1e-4, abs=1e-4)

    def test_is_a_gaussian_but_for_a_factor(self):
        rng = np.random.default_rng(0)
        points, values = rng.uniform(0, 6, (1500, 2)), rng.random(1500)
        expected = np.exp(-cdist(points, points, "sqeuclidean") / 2) @ values
        ratio = lattice_filter(points)(values.astype(np.float32)) / expected
        assert ratio.std() / ratio.mean() < 0.05


class TestWhatItDoes:
    @both
    @pytest.mark.parametrize(("scale", "at_least"), [(1, 0.99), (0.5, 0.9)])
    def test_a_coarse_map_finds_the_outline(self, solve, scale, at_least):
        for seed in range(3):
            image, probability, truth = scene(seed, (96, 120))
            found = solve(image, probability, replace(MASKS, scale=scale)) > 0.5
            assert iou(found, truth) > max(at_least, iou(probability > 0.5, truth) + 0.05)

    @both
    def test_half_resolution_is_a_smaller_image_with_smaller_sigmas(self, solve):
        image, probability, _ = scene(3, (41, 50))
        small, coarse = (
            cv2.resize(plane, (25, 20), interpolation=cv2.INTER_AREA)
            for plane in (image, probability)
        )
        found = solve(small, coarse, replace(MILD, gaussian_xy=1, bilateral_xy=10))
        expected = cv2.resize(found, (50, 41), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(solve(image, probability, replace(MILD, scale=0.5)), expected)

    @both
    def test_half_resolution_is_near_to_full(self, solve):
        image, probability, _ = scene(3, (97, 121))
        full, half = (solve(image, probability, replace(MASKS, scale=s)) for s in (1, 0.5))
        assert half.shape == full.shape
        alike(full, half, apart=0.02, agree=0.985)

    @both
    @pytest.mark.parametrize("scale", [1.0, 0.5])
    def test_mirrored_alike(self, solve, scale):
        """A lattice is not quite the same from the other side."""
        image, probability, _ = scene(4)
        settings = replace(MASKS, scale=scale)
        found = solve(image, probability, settings)
        for mirror in (np.fliplr, np.flipud):
            mirrored = mirror(solve(mirror(image), mirror(probability), settings))
            alike(found, mirrored, apart=1e-2, agree=0.99)

    @both
    def test_neither_label_is_preferred(self, solve):
        image, probability, _ = scene(5)
        other = 1 - solve(image, 1 - probability, MASKS)
        assert np.abs(solve(image, probability, MASKS) - other).max() < 1e-3

    @both
    def test_an_image_without_edges_only_smooths(self, solve):
        """Without colours the second kernel is a Gaussian of place, whatever the colour."""
        _, probability, _ = scene(6)
        grey, blue = np.full((*HW, 3), 128, np.uint8), np.full((*HW, 3), (20, 40, 220), np.uint8)
        settings = CrfSettings(1, 0, 3, 13, 2, iterations=5)
        expected = exact(grey, probability, replace(settings, bilateral_rgb=1e6))
        for image in (grey, blue):
            found = solve(image, probability, settings)
            alike(found, expected, apart=1e-2, agree=0.99)

    @both
    def test_without_weights_or_iterations_the_map_stays(self, solve):
        image, probability, _ = scene(7)
        free = replace(MASKS, gaussian_weight=0, bilateral_weight=0)
        for settings in (free, replace(MASKS, iterations=0)):
            assert np.abs(solve(image, probability, settings) - probability).max() < 2e-5

    @both
    @pytest.mark.parametrize("value", [0, 1])
    def test_what_all_pixels_agree_on_stays(self, solve, value):
        image, _, _ = scene(8)
        for flat in (np.full(HW, value, float), np.full(HW, value, bool)):
            assert np.abs(solve(image, flat, MASKS) - value).max() < 2e-5

    @both
    def test_nothing_known_stays_unknown(self, solve):
        image, _, _ = scene(8)
        assert (solve(image, np.full(HW, 0.5), MASKS) == 0.5).all()

    @both
    def test_one_sure_pixel_can_be_overruled(self, solve):
        image, probability = np.full((*HW, 3), 90, np.uint8), np.zeros(HW)
        probability[20, 20] = 1
        assert solve(image, probability, MASKS).max() < 0.5

    @both
    def test_several_maps_are_each_of_them(self, solve):
        image, probability, _ = scene(9)
        maps = np.stack([probability, 1 - probability, probability**2])[:, None]
        for settings in (MASKS, replace(MASKS, scale=0.5)):
            found = solve(image, maps, settings)
            alone = [[solve(image, one, settings) for one in group] for group in maps]
            assert np.array_equal(found, alone)
            assert solve(image, maps[:0], settings).shape == (0, 1, *HW)

    @both
    def test_input_is_left_alone_and_may_be_read_only(self, solve):
        image, probability, _ = scene(10)
        before = image.copy(), probability.copy()
        image.flags.writeable = probability.flags.writeable = False
        solve(image, probability, MASKS)
        solve(image[::-1, ::2], probability[::-1, ::2], replace(MASKS, scale=0.5))
        assert np.array_equal(before[0], image)
        assert np.array_equal(before[1], probability)


class TestLabels:
    def test_certainty_of_hard_labels(self):
        expected = np.array([[0.3, 0.7]], np.float32)
        for labels in (np.array([[False, True]]), np.array([[0, 1]], np.uint8)):
            assert np.array_equal(label_probability(labels), expected)
            assert label_probability(labels).dtype == np.float32
        assert label_probability(np.ones((1, 2, 3)), 0.9) == pytest.approx(0.9)

    def test_other_labels_and_certainties_are_refused(self):
        with pytest.raises(DataError, match="other than 0 and 1"):
            label_probability(np.array([0, 1, 255]))
        for certainty in (0.5, 1, float("nan")):
            with pytest.raises(ConfigError, match="certainty"):
                label_probability(np.array([True]), certainty)


class TestRefine:
    def test_the_way_is_named(self, monkeypatch):
        image, probability, _ = scene(11)
        lattice = lattice_mean_field(image, probability, MASKS)
        assert np.array_equal(refine(image, probability, "lattice", MASKS), lattice)
        assert np.array_equal(refine(image, probability, "none", MASKS), probability)
        assert refine(image, probability.astype(float), "none", MASKS).dtype == np.float32
        with pytest.raises(UnknownName, match="lattice"):
            refine(image, probability, "latice", MASKS)
        with pytest.raises(DataError):
            refine(image, probability[1:], "none", MASKS)

    @needs_extra
    def test_pydensecrf2_is_one_of_them(self):
        image, probability, _ = scene(11)
        expected = dense_crf(image, probability, MASKS)
        assert np.array_equal(refine(image, probability, "pydensecrf2", MASKS), expected)

    def test_without_the_extra_it_says_what_to_do_and_does_nothing_else(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pydensecrf", None)
        image, probability, _ = scene(11)
        for call in (
            lambda: dense_crf(image, probability, MASKS),
            lambda: refine(image, probability, "pydensecrf2", MASKS),
        ):
            with pytest.raises(RefsegError, match=r"refseg\[crf\].*C\+\+ compiler.*`lattice`"):
                call()
        refine(image, probability, "lattice", MASKS)


class TestRefused:
    @both
    def test_what_is_no_image(self, solve):
        for image in (
            np.zeros(HW, np.uint8),
            np.zeros((*HW, 4), np.uint8),
            np.zeros((*HW, 3), np.float32),
            np.zeros((0, 44, 3), np.uint8),
        ):
            with pytest.raises(ImageError, match="RGB"):
                solve(image, np.zeros(image.shape[:2]), MASKS)

    @both
    def test_what_is_no_map_of_it(self, solve):
        image = np.zeros((*HW, 3), np.uint8)
        for shape in (HW[::-1], (*HW, 1), (44,), ()):
            with pytest.raises(DataError, match="for an image of"):
                solve(image, np.zeros(shape), MASKS)

    @both
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, 255])
    def test_what_is_no_probability(self, solve, value):
        probability = np.full(HW, 0.5)
        probability[3, 4] = value
        with pytest.raises(DataError, match=r"0\.\.1"):
            solve(np.zeros((*HW, 3), np.uint8), probability, MASKS)

    @both
    def test_rounding_is_no_offence(self, solve):
        probability = np.full(HW, 1 + 1e-6)
        assert solve(np.zeros((*HW, 3), np.uint8), probability, MASKS).max() <= 1

    @both
    def test_sigmas_too_small_for_the_lattice(self, solve):
        image, probability = np.zeros((1, 6000, 3), np.uint8), np.zeros((1, 6000))
        for name, scale in product(("gaussian_xy", "bilateral_xy"), (1, 0.5)):
            with pytest.raises(ConfigError, match=r"6000 x 1|3000 x 1"):
                solve(image, probability, replace(MASKS, **{name: 1}, scale=scale))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("gaussian_xy", 0), ("bilateral_xy", -1), ("bilateral_rgb", 0.4),
            ("gaussian_weight", -1), ("bilateral_weight", float("nan")), ("iterations", 5.0),
            ("iterations", float("nan")),
            ("iterations", -1), ("scale", 0), ("scale", 1.5), ("bilateral_xy", float("inf")),
        ],
    )  # fmt: skip
    def test_settings_that_mean_nothing(self, name, value):
        with pytest.raises(ConfigError, match=name):
            replace(MASKS, **{name: value})
