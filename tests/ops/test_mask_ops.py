from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from refseg.errors import DataError
from refseg.ops import masks as masks_module
from refseg.ops.images import letterbox, resize_square
from refseg.ops.masks import (
    decode_segmentation,
    mask_in_net,
    mask_to_box,
    polygons_to_mask,
    resize_mask,
    resize_response,
    response_at,
    response_in_px,
    response_to_mask,
    rle_decode,
    rle_encode,
    stretched,
)
from refseg.ops.rle import rle_counts
from refseg.types import Geometry

# pycocotools 2.0 has not caught up with NumPy's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@st.composite
def masks(draw, largest=24):
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.random((height, width)) < draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))


class TestRle:
    @given(masks())
    def test_every_form_of_counts_returns_the_mask(self, mask):
        rle = rle_encode(mask)
        assert rle["size"] == list(mask.shape)
        runs = [0] if mask[0, 0] else []
        flat = mask.reshape(-1, order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs += np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        for counts in (rle["counts"], rle["counts"].encode(), runs):
            decoded = rle_decode({"size": rle["size"], "counts": counts})
            assert decoded.flags.c_contiguous
            assert np.array_equal(decoded, mask)

    @given(masks(largest=200))
    @settings(max_examples=20)
    def test_agrees_with_pycocotools(self, mask):
        rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert np.array_equal(rle_decode(rle), coco.decode(rle).astype(bool))
        ours = rle_encode(mask)
        assert ours["counts"].encode() == rle["counts"]

    def test_no_pixels(self):
        assert rle_decode({"size": [0, 3], "counts": []}).shape == (0, 3)

    def test_long_runs(self):
        mask = np.zeros((3000, 3000), bool)
        mask[2999, 2999] = True
        assert np.array_equal(rle_decode(rle_encode(mask)), mask)

    @pytest.mark.parametrize(
        "rle",
        [
            {"size": [4, 4]},
            {"counts": "0"},
            {"size": 4, "counts": "0"},
            {"size": [4, 4], "counts": [3, 4]},
            {"size": [4, 4], "counts": [20, -4]},
            {"size": [4, 4], "counts": ["a", "b"]},
            {"size": [4, 4], "counts": ""},
            {"size": [4, 4], "counts": "\x10"},
            {"size": [4, 4], "counts": "é"},
            {"size": [4, 4], "counts": "o" * 9 + "0"},
            {"size": [-4, -4], "counts": [16]},
            "not a dict",
        ],
    )
    def test_damaged_codes_are_refused(self, rle):
        with pytest.raises(DataError):
            rle_decode(rle)

    def test_a_string_cut_in_the_middle_of_a_number_is_refused(self):
        mask = np.zeros((100, 100), bool)
        mask[50:, 50:] = True
        counts = rle_encode(mask)["counts"]
        for length in range(len(counts)):
            with pytest.raises(DataError, match=r"damaged|sum to"):
                rle_decode({"size": [100, 100], "counts": counts[:length]})


class TestStoredPairs:
    @given(st.integers(0, 2**31), st.integers(0, 5))
    def test_counts_equal_those_of_the_decoded_masks(self, seed, count):
        rng = np.random.default_rng(seed)
        pairs = [rng.random((2, *rng.integers(1, 20, 2))) < rng.random() for _ in range(count)]
        codes = [[rle_encode(mask) for mask in pair] for pair in pairs]
        intersection, union = rle_counts([c[0] for c in codes], [c[1] for c in codes])
        assert intersection.tolist() == [np.logical_and(*pair).sum() for pair in pairs]
        assert union.tolist() == [np.logical_or(*pair).sum() for pair in pairs]

    def test_what_cannot_be_compared_is_refused(self):
        whole = rle_encode(np.ones((90, 90), bool))
        with pytest.raises(DataError, match="different sizes"):
            rle_counts([whole], [rle_encode(np.ones((90, 91), bool))])
        with pytest.raises(DataError, match="1 predicted masks but 0"):
            rle_counts([whole], [])
        assert len(whole["counts"]) > 2
        with pytest.raises(DataError, match="truncated"):
            rle_counts([whole], [{**whole, "counts": whole["counts"][:-1]}])
        with pytest.raises(DataError, match="truncated"):
            rle_counts([{**whole, "counts": ""}], [whole])


class TestBox:
    @given(masks())
    def test_equals_the_loop(self, mask):
        points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
        box = mask_to_box(mask)
        if not points:
            assert box is None
            return
        xs, ys = zip(*points, strict=True)
        assert box.dtype == np.float32
        assert box.tolist() == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


SQUARE = [1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]


class TestPolygons:
    def test_coco_square_covers_its_area(self):
        expected = np.zeros((5, 5), bool)
        expected[1:3, 1:3] = True
        assert np.array_equal(polygons_to_mask([SQUARE], (5, 5)), expected)

    def test_pil_square_includes_its_outline(self):
        expected = np.zeros((5, 5), bool)
        expected[1:4, 1:4] = True
        assert np.array_equal(polygons_to_mask([SQUARE], (5, 5), rasteriser="pil"), expected)
        fractions = [n + 0.9 for n in SQUARE]  # cut to whole numbers
        assert np.array_equal(polygons_to_mask([fractions], (5, 5), rasteriser="pil"), expected)

    def test_union_equals_pycocotools_merge(self):
        rng = np.random.default_rng(3)
        for _ in range(20):
            polygons = [(rng.random(2 * n) * 40 - 4).tolist() for n in rng.integers(3, 9, 3)]
            merged = coco.decode(coco.merge(coco.frPyObjects(polygons, 30, 33))).astype(bool)
            assert np.array_equal(polygons_to_mask(polygons, (30, 33)), merged)

    def test_bad_polygons_are_dropped_unless_nothing_is_left(self):
        bad = [[1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], []]
        alone = polygons_to_mask([SQUARE], (5, 5))
        assert np.array_equal(polygons_to_mask([*bad, SQUARE], (5, 5)), alone)
        assert decode_segmentation([*bad, SQUARE], (5, 5))[1] == 1
        with pytest.raises(DataError, match="no usable polygon among 3"):
            polygons_to_mask(bad, (5, 5))

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e9, -1e9])
    def test_absurd_coordinates_are_refused(self, value):
        with pytest.raises(DataError, match="coordinate"):
            polygons_to_mask([[value, *SQUARE[1:]]], (5, 5))

    def test_words_are_no_polygon(self):
        with pytest.raises(DataError, match="not a polygon"):
            polygons_to_mask([["a", "b", "c", "d", "e", "f"]], (5, 5))


