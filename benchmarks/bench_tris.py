"""TRIS's own steps, each fast form beside its slow twin in one run.

    python benchmarks/bench_tris.py            all of it (minutes)
    python benchmarks/bench_tris.py walking    one part, or several
    ... --json out.json                        the same numbers as one object ("-": printed)

Compared in turn, run by run, after both forms were seen to give the same:
- walking: the random walk of the refinement, neighbours alone against a dense matrix squared;
- step1: a training step, what the frozen judge says asked for once, against each time anew;
- asking: answers of both steps, the image encoded once, against a forward pass a sentence;
- refining: the pseudo masks of an image's refs together, against edges found for each of them.
All but the walk run with random weights.
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
from benchmarks.tris.asking import asking
from benchmarks.tris.judging import judging
from benchmarks.tris.refining import refining
from benchmarks.tris.walking import walking

# Each takes the number of timed runs. "ms" is that of what the title tells.
PARTS: dict[str, Callable[[int], Mapping[str, Table]]] = {
    "walking": walking,
    "step1": judging,
    "asking": asking,
    "refining": refining,
}
COLUMNS = {
    "ms": "median ms",
    "as_fast": "x as fast",
    "per_second": "a second",
    "gmacs": "GMACs",
    "added_mib": "MiB more",
}


def report(options: argparse.Namespace) -> dict[str, Any]:
    told: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return told | {part: PARTS[part](max(1, options.runs)) for part in options.parts or PARTS}


def show(told: Mapping[str, Any]) -> None:
    print(f"TRIS, {told['threads']} threads, torch {told['torch']}")
    for part in PARTS:
        if part in told:
            print(f"\n== {part}")
            for title, table in told[part].items():
                show_table(title, table)
    print(
        "\nA second: texts of a step, sentences answered, images refined.\n"
        "MiB more: the peak of a fresh process over what it held before; counted: two matrices."
    )


def show_table(title: str, table: Table) -> None:
    columns = [c for c in COLUMNS if any(c in row for row in table.values())]
    print(f"\n{title}\n{'':40}" + "".join(f"{COLUMNS[c]:>11}" for c in columns))
    for name, row in table.items():
        cells = (number(c, row[c]) if c in row else "" for c in columns)
        print(f"  {name:38}" + "".join(f"{cell:>11}" for cell in cells))


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
