"""Measure the model for photographs and its parts: `python -m studies.photographs STUDY`.

Each writes docs/results/photographs_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refseg.methods.mutual.config import RECORDS
from refseg.models import PHOTOS
from studies import (
    detector,
    photographs_chain,
    photographs_choice,
    photographs_nothing,
    photographs_small,
    photographs_written,
)
from studies.base import RESULTS
from studies.command import Studied, carry_out, positive, told
from studies.mutual_boxes import NEVER, never_trained

ABOUT = {
    "detections": "what the detector tells of annotated objects; writes what training draws from",
    "choice": "which object is meant: RefCOCO and RefCOCO+ by boxes, and by simulated detections",
    "nothing": "whether a score tells that nothing is there, and the threshold below which it does",
    "small": "how small a thing may be until it is taken for absent",
    "written": "whether what is written means its object to another model",
    "chain": "photographs with RefCOCO's and RefCOCO+'s expressions, and what limits the masks",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    name = f"photographs_{parsed.study}"
    return carry_out(lambda: STUDIES[parsed.study](parsed), name, command(parsed), parsed.out)


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    needed = [word for name in NEEDED.get(parsed.study, ()) for word in (f"--{name}", ".")]
    own = _parser().parse_args([parsed.study, "--real", ".", *needed])
    return told("studies.photographs", own, parsed, parsed.study)


def _detections(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    return None, detector.run(detector.Detector(parsed.real, never, parsed.records))


def _choice(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_choice.Choice(parsed.real, parsed.model, never, parsed.limit)
    return parsed.model, photographs_choice.run(asked)


def _nothing(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_nothing.Nothing(
        parsed.real, parsed.photos, parsed.model, never, parsed.limit
    )
    return parsed.model, photographs_nothing.run(asked)


def _small(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_small.Small(parsed.real, parsed.model, never, parsed.limit)
    return parsed.model, photographs_small.run(asked)


def _written(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_written.WrittenAbout(
        parsed.real, parsed.photos, parsed.judge, parsed.model, never, parsed.limit
    )
    return parsed.model, photographs_written.run(asked)


def _chain(parsed: argparse.Namespace) -> Studied:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_chain.Chain(parsed.real, parsed.model, never, parsed.limit)
    return parsed.model, photographs_chain.run(asked)


STUDIES = {
    "detections": _detections,
    "choice": _choice,
    "nothing": _nothing,
    "small": _small,
    "written": _written,
    "chain": _chain,
}
#: Beside --real, what a study must be told.
NEEDED = {"nothing": ("photos",), "written": ("photos", "judge")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.photographs", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = {name: studies.add_parser(name, help=text) for name, text in ABOUT.items()}
    for name, study in one.items():
        holds = "instances.json and images/" if name == "detections" else "refcoco/ and refcoco+/"
        study.add_argument("--real", type=Path, required=True, help=f"holds {holds}")
        study.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        if name != "detections":
            study.add_argument("--model", default=PHOTOS, help="bundled name or folder")
            study.add_argument("--limit", type=positive, help="the first N of each split")
    never = f"file of image ids that no training sees [{NEVER} beside --real]"
    for study in one.values():
        study.add_argument("--never", type=Path, help=never)
    photos = "holds refcoco/ and refcoco+/ with their photographs"
    judge = "folder of a model that was trained by itself, with another seed"
    for name, needed in NEEDED.items():
        one[name].add_argument("--photos", type=Path, required=True, help=photos)
        if "judge" in needed:
            one[name].add_argument("--judge", type=Path, required=True, help=judge)
    one["detections"].add_argument("--records", type=Path, default=RECORDS, help="file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
