from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.metrics.meter import Meter, bootstrap_interval, pairwise_consistency
from refseg.metrics.protocols import get_protocol
from refseg.types import Geometry, Prediction

HW = (12, 16)
GEOMETRY = Geometry(HW, HW, (1.0, 1.0))
ORIGINAL = get_protocol("original")


def blob(rng):
    mask = np.zeros(HW, bool)
    top, left = rng.integers(0, 8), rng.integers(0, 10)
    mask[top : top + rng.integers(1, 8), left : left + rng.integers(1, 9)] = True
    return mask


def answers(seed, count=12):
    """key -> (prediction, target or None); every fifth expression means nothing."""
    rng = np.random.default_rng(seed)
    found = {}
    for n in range(count):
        response = rng.random(HW).astype(np.float32) * (0.4 + 0.6 * blob(rng))
        prediction = Prediction(blob(rng), 0.5, GEOMETRY, response, empty=bool(rng.random() < 0.2))
        found[f"s{n:02}"] = (prediction, None if n % 5 == 4 else blob(rng))
    return found


def filled(protocol, found, **options):
    meter = Meter(protocol, **options)
    for key, (prediction, target) in found.items():
        meter.update(key, prediction, target)
    return meter


def by_loops(found):
    """All metrics of protocol "original", pixel by pixel from their definitions."""
    table = {name: [] for name in ("iou", "rec", "it", "m", "t", "n", "g")}
    total = all_total = np.zeros(2, int)
    for prediction, target in found.values():
        pixels = [(y, x) for y in range(HW[0]) for x in range(HW[1])]
        own = set() if prediction.empty else {p for p in pixels if prediction.mask[p]}
        truth = set() if target is None else {p for p in pixels if target[p]}
        counts = np.array([len(own & truth), len(own | truth)])
        all_total = all_total + counts
        if target is None:
            table["n"].append(not own)
            table["g"].append(not own)
            continue
        total = total + counts
        iou = counts[0] / counts[1] if counts[1] else 1.0
        table["iou"].append(iou)
        table["g"].append(iou)
        table["t"].append(bool(own))
        boxes = []
        for points in (own, truth):
            ys, xs = [p[0] for p in points], [p[1] for p in points]
            boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1) if points else None)
        table["rec"].append(boxes[0] is not None and box_iou(*boxes) > 0.5)
        best = max(pixels, key=lambda p: (prediction.response[p], -p[0], -p[1]))
        x0, y0, x1, y1 = boxes[1]
        table["it"].append(x0 <= best[1] <= x1 and y0 <= best[0] <= y1)
        table["m"].append(best in truth)
    share = {name: sum(values) / len(values) for name, values in table.items()}
    result = {"mIoU": share["iou"], "oIoU": total[0] / total[1]}
    for x in (0.5, 0.6, 0.7, 0.8, 0.9):
        result[f"Pr@{x}"] = sum(v > x for v in table["iou"]) / len(table["iou"])
    result |= {"gIoU": share["g"], "cIoU": all_total[0] / all_total[1]}
    result |= {"N-acc": share["n"], "T-acc": share["t"]}
    return result | {"REC@0.5": share["rec"], "PointIt": share["it"], "PointM": share["m"]}


def box_iou(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


class TestMeter:
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_loops(self, seed):
        found = answers(seed)
        meter = filled(ORIGINAL, found)
        assert len(meter) == len(found)
        assert meter.result() == pytest.approx(by_loops(found), abs=1e-12)

    @pytest.mark.parametrize("name", ["original", "lavt-480", "tris", "seqtr-crowd"])
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 1000), ranks=st.integers(1, 4), rng=st.randoms())
    def test_processes_merge_exactly_with_padding(self, name, seed, ranks, rng):
        protocol = get_protocol(name)
        found = answers(seed, 8)
        whole = filled(protocol, found)
        keys = list(found) + rng.choices(list(found), k=3)
        states = []
        for rank in range(ranks):
            meter = Meter(protocol, repeats="once")
            for key in keys[rank::ranks]:
                meter.update(key, *found[key])
            carry = json.loads(json.dumps(meter.state()))
            states.append(carry if rank % 2 else pickle.loads(pickle.dumps(meter.state())))
        rng.shuffle(states)
        merged = Meter(protocol)
        for state in states:
            merged.merge(state)
        merged.merge(states[0])  # a rank that reports twice changes nothing
        assert len(merged) == len(found)
        assert merged.result() == whole.result()
        assert merged.samples() == whole.samples()
        assert merged.state() == whole.state()

    def test_disagreeing_processes_merge_alike_in_both_orders(self):
        found = answers(1, 4)
        perfect = {
            key: (replace(p, mask=t, response=t.astype(np.float32), empty=False), t)
            for key, (p, t) in found.items()
        }
        states = [filled(ORIGINAL, f).state() for f in (found, perfect)]
        assert states[0]["hits"] != states[1]["hits"]
        results = []
        for order in (states, states[::-1]):
            meter = Meter(ORIGINAL)
            for state in order:
                meter.merge(state)
            results.append(meter.state())
        assert results[0] == results[1]
        assert len(results[0]["rows"]) == 4

    def test_a_repeated_key_is_refused_by_default(self):
        meter = filled(ORIGINAL, answers(0, 2))
        prediction, target = answers(0, 2)["s00"]
        with pytest.raises(DataError, match='"s00" was scored twice'):
            meter.update("s00", prediction, target)

    def test_protocols_do_not_mix(self):
        meter = filled(ORIGINAL, answers(0, 2))
        with pytest.raises(DataError, match='"original" cannot be merged into one of "sag"'):
            Meter(get_protocol("sag")).merge(meter.state())

    def test_the_annotated_box_counts_rather_than_that_of_the_mask(self):
        target = np.zeros(HW, bool)
        target[2:6, 2:6] = True
        prediction = Prediction(target, 1.0, GEOMETRY)
        meter = Meter(ORIGINAL)
        meter.update("tight", prediction, target)
        meter.update("wide", prediction, target, np.array([0, 0, 12, 12], np.float32))
        assert meter.result()["REC@0.5"] == 0.5
        assert "PointIt" not in meter.result()

    def test_box_iou_of_one_half(self):
        target, half = np.zeros((2, *HW), bool)
        target[:4, :4] = True
        half[:4, :2] = True
        for name, hit in (("original", 0.0), ("seqtr-crowd", 1.0)):
            meter = Meter(get_protocol(name))
            meter.update("a", Prediction(half, 1.0, GEOMETRY), target)
            assert meter.result()["REC@0.5"] == hit

    def test_tris_facts(self):
        # tris.md: a perfect map scores 1 on all; an all-zero map points at (0, 0), IoU 0.
        target = np.zeros(HW, bool)
        target[3:9, 4:11] = True
        protocol = get_protocol("tris")
        perfect = Prediction(target, 1.0, GEOMETRY, target.astype(np.float32))
        meter = Meter(protocol)
        meter.update("a", perfect, target)
        result = meter.result()
        assert result["mIoU"] == result["oIoU"] == result["PointIt"] == result["PointM"] == 1
        zero = Prediction(~target & target, 0.0, GEOMETRY, np.zeros(HW, np.float32))
        meter = Meter(protocol)
        assert meter.update("a", zero, target).peak == (0, 0)
        result = meter.result()
        assert result["mIoU"] == result["PointIt"] == result["PointM"] == 0

    def test_nothing_scored(self):
        with pytest.raises(DataError, match="no expression"):
            Meter(ORIGINAL).result()

    def test_samples_hold_what_intervals_need(self):
        found = answers(2)
        samples = filled(ORIGINAL, found).samples()
        assert samples["key"] == sorted(found)
        kept = [not empty for empty in samples["target_empty"]]
        values = np.array(samples["iou"])[kept]
        assert values.mean() == pytest.approx(filled(ORIGINAL, found).result()["mIoU"])


