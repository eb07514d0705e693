"""Mutual supervision's time and memory, each fast form beside its slow twin in one run.

    python benchmarks/bench_mutual.py            paper size and the recipes' own (some minutes)
    python benchmarks/bench_mutual.py --quick    toy size, a part of the data (two or three minutes)
    ... --real DIR                               real data: DIR/refcoco_boxes/refcoco
    ... --model RUN                              a run of mutual_refcoco_boxes, or its model
    ... --json out.json                          the same numbers as one object ("-": printed)

Compared in turn, run by run, after both forms were seen to give the same:
- beam search: words and projections kept, against everything read anew at every step;
- the memory of proposals: projected once an image against once an object;
- selection: the expressions of an image in one pass, batches padded in groups;
- step 2 with the proposals of the frozen extractor kept;
- expressions for all of RefCOCO's testA and testB, by boxes.
MiB is what the first run adds at its peak to the resident memory of a fresh process that had loaded
model and input: what is alive at that moment, in a step of learning gradients and the
optimiser's state, too, and the code that any first run loads (some 5 MiB, in a step some 20).
Batches one after another count as the greatest of them. MiB kept is what a forward pass keeps for
its backward pass. Of writing, the whole process is told, too.
Weights are random, but for --model; sentences are then of a stated length. CIDEr-D, the other
half of a reward, is in bench_captions.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.rewarding import rewards
from benchmarks.mutual.searching import projections, searches
from benchmarks.mutual.selecting import one_image, padding
from benchmarks.mutual.writing import expressions
from benchmarks.output import hand_over

COLUMNS = {"gmacs": "GMACs", "added_mib": "MiB", "kept_mib": "MiB kept"}


def report(options: argparse.Namespace) -> dict[str, Any]:
    quick, runs = options.quick, max(1, options.runs)
    boxes = real_boxes(options.real)
    told: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    told["beam search"] = searches(quick, runs)
    told["projections"] = projections(quick, runs)
    told["selection"] = one_image(quick, runs)
    told["selection, padding"] = padding(boxes, runs)
    told["step 2"], told["kept"] = rewards(quick, runs)
    if boxes is not None:
        run = Path(options.model) if options.model else None
        told["weights"] = "of a trained model" if run else "untrained"
        told["writing, boxes"], told["written"] = expressions(boxes, run, quick, runs)
    return told


def real_boxes(stated: str) -> Path | None:
    """RefCOCO's folder, in the folder of real data or its `data`."""
    places = (Path(stated), Path(stated) / "data")
    found = (place / "refcoco_boxes" / "refcoco" for place in places)
    return next((place for place in found if place.is_dir()), None)


def show(told: Mapping[str, Any]) -> None:
    print(f"mutual supervision, {told['threads']} threads, torch {told['torch']}")
    for part, tables in told.items():
        if isinstance(tables, Mapping) and part not in ("kept", "written"):
            print(f"\n== {part}")
            for title, table in tables.items():
                show_table(title, table)
    kept = told["kept"]
    print(
        f"\nkeeping the proposals of {kept['images']:.0f} images once: {kept['seconds']:.1f} s, "
        f"{kept['bytes_an_image'] / 1024:.1f} KiB an image, {kept['bytes'] / 1024:.0f} KiB on disk"
    )
    if "written" not in told:
        print("no RefCOCO boxes at --real: expressions were not written, object counts were drawn")
    for beams, found in told.get("written", {}).items():
        print(
            f"testA + testB, {told['weights']}, {beams}: {found['objects']:,.0f} expressions of "
            f"{found['ids']:.1f} ids in {found['seconds']:.1f} s with reading, "
            f"{found['per_second']:.0f} a second;\n  {found['peak_mib']:.0f} MiB resident "
            f"at most, {found['added_mib']:.0f} of them added by reading and writing"
        )
    print("\nMiB: added by one run, in a fresh process. MiB kept: for the backward pass.")


def show_table(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    columns = [c for c in COLUMNS if any(c in row for row in table.values())]
    heads = "".join(f"{COLUMNS[c]:>10}" for c in columns)
    print(f"\n{title}\n{'':46}{'median ms':>10}{'x as fast':>10}{heads}")
    for name, row in table.items():
        more = "".join(f"{row[c]:10.4g}" if c in row else " " * 10 for c in columns)
        print(f"  {name:44}{row['ms']:10.1f}{row['as_fast']:10.2f}{more}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy size, a part of the data")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each form")
    parser.add_argument("--real", default=os.environ.get("REFSEG_SHARED", "../shared/data"))
    parser.add_argument("--model", metavar="RUN", help="trained weights for writing")
    parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
    options = parser.parse_args()
    told = report(options)
    hand_over(told, show, options.json)


if __name__ == "__main__":
    main()
