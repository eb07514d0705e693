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

from refseg.errors import RefsegError
from refseg.methods.mutual.detected import RECORDS
from studies import detector
from studies.base import FIGURES, RESULTS, Outcome, say, write
from studies.command import told
from studies.mutual_boxes import NEVER, never_trained

ABOUT = {
    "detections": "what the detector tells of annotated objects; writes what training draws from"
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    start = time.perf_counter()
    try:
        outcome = STUDIES[parsed.study](parsed)
        minutes = round((time.perf_counter() - start) / 60, 2)
        about = {"command": command(parsed), "minutes": minutes, "model": None}
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


STUDIES = {"detections": _detections}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.photographs", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = studies.add_parser("detections", help=ABOUT["detections"])
    one.add_argument("--real", type=Path, required=True, help="holds instances.json and images/")
    never = f"file of image ids that no training sees [{NEVER} beside --real]"
    one.add_argument("--never", type=Path, help=never)
    one.add_argument("--records", type=Path, default=RECORDS, help="file of what was told")
    one.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