class TestBootstrap:
    def test_a_normal_mean_has_its_textbook_interval(self):
        values = np.random.default_rng(0).normal(0.6, 0.2, 400)
        low, high = bootstrap_interval(values)
        half = 1.96 * values.std() / math.sqrt(len(values))
        assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
        assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
        assert bootstrap_interval(values, level=0.5)[0] > low

    def test_equals_the_loop(self):
        values = np.random.default_rng(1).random(7)
        indices = np.random.default_rng(5).integers(0, 7, (50, 7))
        means = [np.mean([values[i] for i in row]) for row in indices]
        expected = np.quantile(means, [0.025, 0.975])
        assert bootstrap_interval(values, n=50, seed=5) == pytest.approx(tuple(expected))

    def test_seeded(self):
        values = np.random.default_rng(1).random(30)
        assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
        assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)

    def test_ratio_of_sums(self):
        pairs = np.array([[10, 20], [90, 100]])
        low, high = bootstrap_interval(pairs)
        assert (low, high) == (0.5, 0.9)  # both drawn alike in a quarter of the resamples
        assert bootstrap_interval(np.tile([[3, 4]], (9, 1))) == (0.75, 0.75)

    def test_groups_are_drawn_whole(self):
        values = np.repeat([0.0, 1.0] * 10, 30)
        groups = np.repeat(np.arange(20), 30)
        alone, together = bootstrap_interval(values), bootstrap_interval(values, groups=groups)
        assert together[1] - together[0] > 4 * (alone[1] - alone[0])
        assert bootstrap_interval(values, groups=np.zeros(600)) == (0.5, 0.5)

    def test_nothing_drawn_scores_what_the_protocol_says(self):
        assert bootstrap_interval(np.zeros((5, 2))) == (0.0, 0.0)
        assert bootstrap_interval(np.zeros((5, 2)), empty=1.0) == (1.0, 1.0)

    def test_no_value(self):
        with pytest.raises(DataError):
            bootstrap_interval([])


class TestConsistency:
    @given(st.integers(0, 2**31), st.integers(2, 6))
    def test_equals_the_loop_and_ignores_order(self, seed, count):
        rng = np.random.default_rng(seed)
        masks = [rng.random((5, 9)) < rng.random() for _ in range(count)]
        total = 0.0
        for i in range(count):
            for j in range(i):
                union = np.logical_or(masks[i], masks[j]).sum()
                total += np.logical_and(masks[i], masks[j]).sum() / union if union else 1.0
        score = pairwise_consistency(masks)
        assert score == pytest.approx(total / (count * (count - 1) / 2))
        assert pairwise_consistency(masks[::-1]) == pytest.approx(score, abs=1e-15)

    def test_equal_masks_agree_fully(self):
        assert pairwise_consistency([np.eye(4, dtype=bool)] * 3) == 1.0
        assert pairwise_consistency([np.zeros((4, 4), bool)] * 2) == 1.0

    def test_one_mask_or_two_sizes(self):
        with pytest.raises(DataError, match="at least two"):
            pairwise_consistency([np.eye(4, dtype=bool)])
        with pytest.raises(DataError, match="different shapes"):
            pairwise_consistency([np.eye(4, dtype=bool), np.eye(5, dtype=bool)])
