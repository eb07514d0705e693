"""TRIS's own steps, each fast form beside its slow twin in one run.

    python benchmarks/bench_tris.py            all of it (minutes)
    python benchmarks/bench_tris.py walking    one part, or several
    ... --json out.json                        the same numbers as one object ("-": printed)

Compared in turn, run by run, after both forms were seen to give the same:
- walking: the random walk of the refinement, neighbours alone against a dense matrix squared;
- hearing: what the prompt over words adds, all pairs at once against text by text;
- layout: CLIP's ResNet with channels last, against the layout that torch gives images;
- step1: a training step, what the frozen judge says asked for once, against each time anew;
- asking: answers of both steps, the image encoded once, against a forward pass a sentence;
- refining: the pseudo masks of an image's refs together, against edges found for each of them.
All but the walk run with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table
from benchmarks.parts import Parted
from benchmarks.tris.asking import asking
from benchmarks.tris.hearing import hearing
from benchmarks.tris.judging import judging
from benchmarks.tris.layout import layout
from benchmarks.tris.refining import refining
from benchmarks.tris.walking import walking

# Each takes the number of timed runs. "ms" is that of what the title tells.
PARTS: dict[str, Callable[[int], Mapping[str, Table]]] = {
    "walking": walking,
    "hearing": hearing,
    "layout": layout,
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
NOTE = (
    "A second: texts of a step, sentences answered, images refined.\n"
    "MiB more: the peak of a fresh process over what it held before; counted: two matrices."
)

if __name__ == "__main__":
    Parted("TRIS", __doc__, PARTS, COLUMNS, NOTE).main()