LEFT = [0.0, 0.0, 4.0, 0.0, 4.0, 6.0, 0.0, 6.0]
RIGHT = [2.0, 0.0, 6.0, 0.0, 6.0, 6.0, 2.0, 6.0]  # shares columns 2 and 3 with LEFT


class TestSegmentation:
    def test_overlap_is_foreground_in_the_union_and_background_in_lavt_compat(self):
        union, parts = decode_segmentation([LEFT, RIGHT], (6, 6))
        assert parts == 2
        assert union.all()
        compat, parts = decode_segmentation([LEFT, RIGHT], (6, 6), rule="lavt_compat")
        assert parts == 2
        assert compat.sum() == 24
        assert not compat[:, 2:4].any()

    def test_rle_list_follows_the_same_rules(self):
        rles = [rle_encode(polygons_to_mask([p], (6, 6))) for p in (LEFT, RIGHT)]
        for rule in ("union", "lavt_compat"):
            by_rle = decode_segmentation(rles, (6, 6), rule=rule)
            by_polygon = decode_segmentation([LEFT, RIGHT], (6, 6), rule=rule)
            assert np.array_equal(by_rle[0], by_polygon[0])
            assert by_rle[1] == by_polygon[1] == 2

    def test_single_rle_and_flat_polygon(self):
        mask, parts = decode_segmentation(rle_encode(np.eye(4, dtype=bool)), (4, 4))
        assert parts == 1
        assert np.array_equal(mask, np.eye(4, dtype=bool))
        mask, parts = decode_segmentation(SQUARE, (5, 5))
        assert (parts, mask.sum()) == (1, 4)

    @pytest.mark.parametrize("bad", [None, [], "text", 7, [{"size": [4, 4]}], [SQUARE, {}]])
    def test_broken_segmentations_are_refused(self, bad):
        with pytest.raises(DataError):
            decode_segmentation(bad, (5, 5))

    def test_rle_of_another_size_is_refused(self):
        with pytest.raises(DataError, match="4 x 4, the image 4 x 5"):
            decode_segmentation(rle_encode(np.ones((4, 4), bool)), (4, 5))


