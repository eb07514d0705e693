"""Scoring masks: our batched counts against per-sample loops, side by side in one run.

    python benchmarks/bench_metrics.py [--masks 10000] [--rounds 3] [--json]

The masks are bool arrays, and again RLE as predictions and pseudo-labels are stored. The
"literal" loop is how published evaluation scripts are written (logical_and, logical_or and
np.sum per sample, then a comparison per threshold). The "lean" loop is the best plain NumPy we
know for one pair. All must give the same metrics, or the run stops. Masks come from a pool that
is cycled, so that 10,000 masks of 480 x 640 fit into memory. Rounds are interleaved; the median
counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from refseg.metrics.iou import IoUAccumulator, Row
from refseg.metrics.meter import Meter
from refseg.metrics.protocols import PROTOCOLS
from refseg.ops.images import letterbox
from refseg.ops.masks import response_to_mask
from refseg.ops.rle import rle_counts, rle_decode, rle_encode
from refseg.types import Prediction

Masks = NDArray[np.bool_]
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def blobs(count: int, hw: tuple[int, int], seed: int) -> Masks:
    """Ellipses of the size of objects."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    masks = np.zeros((count, *hw), bool)
    for mask in masks:
        y, x = rng.uniform(0.3, 0.7, 2) * hw
        b, a = rng.uniform(0.08, 0.35, 2) * hw
        mask[:] = ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 < 1
    return masks


def batches(pool: tuple[Masks, Masks], total: int) -> Iterator[tuple[Masks, Masks]]:
    predicted, target = pool
    for start in range(0, total, len(predicted)):
        size = min(len(predicted), total - start)
        yield predicted[:size], target[:size]


def literal_loop(pool: tuple[Masks, Masks], total: int) -> dict[str, float]:
    return literal_pairs(
        pair for batch in batches(pool, total) for pair in zip(*batch, strict=True)
    )


def literal_pairs(pairs: Iterable[tuple[NDArray[np.generic], ...]]) -> dict[str, float]:
    overall_i = overall_u = count = 0
    ious: list[float] = []
    hits = np.zeros(len(THRESHOLDS))
    for p, t in pairs:
        i = np.sum(np.logical_and(p, t))
        u = np.sum(np.logical_or(p, t))
        iou = i * 1.0 / u
        ious.append(iou)
        overall_i += i
        overall_u += u
        for n, threshold in enumerate(THRESHOLDS):
            hits[n] += iou > threshold
        count += 1
    shares = {f"Pr@{t}": h / count for t, h in zip(THRESHOLDS, hits, strict=True)}
    return {"mIoU": float(np.mean(ious)), "oIoU": overall_i / overall_u} | shares


def lean_loop(pool: tuple[Masks, Masks], total: int) -> dict[str, float]:
    counts = []
    for predicted, target in batches(pool, total):
        for p, t in zip(predicted, target, strict=True):
            i = np.count_nonzero(p & t)
            counts.append((i, np.count_nonzero(p) + np.count_nonzero(t) - i))
    i, u = np.array(counts).T
    ious = i / u
    shares = {f"Pr@{t}": float(np.mean(ious > t)) for t in THRESHOLDS}
    return {"mIoU": float(np.mean(ious)), "oIoU": i.sum() / u.sum()} | shares


