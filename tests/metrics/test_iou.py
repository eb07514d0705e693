from __future__ import annotations

import json
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg.errors import DataError
from refseg.metrics import iou as module
from refseg.metrics.iou import (
    IoUAccumulator,
    Row,
    batch_counts,
    mask_counts,
    pack_masks,
    pairwise_counts,
    pairwise_iou,
)


@st.composite
def stacks(draw, rows=2):
    """`rows` stacks of masks of one size, possibly without any."""
    height, width = draw(st.integers(1, 13)), draw(st.integers(1, 13))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    counts = [draw(st.integers(0, 6)) for _ in range(rows)]
    return [rng.random((n, height, width)) < share for n in counts]


def count_by_pixel(a, b):
    intersection = union = 0
    for p, q in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True):
        intersection += p and q
        union += p or q
    return intersection, union


class TestCounts:
    @given(stacks())
    def test_every_way_of_counting_equals_the_loop_over_pixels(self, pair):
        a, b = pair
        expected = [[count_by_pixel(p, q) for q in b] for p in a]
        intersection, union = pairwise_counts(a, b)
        assert intersection.shape == union.shape == (len(a), len(b))
        for i, row in enumerate(expected):
            for j, counts in enumerate(row):
                assert mask_counts(a[i], b[j]) == counts
                assert (intersection[i, j], union[i, j]) == counts
        n = min(len(a), len(b))
        paired = np.stack(batch_counts(a[:n], b[:n]), -1)
        assert paired.tolist() == [list(expected[i][i]) for i in range(n)]

    def test_chunks_join_without_a_seam(self, monkeypatch):
        rng = np.random.default_rng(0)
        a, b = rng.random((2, 23, 9, 31)) > 0.5
        whole, pairs = batch_counts(a, b), pairwise_counts(a, b)
        for size in (1, 70, 200):
            monkeypatch.setattr(module, "_CHUNK_BYTES", size)
            assert np.array_equal(batch_counts(a, b), whole)
            assert np.array_equal(pairwise_counts(a, b), pairs)

    def test_pack_pads_with_zeros(self):
        packed = pack_masks(np.ones((2, 5, 13), bool))  # 65 pixels
        assert packed.shape == (2, 2)
        assert np.bitwise_count(packed).sum(1).tolist() == [65, 65]

    def test_pairwise_iou_agrees_with_pycocotools(self):
        rng = np.random.default_rng(1)
        a, b = rng.random((4, 20, 30)) > 0.6, rng.random((3, 20, 30)) > 0.3
        a[0] = b[0] = False
        codes = [[coco.encode(np.asfortranarray(m, np.uint8)) for m in s] for s in (a, b)]
        np.testing.assert_allclose(pairwise_iou(a, b), coco.iou(*codes, [0] * 3), atol=1e-12)
        assert pairwise_iou(a, b, empty=1.0)[0, 0] == 1

    def test_different_shapes_are_refused(self):
        with pytest.raises(DataError, match="different shapes"):
            mask_counts(np.ones((2, 3), bool), np.ones((3, 2), bool))
        with pytest.raises(DataError, match="different shapes"):
            batch_counts(np.ones((1, 2, 3), bool), np.ones((2, 2, 3), bool))

    @given(stacks())
    def test_iou_is_symmetric_and_within_bounds(self, pair):
        a, b = pair
        iou = pairwise_iou(a, b)
        assert np.array_equal(iou, pairwise_iou(b, a).T)
        assert ((iou >= 0) & (iou <= 1)).all()
        own = np.diag(pairwise_iou(a, a))
        assert np.array_equal(own, a.any(axis=(1, 2)).astype(float))


def golden():
    accumulator = IoUAccumulator()
    accumulator.add(Row(10, 20, 10 / 20), "a")
    accumulator.add(Row(90, 100, 90 / 100), "b")
    return accumulator


rows = st.builds(
    lambda i, extra, absent, says: Row(
        0 if absent else i,
        i + extra,
        (float(says) if absent else i / (i + extra) if i + extra else 0.0),
        absent,
        says,
    ),
    st.integers(0, 50),
    st.integers(0, 50),
    st.booleans(),
    st.booleans(),
)
keyed = st.dictionaries(st.text(max_size=3), rows, min_size=1, max_size=20)


def by_fractions(found, thresholds, inclusive):
    """All metrics by exact arithmetic, straight from their definitions."""
    targets = [row for row in found if not row.target_empty]
    absent = [row for row in found if row.target_empty]

    def overall(of):
        union = sum(row.union for row in of)
        return Fraction(sum(row.intersection for row in of), union) if union else 0

    def mean(values):
        return sum(map(Fraction, values), Fraction(0)) / len(values)

    metrics = {}
    if targets:
        metrics["mIoU"] = mean([row.iou for row in targets])
        metrics["oIoU"] = overall(targets)
        for x in thresholds:
            hits = [row.iou >= x if inclusive else row.iou > x for row in targets]
            metrics[f"Pr@{x}"] = mean(hits)
    if absent:
        metrics["gIoU"] = mean([row.iou for row in found])
        metrics["cIoU"] = overall(found)
        metrics["N-acc"] = mean([row.predicted_empty for row in absent])
        if targets:
            metrics["T-acc"] = mean([not row.predicted_empty for row in targets])
    return {name: float(value) for name, value in metrics.items()}