def resize_by_loop(mask, hw):
    height, width = mask.shape
    out = np.zeros(hw, mask.dtype)
    for y in range(hw[0]):
        for x in range(hw[1]):
            out[y, x] = mask[
                (2 * y + 1) * height // (2 * hw[0]), (2 * x + 1) * width // (2 * hw[1])
            ]
    return out


class TestResize:
    @given(masks(), st.integers(1, 30), st.integers(1, 30))
    def test_equals_the_loop(self, mask, height, width):
        assert np.array_equal(
            resize_mask(mask, (height, width)), resize_by_loop(mask, (height, width))
        )

    @given(masks(largest=90), st.integers(1, 99), st.integers(1, 99))
    def test_like_pillow_equals_pillow(self, mask, height, width):
        pil = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        ours = resize_mask(mask, (height, width), like_pillow=True)
        assert np.array_equal(ours, np.asarray(pil))

    @pytest.mark.parametrize("hw", [(427, 640), (640, 480), (333, 500), (17, 1999)])
    def test_like_pillow_at_the_sizes_of_photographs(self, hw):
        mask = np.random.default_rng(0).random(hw) > 0.5
        pil = Image.fromarray(mask).resize((480, 480), Image.Resampling.NEAREST)
        ours = resize_mask(mask, (480, 480), like_pillow=True)
        assert np.array_equal(ours, np.asarray(pil))

    @pytest.mark.parametrize("hw", [(7, 9), (31, 12), (40, 60), (1, 1), (20, 30)])
    @pytest.mark.parametrize("resample", ["bilinear", "bilinear-corners", "bicubic"])
    def test_agrees_with_torch(self, hw, resample):
        from torch import from_numpy
        from torch.nn.functional import interpolate

        values = np.random.default_rng(1).random((20, 30)).astype(np.float32)
        mode, corners = resample.split("-")[0], resample.endswith("corners")
        torch = interpolate(from_numpy(values)[None, None], hw, mode=mode, align_corners=corners)
        np.testing.assert_allclose(
            resize_response(values, hw, resample), torch[0, 0].numpy(), atol=2e-6
        )

    def test_nearest_and_same_size(self):
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        same = resize_response(values, (3, 4), "bicubic")
        assert np.array_equal(same, values)
        assert same is not values
        large = resize_response(values, (6, 8), "nearest")
        assert np.array_equal(large, np.kron(values, np.ones((2, 2), np.float32)))