def ours(pool: tuple[Masks, Masks], total: int) -> dict[str, float]:
    accumulator = IoUAccumulator(thresholds=THRESHOLDS)
    for predicted, target in batches(pool, total):
        accumulator.add_batch(predicted, target)
    return accumulator.result()


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def side_by_side(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, rounds interleaved so that a busy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(timed(run))
    return {name: statistics.median(found) for name, found in times.items()}


def bench_masks(total: int, rounds: int) -> dict[str, dict[str, float]]:
    report = {}
    for hw in ((128, 128), (480, 640)):
        size = min(total, 2000 if hw[0] == 128 else 200)
        pool = blobs(size, hw, 0), blobs(size, hw, 1)
        ways = {"literal": literal_loop, "lean": lean_loop, "ours": ours}
        answers = [way(pool, min(total, size)) for way in ways.values()]
        for answer in answers[1:]:
            for name, value in answers[0].items():
                assert abs(answer[name] - value) < 1e-12, (name, value, answer[name])
        runs = {name: lambda way=way, pool=pool: way(pool, total) for name, way in ways.items()}
        report[f"{total} masks of {hw[0]} x {hw[1]}"] = side_by_side(runs, rounds)
    return report


def bench_stored(total: int, rounds: int) -> dict[str, dict[str, float]]:
    """The same metrics from masks stored as RLE, as predictions and pseudo-labels are."""
    pool = blobs(200, (480, 640), 0), blobs(200, (480, 640), 1)
    codes = [[rle_encode(mask) for mask in masks] for masks in pool]
    raw = [[{**code, "counts": code["counts"].encode()} for code in side] for side in codes]
    repeats = max(1, total // 200)

    def literal() -> dict[str, float]:
        return literal_pairs(tuple(map(coco.decode, pair)) for pair in zip(*raw, strict=True))

    def run_lengths() -> dict[str, float]:
        accumulator = IoUAccumulator(thresholds=THRESHOLDS)
        accumulator.add_counts(*rle_counts(*codes))
        return accumulator.result()

    assert {k: round(v, 12) for k, v in literal().items()} == {
        k: round(v, 12) for k, v in run_lengths().items()
    }
    ways = {
        "literal": lambda: [literal() for _ in range(repeats)],
        "ours": lambda: [run_lengths() for _ in range(repeats)],
    }
    decode = {
        "pycocotools": lambda: [coco.decode(code).astype(bool) for code in raw[0]],
        "ours": lambda: [rle_decode(code) for code in codes[0]],
    }
    return {
        f"{200 * repeats} stored RLE of 480 x 640": side_by_side(ways, rounds),
        "decode 200 RLE of 480 x 640": side_by_side(decode, rounds),
    }


def bench_meter(rounds: int) -> dict[str, float]:
    """Milliseconds an expression under each protocol: a 480 x 640 image, a 480-pixel network."""
    _, geometry = letterbox(np.zeros((480, 640, 3), np.uint8), (480, 480))
    targets = blobs(20, (480, 640), 3)
    rng = np.random.default_rng(4)
    predictions = []
    for _ in targets:
        response = rng.random((480, 480), dtype=np.float32)
        mask = response_to_mask(response, geometry)
        predictions.append(Prediction(mask, 0.5, geometry, response))
    report = {}
    for name, protocol in PROTOCOLS.items():

        def run(protocol=protocol) -> None:
            meter = Meter(protocol)
            for n, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
                meter.update(str(n), prediction, target)

        report[name] = 1000 * side_by_side({name: run}, rounds)[name] / len(targets)
    return report


def bench_merge() -> dict[str, float]:
    """Seconds to merge two halves of RefCOCO's 142,210 expressions and to sum them up."""
    rng = np.random.default_rng(5)
    halves = [IoUAccumulator(repeats="once") for _ in range(2)]
    for n in range(142_210):
        i, extra = int(rng.integers(0, 9000)), int(rng.integers(1, 9000))
        halves[n % 2].add(Row(i, i + extra, i / (i + extra)), f"refcoco:{n}")
    state = halves[1].state()
    return {
        "merge 71,105 rows": timed(lambda: halves[0].merge_state(state)),
        "result of 142,210 rows": timed(halves[0].result),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compared = bench_masks(options.masks, options.rounds) | bench_stored(
        options.masks, options.rounds
    )
    meter, merge = bench_meter(options.rounds), bench_merge()
    if options.json:
        print(json.dumps({"seconds": compared, "ms_per_expression": meter, "merge_s": merge}))
        return
    for title, seconds in compared.items():
        print(title)
        for name, value in seconds.items():
            print(f"  {name:12} {value:8.3f} s   {value / seconds['ours']:5.1f} x ours")
    print("Meter.update, ms an expression (480 x 640 image, 480 px letterboxed response)")
    for name, value in meter.items():
        print(f"  {name:12} {value:8.2f}")
    for name, value in merge.items():
        print(f"{name}: {value:.3f} s")


if __name__ == "__main__":
    main()
