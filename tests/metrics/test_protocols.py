"""Each protocol against a literal, independent reading of its source's evaluation."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from refseg.errors import DataError, UnknownName
from refseg.metrics.compare import compare
from refseg.metrics.iou import IoUAccumulator
from refseg.metrics.protocols import PROTOCOLS, get_protocol
from refseg.ops.images import letterbox, resize_square
from refseg.ops.masks import mask_in_net, polygons_to_mask, response_to_mask
from refseg.types import Geometry, Prediction

NAMES = sorted(PROTOCOLS)
HW, NET = (37, 50), (32, 32)


def smooth(rng, hw):
    """A map 0..1 with a few hills."""
    coarse = rng.random((4, 5)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC), 0, 1)


def example(seed, *, into=resize_square, hw=HW):
    """A prediction whose mask is its response at 0.5, and a target."""
    rng = np.random.default_rng(seed)
    _, geometry = into(np.zeros((*hw, 3), np.uint8), NET)
    response = smooth(rng, NET)
    mask = response_to_mask(response, geometry)
    return Prediction(mask, 0.9, geometry, response), smooth(rng, hw) > 0.5


def interpolate(values, hw, mode, align_corners):
    from torch import from_numpy
    from torch.nn.functional import interpolate

    out = interpolate(from_numpy(values)[None, None], hw, mode=mode, align_corners=align_corners)
    return out[0, 0].numpy()


def counts(predicted, target):
    return int(np.logical_and(predicted, target).sum()), int(np.logical_or(predicted, target).sum())


def close_to(score, predicted, target, slack):
    """The counts may differ where a value lies within rounding of the threshold."""
    intersection, union = counts(predicted, target)
    assert abs(score.intersection - intersection) <= slack
    assert abs(score.union - union) <= slack
    return score.intersection, score.union


seeds = pytest.mark.parametrize("seed", range(8))


class TestTwins:
    @seeds
    def test_original(self, seed):
        prediction, target = example(seed, into=letterbox)
        score = compare(prediction, target, get_protocol("original"))
        intersection, union = counts(prediction.mask, target)
        assert (score.intersection, score.union) == (intersection, union)
        assert score.iou == intersection / union

    @seeds
    def test_lavt(self, seed):
        prediction, target = example(seed)
        score = compare(prediction, target, get_protocol("lavt-480"))
        logits = interpolate(prediction.response, (480, 480), "bilinear", False)
        two = np.stack([1 - logits, logits])  # class probabilities, arg-max as LAVT does
        resized = Image.fromarray(target).resize((480, 480), Image.Resampling.NEAREST)
        i, u = close_to(score, two.argmax(0) == 1, np.asarray(resized), slack=2)
        assert score.iou == i / u

    @seeds
    def test_cris_and_cgformer(self, seed):
        prediction, target = example(seed)
        values = interpolate(prediction.response, HW, "bicubic", False)
        for name, threshold in (("cris-035", 0.35), ("cgformer", 0.5)):
            score = compare(prediction, target, get_protocol(name))
            i, u = close_to(score, values > threshold, target, slack=1)
            assert score.iou == i / (u + 1e-6)

    def test_cris_undoes_a_letterbox_like_its_cubic_warp(self):
        differing = 0
        for seed in range(8):
            prediction, target = example(seed, into=letterbox)
            geometry = prediction.geometry
            (sx, sy), (ox, oy) = geometry.scale_xy, geometry.offset_xy
            # CRIS maps pixel centres by the inverse of its own matrix; same frame as ours.
            inverse = np.array(
                [[1 / sx, 0, (0.5 - ox) / sx - 0.5], [0, 1 / sy, (0.5 - oy) / sy - 0.5]]
            )
            values = cv2.warpAffine(
                prediction.response, inverse, HW[::-1], flags=cv2.INTER_CUBIC, borderValue=0.0
            )
            score = compare(prediction, target, get_protocol("cris-035"))
            intersection, union = counts(values > 0.35, target)
            differing += abs(score.union - union) + abs(score.intersection - intersection)
        assert differing / (8 * HW[0] * HW[1]) < 0.01  # borders and the warp's 1/32 px steps

    @seeds
    def test_tris(self, seed):
        prediction, target = example(seed)
        # R and sigmoid(R) > 0.5 have one sign: rectify, resize, divide, compare, point.
        rectified = np.maximum(prediction.response - np.float32(0.5), 0)
        values = interpolate(rectified, HW, "bilinear", True)
        values = values / (values.max() + 1e-5)
        score = compare(prediction, target, get_protocol("tris"), with_peak=True)
        i, u = close_to(score, values > 1e-9, target, slack=1)
        assert score.iou == (i / u if u else 0.0)
        assert score.peak == np.unravel_index(values.argmax(), HW)

    @seeds
    def test_sag(self, seed):
        prediction, target = example(seed)
        values = interpolate(prediction.response, HW, "bilinear", False)
        stretched = (values - values.min()) / (values.max() - values.min() + 1e-9)
        score = compare(prediction, target, get_protocol("sag"), with_peak=True)
        i, u = close_to(score, stretched >= 0.5, target, slack=1)
        assert score.iou == i / u
        assert score.peak == np.unravel_index(values.argmax(), HW)

    @seeds
    def test_lisa_by_histograms_of_labels(self, seed):
        prediction, target = example(seed)
        output = (interpolate(prediction.response, HW, "bilinear", False) > 0.5).astype(int)
        score = compare(prediction, target, get_protocol("lisa"))
        labels = target.astype(int)
        intersection = np.bincount(output[output == labels], minlength=2)[1]
        union = np.bincount(output.ravel(), minlength=2)[1] + labels.sum() - intersection
        assert abs(score.intersection - intersection) <= 1
        assert abs(score.union - union) <= 1
        assert score.iou == score.intersection / (score.union + 1e-5)

    def test_lisa_leaves_pixels_of_two_parts_out_as_lavt_compat_does(self):
        # LISA compares label 1 with summed parts, where shared pixels are 2.
        summed = np.array([[0, 1, 2, 1]])
        output = np.array([[0, 1, 1, 0]])
        intersection = np.count_nonzero((output == summed) & (output == 1))
        union = output.sum() + np.count_nonzero(summed == 1) - intersection
        assert get_protocol("lisa").mask_rule == "lavt_compat"
        assert counts(output == 1, summed == 1) == (intersection, union)

    @seeds
    @pytest.mark.parametrize("parts", [1, 3])
    def test_seqtr_is_pycocotools_with_iscrowd(self, seed, parts):
        prediction, target = example(seed, into=letterbox)
        net = [mask_in_net(m, prediction.geometry) for m in (prediction.mask, target)]
        codes = [coco.encode(np.asfortranarray(m, np.uint8)) for m in net]
        expected = coco.iou([codes[0]], [codes[1]], [int(parts > 1)])[0, 0]
        score = compare(prediction, target, get_protocol("seqtr-crowd"), parts=parts)
        assert score.iou == pytest.approx(expected, abs=1e-12)
        assert (score.intersection, score.union) == counts(*net)

    def test_seqtr_fills_outlines_in_the_net_frame(self):
        _, geometry = letterbox(np.zeros((*HW, 3), np.uint8), NET)
        outline = np.array([[5, 5], [40, 8], [30, 30]], np.float32)
        mask = polygons_to_mask([outline.ravel().tolist()], HW)
        prediction = Prediction(mask, 1.0, geometry, polygons=(outline,))
        in_net = outline * geometry.scale_xy + geometry.offset_xy
        expected = polygons_to_mask([in_net.ravel().tolist()], NET)
        score = compare(prediction, mask, get_protocol("seqtr-crowd"))
        assert (score.intersection, score.union) == counts(expected, mask_in_net(mask, geometry))
        nothing = replace(prediction, polygons=(outline[:2],))
        assert compare(nothing, mask, get_protocol("seqtr-crowd")).predicted_empty


def masks_only(mask, **more):
    hw = mask.shape
    return Prediction(mask, 1.0, Geometry(hw, hw, (1.0, 1.0)), **more)


class TestRules:
    def test_a_quarter_of_a_target_in_two_parts_scores_one_under_the_crowd_rule(self):
        target, quarter = np.ones((8, 8), bool), np.zeros((8, 8), bool)
        quarter[:4, :4] = True
        crowd = get_protocol("seqtr-crowd")
        assert compare(masks_only(quarter), target, crowd).iou == 0.25
        assert compare(masks_only(quarter), target, crowd, parts=2).iou == 1.0
        assert compare(masks_only(quarter), target, get_protocol("original"), parts=2).iou == 0.25
        assert compare(masks_only(~target), target, crowd, parts=2).iou == 0.0

    @pytest.mark.parametrize("name", NAMES)
    def test_an_empty_union(self, name):
        nothing = np.zeros((8, 8), bool)
        protocol = get_protocol(name)
        assert protocol.empty == (1.0 if name in ("original", "lisa") else 0.0)
        score = compare(masks_only(nothing), nothing, protocol)
        assert (score.union, score.iou) == (0, protocol.empty)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_perfect_prediction_scores_one(self, name):
        _, geometry = resize_square(np.zeros((24, 24, 3), np.uint8), (24, 24))
        target = np.zeros((24, 24), bool)
        target[4:15, 6:20] = True
        mask_alone = Prediction(target, 1.0, geometry)
        with_response = replace(mask_alone, response=target.astype(np.float32))
        for prediction in (mask_alone, with_response):
            score = compare(prediction, target, get_protocol(name))
            if "480" in name or name == "rela":
                # Enlarging both is exact for a mask, and interpolated for a response.
                assert score.iou > (0.9 if prediction.response is not None else 0.9999)
            else:
                assert score.iou == pytest.approx(1.0, abs=1e-7)
        assert not score.target_empty
        assert not score.predicted_empty

    @pytest.mark.parametrize("name", NAMES)
    @given(seed=st.integers(0, 2**31), square=st.booleans(), parts=st.integers(1, 2))
    def test_bounds(self, name, seed, square, parts):
        hw = (9, 14)
        prediction, target = example(seed, into=resize_square if square else letterbox, hw=hw)
        score = compare(prediction, target, get_protocol(name), parts=parts, with_peak=True)
        assert 0 <= score.intersection <= score.union
        assert 0 <= score.iou <= 1
        assert 0 <= score.peak[0] < hw[0]
        assert 0 <= score.peak[1] < hw[1]

    @pytest.mark.parametrize("name", NAMES)
    def test_without_a_response_the_mask_counts(self, name):
        prediction, target = example(3)
        protocol = get_protocol(name)
        alone = compare(replace(prediction, response=None), target, protocol, with_peak=True)
        assert alone.peak is None
        if protocol.frame == "original":
            assert (alone.intersection, alone.union) == counts(prediction.mask, target)
        else:
            hw = NET if protocol.frame == "net" else protocol.frame
            small = [
                np.asarray(Image.fromarray(m).resize(hw[::-1], Image.Resampling.NEAREST))
                for m in (prediction.mask, target)
            ]
            assert abs(alone.union - counts(*small)[1]) <= 0.05 * small[1].size

    @pytest.mark.parametrize("name", ["lavt-480", "rela", "cris-035", "cgformer", "lisa", "tris"])
    def test_a_value_at_the_threshold_is_background(self, name):
        value = np.float32(0.35 if name == "cris-035" else 0.5)
        everything = np.ones((4, 4), bool)
        for step, hits in ((0, False), (1e-3, True)):
            response = np.full((4, 4), value + np.float32(step), np.float32)
            score = compare(
                masks_only(everything, response=response), everything, get_protocol(name)
            )
            assert (score.iou > 0.99) == hits

    def test_half_way_is_foreground_for_sag(self):
        response = np.repeat(np.array([[1], [1], [0.5], [0]], np.float32), 4, axis=1)
        prediction = masks_only(np.zeros((4, 4), bool), response=response)
        score = compare(prediction, np.ones((4, 4), bool), get_protocol("sag"))
        assert score.intersection == 12

    @pytest.mark.parametrize("name", ["lavt-480", "rela"])
    def test_targets_are_resized_as_pillow_does(self, name):
        target = np.random.default_rng(0).random((427, 640)) > 0.5
        resized = Image.fromarray(target).resize((480, 480), Image.Resampling.NEAREST)
        score = compare(masks_only(np.ones_like(target)), target, get_protocol(name))
        assert score.intersection == np.asarray(resized).sum()

    def test_pr_at_a_bound_by_protocol(self):
        # A prediction of exactly half of its target.
        target = np.ones((2, 8), bool)
        half = target.copy()
        half[0] = False
        inclusive = {"lavt-480", "rela", "seqtr-crowd"}
        for name in NAMES:
            protocol = get_protocol(name)
            assert protocol.pr_inclusive == (name in inclusive)
            accumulator = IoUAccumulator(
                thresholds=protocol.pr_thresholds, inclusive=protocol.pr_inclusive
            )
            accumulator.add(compare(masks_only(half), target, protocol).row)
            assert accumulator.result()["Pr@0.5"] == float(name in inclusive)


class TestAbsence:
    nothing, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("flag", [False, True])
    @pytest.mark.parametrize("area", [0, 4])
    def test_no_target(self, name, flag, area):
        mask = self.some if area else self.nothing
        score = compare(masks_only(mask, empty=flag), None, get_protocol(name))
        recognised = {"rela": flag, "lisa": area == 0}.get(name, flag or area == 0)
        assert score.target_empty
        assert score.predicted_empty == recognised
        assert score.iou == float(recognised)
        assert score.intersection == 0
        assert (score.union == 0) == (recognised or area == 0)

    def test_a_target_called_absent_by_flag(self):
        prediction = masks_only(self.some, empty=True)
        original = compare(prediction, self.some, get_protocol("original"))
        assert (original.intersection, original.union, original.iou) == (0, 4, 0.0)
        rela = compare(prediction, self.some, get_protocol("rela"))
        # ReLA drops the intersection and keeps the union of the masks.
        assert (rela.intersection, rela.iou) == (0, 0.0)
        assert rela.union == 4 * 120 * 120
        lisa = compare(prediction, self.some, get_protocol("lisa"))
        assert lisa.intersection == 4


class TestTable:
    def test_names(self):
        required = {"original", "lavt-480", "cris-035", "cgformer", "rela", "lisa"}
        assert required | {"seqtr-crowd", "tris", "sag"} <= set(PROTOCOLS)
        for name, protocol in PROTOCOLS.items():
            assert protocol.name == name
            assert protocol.summary
            assert protocol.source

    def test_unknown_name_offers_the_nearest(self):
        with pytest.raises(UnknownName, match='did you mean "lavt-480"'):
            get_protocol("lavt480")

    def test_protocols_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            get_protocol("original").threshold = 0.1


class TestErrors:
    def test_sizes_that_disagree(self):
        prediction, target = example(0)
        with pytest.raises(DataError, match=r"target mask is \(50, 37\), the image \(37, 50\)"):
            compare(prediction, target.T, get_protocol("original"))
        with pytest.raises(DataError, match="predicted mask"):
            compare(replace(prediction, mask=target.T), target, get_protocol("original"))

    def test_a_response_that_is_not_a_number(self):
        prediction, target = example(0)
        prediction.response[3, 3] = np.nan
        with pytest.raises(DataError, match="diverge"):
            compare(prediction, target, get_protocol("sag"))
