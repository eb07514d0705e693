"""How long the embedded world takes: each step for one image, and a whole data set.

    python benchmarks/bench_scenes.py --images 400 --workers 2 --json scenes.json

The steps run in one process on one core; the whole data set is built into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from refseg.data.scenes import language
from refseg.data.scenes.build import build_scenes
from refseg.data.scenes.picture import STYLES
from refseg.data.scenes.render import render
from refseg.data.scenes.sample import sample_scene
from refseg.ops.masks import rle_encode

TARGET_IMAGES, TARGET_SECONDS = 4000, 180.0


def timed(work: Callable[[], object]) -> tuple[object, float]:
    start = time.perf_counter()
    result = work()
    return result, 1000.0 * (time.perf_counter() - start)


def steps(size: tuple[int, int] | None, repeats: int) -> dict[str, float]:
    """Median milliseconds of each step over `repeats` scenes."""
    rows: dict[str, list[float]] = {"sample": [], "render": [], "png": [], "rle": [], "words": []}
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        staged, ms = timed(lambda rng=rng: sample_scene(rng, size_hw=size))
        rows["sample"].append(ms)
        drawn, ms = timed(lambda staged=staged: render(staged.scene, staged.stage))
        rows["render"].append(ms)
        rows["png"].append(timed(lambda drawn=drawn: cv2.imencode(".png", drawn.image))[1])
        rows["rle"].append(
            timed(lambda drawn=drawn: [rle_encode(drawn.owner == o.object_id)
                                       for o in drawn.scene.objects])[1]
        )  # fmt: skip
        rows["words"].append(
            timed(lambda drawn=drawn, rng=rng: [language.describe(drawn.scene, 0, style, rng)
                                                for style in STYLES])[1]
        )  # fmt: skip
    return {name: statistics.median(values) for name, values in rows.items()}


def whole(images: int, workers: int) -> float:
    """Seconds to build a data set of `images`."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_scenes(Path(folder) / "world", images=images, workers=workers)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="size of the data set")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=40, help="scenes for each size")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    sizes = {"128 x 128": (128, 128), "256 x 256": (256, 256), "as built": None}
    table = {name: steps(size, args.repeats) for name, size in sizes.items()}
    print("median ms for one image on one core (words: three expressions in each style)")
    columns = list(next(iter(table.values())))
    print(f"{'size':>10}" + "".join(f"{name:>9}" for name in columns) + f"{'sum':>9}")
    for name, row in table.items():
        cells = "".join(f"{row[column]:9.2f}" for column in columns)
        print(f"{name:>10}{cells}{sum(row.values()):9.2f}")
    seconds = whole(args.images, args.workers)
    scaled = seconds * TARGET_IMAGES / args.images
    print(f"\n{args.images} images, {args.workers} workers: {seconds:.1f} s", end="; ")
    print(f"at this rate {TARGET_IMAGES} take {scaled:.0f} s (wanted: under {TARGET_SECONDS:.0f})")
    if args.json:
        result = {
            "ms": table, "images": args.images, "workers": args.workers, "seconds": seconds,
            "seconds_for_4000": scaled,
        }  # fmt: skip
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