class TestAccumulator:
    def test_golden_two_samples(self):
        result = golden().result()
        assert result["oIoU"] == pytest.approx(0.8333, abs=5e-5)
        assert result["mIoU"] == pytest.approx(0.70)
        assert result["Pr@0.5"] == 0.5
        assert set(result) == {"mIoU", "oIoU", *(f"Pr@0.{n}" for n in range(5, 10))}

    def test_inclusive_thresholds_count_equality(self):
        accumulator = IoUAccumulator(inclusive=True)
        accumulator.merge(golden())
        result = accumulator.result()
        assert result["Pr@0.5"] == 1.0
        assert result["Pr@0.9"] == 0.5
        assert golden().result()["Pr@0.9"] == 0.0

    @given(keyed, st.booleans())
    def test_equals_exact_arithmetic(self, found, inclusive):
        thresholds = (0.3, 0.5, 0.75)
        accumulator = IoUAccumulator(thresholds=thresholds, inclusive=inclusive)
        for key, row in found.items():
            accumulator.add(row, key)
        expected = by_fractions(list(found.values()), thresholds, inclusive)
        assert accumulator.result() == pytest.approx(expected, abs=1e-15)
        assert list(accumulator.result()) == list(expected)

    @given(keyed, st.integers(1, 5), st.randoms(use_true_random=False))
    def test_processes_merge_to_the_same_numbers_in_any_order(self, found, ranks, rng):
        whole = IoUAccumulator()
        for key, row in found.items():
            whole.add(row, key)
        parts = [IoUAccumulator(repeats="once") for _ in range(ranks)]
        items = list(found.items())
        padding = rng.choices(items, k=ranks)  # as a padded distributed sampler repeats
        for number, (key, row) in enumerate(rng.sample(items, len(items)) + padding):
            parts[number % ranks].add(row, key)
        rng.shuffle(parts)
        while len(parts) > 1:  # any tree of merges
            last = parts.pop()
            parts[rng.randrange(len(parts))].merge(last)
        assert len(parts[0]) == len(found)
        assert parts[0].result() == whole.result()
        assert parts[0].items() == whole.items()

    @given(st.lists(rows, min_size=1, max_size=20), st.randoms(use_true_random=False))
    def test_order_of_rows_without_keys_does_not_matter(self, found, rng):
        one, two = IoUAccumulator(), IoUAccumulator()
        for row in found:
            one.add(row)
        for row in rng.sample(found, len(found)):
            two.add(row)
        assert len(one) == len(found)
        assert one.result() == two.result()

    @given(keyed)
    def test_bounds(self, found):
        accumulator = IoUAccumulator()
        for key, row in found.items():
            accumulator.add(row, key)
        assert all(0 <= value <= 1 for value in accumulator.result().values())
        ious = [r.iou for r in found.values() if not r.target_empty and r.union]
        if ious:
            result = accumulator.result()["oIoU"]
            assert min(ious) - 1e-12 <= result <= max(ious) + 1e-12

    def test_a_repeated_key_is_refused_or_counted_once(self):
        accumulator = golden()
        with pytest.raises(DataError, match='"a" was scored twice'):
            accumulator.add(Row(1, 2, 0.5), "a")
        once = IoUAccumulator(repeats="once")
        for row in (Row(2, 4, 0.5), Row(1, 4, 0.25), Row(2, 4, 0.5)):
            once.add(row, "a")
        assert len(once) == 1
        assert once.result()["mIoU"] == 0.25

    def test_batches_equal_single_rows(self):
        rng = np.random.default_rng(0)
        a, b = rng.random((2, 12, 6, 7)) > 0.5
        a[3] = b[3] = False
        keys = [f"k{n}" for n in range(12)]
        batch, singles = IoUAccumulator(empty=1.0), IoUAccumulator(empty=1.0)
        batch.add_batch(a, b, keys)
        for key, p, q in zip(keys, a, b, strict=True):
            i, u = mask_counts(p, q)
            singles.add(Row(i, u, i / u if u else 1.0), key)
        assert batch.items() == singles.items()
        assert batch.result() == singles.result()
        batch.add_batch(a[:2], b[:2])
        assert len(batch) == 14
        with pytest.raises(DataError, match="2 masks but 1 keys"):
            batch.add_batch(a[:2], b[:2], ["x"])

    def test_state_travels_as_json(self):
        accumulator = golden()
        accumulator.add(Row(1, 3, 1 / 3))
        accumulator.add(Row(0, 0, 1.0, True, True), "none")
        other = IoUAccumulator()
        other.merge_state(json.loads(json.dumps(accumulator.state())))
        assert other.items() == accumulator.items()
        assert other.result() == accumulator.result()

    def test_no_target_rules(self):
        accumulator = IoUAccumulator()
        accumulator.add(Row(50, 100, 0.5), "target found")
        accumulator.add(Row(0, 100, 0.0, False, True), "target called absent")
        accumulator.add(Row(0, 0, 1.0, True, True), "absence recognised")
        accumulator.add(Row(0, 40, 0.0, True, False), "something invented")
        result = accumulator.result()
        assert result["mIoU"] == 0.25
        assert result["oIoU"] == 0.25
        assert result["gIoU"] == 0.375
        assert result["cIoU"] == pytest.approx(50 / 240)
        assert result["N-acc"] == result["T-acc"] == 0.5

    def test_only_absences_have_no_mask_scores(self):
        accumulator = IoUAccumulator()
        accumulator.add(Row(0, 0, 1.0, True, True))
        assert accumulator.result() == {"gIoU": 1.0, "cIoU": 0.0, "N-acc": 1.0}

    def test_nothing_scored_is_an_error(self):
        with pytest.raises(DataError, match="no expression was scored"):
            IoUAccumulator().result()

    def test_sums_do_not_drift(self):
        values = [random.Random(n).random() for n in range(2000)]
        accumulator = IoUAccumulator()
        for value in values:
            accumulator.add(Row(0, 1, value))
        exact = float(sum(map(Fraction, values)) / len(values))
        assert abs(accumulator.result()["mIoU"] - exact) < 2e-16
