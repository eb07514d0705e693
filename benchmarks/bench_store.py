"""Opening a REFER data set: our store against a load as the REFER API does it, in one run.

    python benchmarks/bench_store.py --data DIR [--rounds 3] [--items 1000] [--json PATH]

DIR holds refs(<by>).p and instances.json. Each measurement is a process of its own; rounds are
interleaved and the median counts. Imports are done before the clock starts, for all alike, and
their own time is shown. The files are in the page cache for all alike (a first round is thrown
away). Added memory is resident memory after minus before; for the store, part of it is file
pages that any process shares and the system may take back, so the private part is shown too.

    refer, gc on / off   json.load, pickle.load and the twelve indices, garbage collector on or off
    store, cold          hash, convert, write, map: what the very first opening costs
    store, warm          every later opening, a split selected, no item read
    store, warm + items  the same, then text and box of so many random items
    ... worker           two forked loader workers read text and box of every item: private memory
                         that one of them adds
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import pickle
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

VARIANTS = ("refer, gc on", "refer, gc off", "store, cold", "store, warm", "store, warm + items")
WORKER_VARIANTS = ("refer worker", "store worker")
MB = 2**20


class ReferLike:
    """A literal REFER-like load: every record a dict, every index a dict of dicts or lists."""

    def __init__(self, folder: Path) -> None:
        (refs_path,) = folder.glob("refs(*).p")
        with refs_path.open("rb") as file:
            refs = pickle.load(file)
        with (folder / "instances.json").open() as file:
            instances = json.load(file)
        self.data = {"refs": refs, **instances}
        self.anns: dict[int, Any] = {}
        self.images: dict[int, Any] = {}
        self.image_to_anns: dict[int, list[Any]] = {}
        self.categories = {entry["id"]: entry["name"] for entry in instances["categories"]}
        for ann in instances["annotations"]:
            self.anns[ann["id"]] = ann
            self.image_to_anns.setdefault(ann["image_id"], []).append(ann)
        for image in instances["images"]:
            self.images[image["id"]] = image
        self.refs: dict[int, Any] = {}
        self.image_to_refs: dict[int, list[Any]] = {}
        self.ref_to_ann: dict[int, Any] = {}
        self.ann_to_ref: dict[int, Any] = {}
        self.category_to_refs: dict[int, list[Any]] = {}
        self.sentences: dict[int, Any] = {}
        self.sentence_to_ref: dict[int, Any] = {}
        self.sentence_to_tokens: dict[int, Any] = {}
        for ref in refs:
            self.refs[ref["ref_id"]] = ref
            self.image_to_refs.setdefault(ref["image_id"], []).append(ref)
            self.category_to_refs.setdefault(ref["category_id"], []).append(ref)
            self.ref_to_ann[ref["ref_id"]] = self.anns[ref["ann_id"]]
            self.ann_to_ref[ref["ann_id"]] = ref
            for sentence in ref["sentences"]:
                self.sentences[sentence["sent_id"]] = sentence
                self.sentence_to_ref[sentence["sent_id"]] = ref
                self.sentence_to_tokens[sentence["sent_id"]] = sentence["tokens"]
        self.items = [(ref, s) for ref in refs for s in ref["sentences"]]

    def touch(self, index: int) -> int:
        ref, sentence = self.items[index]
        x, y, w, h = self.ref_to_ann[ref["ref_id"]]["bbox"]
        return len(sentence["raw"]) + int(x + y + w + h)


class Store:
    """Our data set, all splits, text and box granted."""

    def __init__(self, folder: Path) -> None:
        from refseg.data.catalog import open_data
        from refseg.types import Labels

        self.data = open_data(folder, "all", Labels.parse("text+box"))
        self.items = range(len(self.data))

    def touch(self, index: int) -> int:
        entry = self.data.entry(index)
        assert entry.box_xyxy is not None
        return len(entry.text) + int(entry.box_xyxy.sum())


def measure(variant: str, folder: Path, items: int) -> dict[str, float]:
    """One measurement in this process."""
    start = time.perf_counter()
    if variant.startswith("store"):
        import refseg.data.catalog
        import refseg.data.refer  # noqa: F401
    imports = time.perf_counter() - start
    if variant in WORKER_VARIANTS:
        return measure_workers(ReferLike if variant.startswith("refer") else Store, folder)
    if variant == "refer, gc off":
        gc.disable()
    process = psutil.Process()
    before = process.memory_full_info()
    start = time.perf_counter()
    opened: ReferLike | Store
    opened = ReferLike(folder) if variant.startswith("refer") else Store(folder)
    n_items = len(opened.items)
    if variant.endswith("items"):
        rng = random.Random(0)
        for _ in range(items):
            opened.touch(rng.randrange(n_items))
    seconds = time.perf_counter() - start
    after = process.memory_full_info()
    return {
        "seconds": seconds,
        "rss_mb": (after.rss - before.rss) / MB,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before.rss / MB,
        "private_mb": (after.uss - before.uss) / MB,
        "imports_s": imports,
        "items": n_items,
    }


def measure_workers(kind: Callable[[Path], Any], folder: Path) -> dict[str, float]:
    """Private memory that one of two forked workers adds by reading every item."""
    opened = kind(folder)
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    start = time.perf_counter()
    workers = [
        context.Process(target=read_everything, args=(opened, seed, barrier, answers))
        for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    added = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "private_mb": statistics.mean(added),
        "items": len(opened.items),
    }


def read_everything(opened: Any, seed: int, barrier: Any, answers: Any) -> None:
    process = psutil.Process()
    order = list(range(len(opened.items)))
    random.Random(seed).shuffle(order)
    barrier.wait()
    before = process.memory_full_info().uss
    for index in order:
        opened.touch(index)
    barrier.wait()  # both have mapped what they read, so shared pages count as shared
    answers.put((process.memory_full_info().uss - before) / MB)
    barrier.wait()


def run(variant: str, arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--data", str(arguments.data), "--variant", variant]
    command += ["--items", str(arguments.items)]
    environment = os.environ | {"REFSEG_CACHE": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def collect(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by variant."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as warm:
        run("store, warm", arguments, warm)
        for round_number in range(arguments.rounds + 1):
            for variant in (*VARIANTS, *WORKER_VARIANTS):
                with tempfile.TemporaryDirectory() as cold:
                    cache = cold if variant == "store, cold" else warm
                    result = run(variant, arguments, cache)
                if round_number:  # the first round fills the page cache
                    found.setdefault(variant, []).append(result)
    return {
        variant: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for variant, results in found.items()
    }


def show(found: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['store, warm']['items']:,.0f} expressions")
    for heading in ("", "seconds", "against refer, gc on", "added RSS MB", "peak MB", "private MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    base = found["refer, gc on"]
    for variant, row in found.items():
        compared = found["refer worker"] if variant in WORKER_VARIANTS else base
        ratio = compared["seconds"] / row["seconds"]
        memory = [f"{row[key]:.1f}" if key in row else "" for key in ("rss_mb", "peak_mb")]
        private = f"{row['private_mb']:.1f}"
        table.add_row(variant, f"{row['seconds']:.4f}", f"{ratio:.2f}x", *memory, private)
    console = Console()
    console.print(table)
    console.print(f"imports of the store: {found['store, warm']['imports_s']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--variant", choices=(*VARIANTS, *WORKER_VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.data, arguments.items)))
        return
    found = collect(arguments)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
