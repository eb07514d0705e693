"""Measure the model for photographs and its parts: `python -m studies.photographs STUDY`.

Each writes docs/results/photographs_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refseg import models
from refseg.errors import RefsegError
from refseg.methods.mutual.config import RECORDS
from refseg.models import PHOTOS
from studies import detector, photographs_chain, photographs_choice
from studies.base import FIGURES, RESULTS, Outcome, model_identity, say, write
from studies.command import positive, told
from studies.mutual_boxes import NEVER, never_trained

ABOUT = {
    "detections": "what the detector tells of annotated objects; writes what training draws from",
    "choice": "which object is meant: RefCOCO and RefCOCO+ by boxes, and by simulated detections",
    "chain": "photographs with RefCOCO's and RefCOCO+'s expressions, and what limits the masks",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    start = time.perf_counter()
    try:
        outcome = STUDIES[parsed.study](parsed)
        minutes = round((time.perf_counter() - start) / 60, 2)
        named = getattr(parsed, "model", None)
        model = None if named is None else model_identity(models.load(named), named)
        about: dict[str, Any] = {"command": command(parsed), "minutes": minutes, "model": model}
        path = write(f"photographs_{parsed.study}", outcome, about, parsed.out, FIGURES)
        say(f"{path} ({minutes:.1f} min)")
    except RefsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    own = _parser().parse_args([parsed.study, "--real", "."])
    return told("studies.photographs", own, parsed, parsed.study)


def _detections(parsed: argparse.Namespace) -> Outcome:
    never = never_trained(parsed.real, parsed.never)
    return detector.run(detector.Detector(parsed.real, never, parsed.records))


def _choice(parsed: argparse.Namespace) -> Outcome:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_choice.Choice(parsed.real, parsed.model, never, parsed.limit)
    return photographs_choice.run(asked)


def _chain(parsed: argparse.Namespace) -> Outcome:
    never = never_trained(parsed.real, parsed.never)
    asked = photographs_chain.Chain(parsed.real, parsed.model, never, parsed.limit)
    return photographs_chain.run(asked)


STUDIES = {"detections": _detections, "choice": _choice, "chain": _chain}


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
    one["detections"].add_argument("--records", type=Path, default=RECORDS, help="file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
