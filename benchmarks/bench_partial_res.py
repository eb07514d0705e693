"""Partial-RES's own steps, each fast form beside its slow twin in one run.

    python benchmarks/bench_partial_res.py            all of it (some minutes)
    python benchmarks/bench_partial_res.py outlines   one part, or several
    ... --json out.json                               the same numbers as one object ("-": printed)

Compared in turn, run by run, after both forms were seen to give the same:
- outlines: points of a mask, and the mask of points, against NumPy and plain Python;
- decoding: every key kept, against the whole prefix read anew for each coordinate (the papers');
- content: what coordinates bring, one gather against a loop (the papers');
- labelling: pseudo masks of pictures by `refseg label`, against one expression at a time.
Weights and memories are random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table
from benchmarks.output import hand_over
from benchmarks.partial_res.content_speed import content
from benchmarks.partial_res.decoding import decoding
from benchmarks.partial_res.labelling import labelling
from benchmarks.partial_res.outlines import outlines

# Each takes the number of timed runs. "ms" is that of an object, or of the batch in the title.
PARTS: dict[str, Callable[[int], Mapping[str, Table]]] = {
    "outlines": outlines,
    "decoding": decoding,
    "content": content,
    "labelling": labelling,
}
COLUMNS = {"ms": "median ms", "as_fast": "x as fast", "per_second": "a second", "gmacs": "GMACs"}


def report(options: argparse.Namespace) -> dict[str, Any]:
    told: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return told | {part: PARTS[part](max(1, options.runs)) for part in options.parts or PARTS}


def show(told: Mapping[str, Any]) -> None:
    print(f"Partial-RES, {told['threads']} threads, torch {told['torch']}")
    for part in PARTS:
        if part in told:
            print(f"\n== {part}")
            for title, table in told[part].items():
                show_table(title, table)
    print("\nA second: objects or expressions, of which a batch has as many as its title says.")


def show_table(title: str, table: Table) -> None:
    columns = [c for c in COLUMNS if any(c in row for row in table.values())]
    print(f"\n{title}\n{'':40}" + "".join(f"{COLUMNS[c]:>11}" for c in columns))
    for name, row in table.items():
        print(f"  {name:38}" + "".join(f"{number(c, row[c]):>11}" for c in columns))


def number(column: str, value: float) -> str:
    if column == "as_fast":
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each form")
    parser.add_argument("--json", metavar="PATH", help='write one object there ("-": print it)')
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part {part}; there are {', '.join(PARTS)}")
    hand_over(report(options), show, options.json)


if __name__ == "__main__":
    main()
