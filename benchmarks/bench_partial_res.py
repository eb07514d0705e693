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

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table
from benchmarks.partial_res.content_speed import content
from benchmarks.partial_res.decoding import decoding
from benchmarks.partial_res.labelling import labelling
from benchmarks.partial_res.outlines import outlines
from benchmarks.parts import Parted

# Each takes the number of timed runs. "ms" is that of an object, or of the batch in the title.
PARTS: dict[str, Callable[[int], Mapping[str, Table]]] = {
    "outlines": outlines,
    "decoding": decoding,
    "content": content,
    "labelling": labelling,
}
COLUMNS = {"ms": "median ms", "as_fast": "x as fast", "per_second": "a second", "gmacs": "GMACs"}
NOTE = "A second: objects or expressions, of which a batch has as many as its title says."

if __name__ == "__main__":
    Parted("Partial-RES", __doc__, PARTS, COLUMNS, NOTE).main()