class TestResponse:
    @given(masks(), st.integers(24, 60), st.integers(24, 60), st.sampled_from(["square", "letter"]))
    def test_net_and_back_is_the_same_mask_when_nothing_shrinks(self, mask, height, width, fit):
        into = resize_square if fit == "square" else letterbox
        _, geometry = into(np.zeros((*mask.shape, 3), np.uint8), (height, width))
        response = mask_in_net(mask, geometry).astype(np.float32)
        assert response.shape == (height, width)
        back = response_to_mask(response, geometry, resample="nearest")
        assert np.array_equal(back, mask)

    @given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**31))
    def test_a_blob_survives_a_smaller_network(self, height, width, seed):
        rng = np.random.default_rng(seed)
        mask = np.zeros((height, width), bool)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = True
        _, geometry = letterbox(np.zeros((height, width, 3), np.uint8), (48, 48))
        response = mask_in_net(mask, geometry).astype(np.float32)
        back = response_to_mask(response, geometry)
        # Each of the four edges may be off by less than one net pixel.
        slack = 1.0 / geometry.scale_xy[0] + 1
        assert np.count_nonzero(back ^ mask) <= 2 * slack * (height // 2 + width // 2 + 2 * slack)

    def test_padding_does_not_count(self):
        _, geometry = letterbox(np.zeros((10, 20, 3), np.uint8), (20, 20))
        response = np.ones((20, 20), np.float32)
        response[5:15] = 0
        assert not response_to_mask(response, geometry).any()
        assert response_to_mask(1 - response, geometry).all()

    def test_a_coarse_response_is_enlarged_before_the_padding_is_cut(self):
        _, geometry = letterbox(np.zeros((8, 16, 3), np.uint8), (16, 16))
        coarse = np.random.default_rng(0).random((4, 4)).astype(np.float32)
        by_hand = resize_response(coarse, (16, 16), "bilinear")[4:12]
        assert np.array_equal(response_in_px(coarse, geometry), by_hand)
        assert response_at(coarse, geometry, (5, 7)).shape == (5, 7)

    def test_threshold_strict_or_not(self):
        geometry = Geometry((4, 4), (2, 2), (0.5, 0.5))
        half = np.full((2, 2), 0.5, np.float32)
        assert not response_to_mask(half, geometry).any()
        assert response_to_mask(half, geometry, strict_greater=False).all()
        assert response_to_mask(half, geometry, threshold=0.35).all()

    def test_one_pixel_image(self):
        for into in (resize_square, letterbox):
            _, geometry = into(np.zeros((1, 1, 3), np.uint8), (32, 32))
            ones = np.ones((8, 8), np.float32)
            assert response_to_mask(ones, geometry).tolist() == [[True]]


@pytest.mark.data
def test_real_polygons_equal_pycocotools(shared_data: Path):
    instances = shared_data / "refcoco_photos" / "refcoco" / "instances.json"
    content = json.loads(instances.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    assert content["annotations"]
    for annotation in content["annotations"]:
        polygons, hw = annotation["segmentation"], sizes[annotation["image_id"]]
        mask, parts = decode_segmentation(polygons, hw)
        merged = coco.decode(coco.merge(coco.frPyObjects(polygons, *hw)))
        assert parts == len(polygons)
        assert np.array_equal(mask, merged.astype(bool))


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_large_mask_is_cut_in_strips_and_is_the_same(small, hw, padded, seed):
    """Against the whole map at once, but where it touches the threshold."""
    response = np.random.default_rng(seed).random(small, np.float32)
    make = letterbox if padded else resize_square
    _, geometry = make(np.zeros((*hw, 3), np.uint8), (32, 32))
    whole = response_in_px(response, geometry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "_LARGE", 0)
        inside = response_to_mask(response, geometry, threshold=0.4)
        open_end = response_to_mask(response, geometry, threshold=0.4, strict_greater=False)
    sure = abs(whole - 0.4) > 1e-5
    assert inside.shape == hw
    np.testing.assert_array_equal(inside[sure], (whole > 0.4)[sure])
    np.testing.assert_array_equal(open_end[sure], (whole > 0.4)[sure])


def test_a_hundred_million_pixels_need_no_map_of_their_size(monkeypatch):
    made = []
    strips = masks_module._strips
    monkeypatch.setattr(
        masks_module,
        "_strips",
        lambda *given: (made.append(s[1].nbytes) or s for s in strips(*given)),
    )
    geometry = Geometry((9000, 12000), (64, 64), (64 / 12000, 64 / 9000))
    response = np.zeros((64, 64), np.float32)
    response[:32] = 1
    mask = response_to_mask(response, geometry)
    assert mask[:4500].all()
    assert not mask[4500:].any()
    assert max(made) < 10e6


@pytest.mark.parametrize("scale", [1.0, 1e-3, -40.0])
def test_stretched_is_between_its_lowest_and_its_highest(scale):
    values = (0.25 + scale * np.random.default_rng(0).random((5, 7))).astype(np.float32)
    found = stretched(values)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    low, high = sorted(values.ravel().tolist())[:: values.size - 1]
    expected = [[(value - low) / (high - low) for value in row] for row in values.tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(stretched(3 * values - 1), found, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-20])
def test_a_flat_map_is_stretched_to_nothing(value):
    """Resized, a constant differs by rounding; that is no map."""
    flat = np.full((3, 5), value, np.float32)
    assert not stretched(flat).any()
    assert not stretched(resize_response(flat, (37, 91), "bilinear")).any()
    assert not stretched(flat[:1, :1]).any()
