"""Measure TRIS: `python -m studies.tris STUDY`.

Each writes docs/results/tris_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies import tris_ablations, tris_pictures, tris_steps
from studies.base import RESULTS
from studies.command import Studied, carry_out, positive, told, training_options
from studies.tris_labels import PICTURES
from studies.tris_runs import PAIR, PRESETS, VARIANTS, Asked

ABOUT = {
    "steps": "step 1, PRMS, refinement, step 2, a student, and what needs no training; trains",
    "ablations": "lambda, calibration and prompt of step 1, paired seeds; trains",
    "pictures": "expressions through all steps, a row each; trains",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    name = f"tris_{parsed.study}"
    return carry_out(lambda: STUDIES[parsed.study](parsed), name, command(parsed), parsed.out)


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    return told("studies.tris", _parser().parse_args([parsed.study]), parsed, parsed.study)


def _asked(parsed: argparse.Namespace) -> Asked:
    return Asked(
        folder=parsed.folder,
        pair=parsed.pair,
        seeds=tuple(dict.fromkeys(parsed.seeds)),
        first_steps=parsed.first_steps,
        steps=getattr(parsed, "steps", None),
        edge_steps=getattr(parsed, "edge_steps", None),
        overrides=tuple(parsed.set),
        limit=getattr(parsed, "limit", None),
    )


def _steps(parsed: argparse.Namespace) -> Studied:
    return None, tris_steps.run(_asked(parsed), parsed.presets or tuple(PRESETS), parsed.pictures)


def _ablations(parsed: argparse.Namespace) -> Studied:
    return None, tris_ablations.run(_asked(parsed), parsed.variants or tuple(VARIANTS))


def _pictures(parsed: argparse.Namespace) -> Studied:
    return None, tris_pictures.run(_asked(parsed))


STUDIES = {"steps": _steps, "ablations": _ablations, "pictures": _pictures}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.tris", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = {name: studies.add_parser(name, help=text) for name, text in ABOUT.items()}
    for study in one.values():
        study.add_argument("--pair", default=PAIR, help="image-text pair that all start from")
        training_options(study, "runs/studies/tris")
        study.add_argument("--first-steps", type=positive, help="of step 1 [the recipe's]")
        study.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    for name in ("steps", "ablations"):
        one[name].add_argument("--limit", type=positive, help="the first N expressions of val")
    for name in ("steps", "pictures"):
        one[name].add_argument("--steps", type=positive, help="of step 2 [the recipe's]")
        one[name].add_argument("--edge-steps", type=positive, help="of the edge network")
    one["steps"].add_argument("--presets", nargs="+", choices=tuple(PRESETS))
    one["steps"].add_argument(
        "--pictures", type=positive, default=PICTURES, help="labels of the first N are measured"
    )
    one["ablations"].add_argument("--variants", nargs="+", choices=tuple(VARIANTS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
