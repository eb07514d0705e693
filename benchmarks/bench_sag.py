"""Shatter and Gather's time and memory, each fast form beside its slow twin in one run.

    python benchmarks/bench_sag.py            all of it (many minutes)
    python benchmarks/bench_sag.py slots      one part, or several
    ... --json out.json                       the same numbers as one object ("-": printed)

Compared in turn, run by run, after both forms were seen to give the same, at the size of
`sag_scenes` and at the paper's:
- decoding: an answer without the reconstruction decoder, against running it for nothing;
- slots: keys and values of patches projected once, against once in each iteration;
- reconstruction: the decoder split, against slots laid on patches;
- fusion: all pairs of sentences and images at once, against sentences repeated;
- sentences: an evaluation that encodes an image once, against once a sentence;
- crf: at half of the image's sides, against the whole image: here numbers differ, and are shown;
- step: a training step, all parts ours, against all plain.
Weights are random. The released code, measured elsewhere on two cores, takes 535 ms to answer one
pair at paper size, half of it for the decoder, and 7 s and 5.4 GiB for a step of four pairs: those
are another machine's, no row here is to be held against them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutual.measuring import Table
from benchmarks.parts import Parted
from benchmarks.sag.decoding import decoding
from benchmarks.sag.outlining import outlining
from benchmarks.sag.pairing import pairing
from benchmarks.sag.rebuilding import rebuilding
from benchmarks.sag.sentences import sentences
from benchmarks.sag.shattering import shattering
from benchmarks.sag.stepping import stepping

# Each takes the number of timed runs. "ms" is that of what the title tells.
PARTS: dict[str, Callable[[int], Mapping[str, Table]]] = {
    "decoding": decoding,
    "slots": shattering,
    "reconstruction": rebuilding,
    "fusion": pairing,
    "sentences": sentences,
    "crf": outlining,
    "step": stepping,
}
COLUMNS = {
    "ms": "median ms",
    "as_fast": "x as fast",
    "per_second": "a second",
    "images": "images",
    "gmacs": "GMACs",
    "added_mib": "MiB more",
    "peak_mib": "MiB in all",
    "iou_whole": "IoU, whole",
    "iou_true": "IoU, true",
}
NOTE = (
    "A second: sentences. Images: through the image encoder. MiB: peak of a fresh process, and\n"
    "over what it held before. Of the CRF, ms are of a map, and IoU is that of its masks with\n"
    "those of the CRF on the whole image and with the true ones, mean."
)

if __name__ == "__main__":
    Parted("Shatter and Gather", __doc__, PARTS, COLUMNS, NOTE).main()
