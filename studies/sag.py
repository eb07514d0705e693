"""Measure Shatter and Gather: `python -m studies.sag STUDY`.

Each writes docs/results/sag_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies import sag_ablations, sag_answers, sag_pictures, sag_table
from studies.base import RESULTS
from studies.command import Studied, carry_out, positive, told, training_options
from studies.sag_runs import TEXT, VARIANTS, VIT, Asked
from studies.tris_runs import PAIR

ABOUT = {
    "table": "all methods, what needs no training, and a student of its masks; trains",
    "ablations": "one thing changed, paired seeds; trains",
    "answers": "schemes, tau, draws and CRFs on the same weights; trains the base alone",
    "pictures": "expressions through entities to masks (Figures A1 to A3); trains the base alone",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    name = f"sag_{parsed.study}"
    return carry_out(lambda: STUDIES[parsed.study](parsed), name, command(parsed), parsed.out)


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    return told("studies.sag", _parser().parse_args([parsed.study]), parsed, parsed.study)


def _asked(parsed: argparse.Namespace) -> Asked:
    return Asked(
        folder=parsed.folder,
        vit=parsed.vit,
        text=parsed.text,
        seeds=tuple(dict.fromkeys(parsed.seeds)),
        steps=parsed.steps,
        overrides=tuple(parsed.set),
        limit=parsed.limit,
    )


def _table(parsed: argparse.Namespace) -> Studied:
    return None, sag_table.run(_asked(parsed), parsed.models, parsed.pair)


def _ablations(parsed: argparse.Namespace) -> Studied:
    return None, sag_ablations.run(_asked(parsed), parsed.variants or sag_ablations.DEFAULT)


def _answers(parsed: argparse.Namespace) -> Studied:
    return None, sag_answers.run(_asked(parsed))


def _pictures(parsed: argparse.Namespace) -> Studied:
    return None, sag_pictures.run(_asked(parsed))


STUDIES = {"table": _table, "ablations": _ablations, "answers": _answers, "pictures": _pictures}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.sag", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = {name: studies.add_parser(name, help=text) for name, text in ABOUT.items()}
    for study in one.values():
        study.add_argument("--vit", default=VIT, help="image encoder that all start from")
        study.add_argument("--text", default=TEXT, help="text encoder that all start from")
        training_options(study, "runs/studies/sag")
        study.add_argument("--steps", type=positive, help="of every run [the recipe's]")
        study.add_argument("--limit", type=positive, help="the first N expressions of val")
        study.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    usual = list(sag_table.USUAL)
    one["table"].add_argument(
        "--models", nargs="*", default=usual, help="names, or folders of models or of runs"
    )
    one["table"].add_argument("--pair", default=PAIR, help="image-text pair that MaskCLIP asks")
    one["ablations"].add_argument("--variants", nargs="+", choices=tuple(VARIANTS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
