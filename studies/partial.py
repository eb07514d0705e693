"""Measure Partial-RES: `python -m studies.partial STUDY`.

Each writes docs/results/partial_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refseg import models
from studies import (
    partial_bounds,
    partial_pictures,
    partial_scenes,
    partial_shares,
    partial_task,
)
from studies.base import RESULTS
from studies.command import Studied, carry_out, positive, told, training_options
from studies.partial_runs import Few

ABOUT = {
    "scenes": "a model of few masks on every split of the rendered world",
    "shares": "mIoU by the share of masks given, with and without each part; trains",
    "rpp": "pseudo masks on and off with the fewest masks, paired seeds; trains",
    "task": "the modes of [TASK] with all masks (supplement, Table 1); trains",
    "pictures": "points in order, where they look, resampling (Figures 2 and 3); trains",
    "bounds": "what coordinates can say about real objects at best",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    name = f"partial_{parsed.study}"
    return carry_out(lambda: STUDIES[parsed.study](parsed), name, command(parsed), parsed.out)


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    needed = {"bounds": ["--real", ".", "--photos", "."], "scenes": ["--model", "."]}
    least = needed.get(parsed.study, ["--rec", "."])
    own = _parser().parse_args([parsed.study, *least])
    return told("studies.partial", own, parsed, parsed.study)


def _asked(parsed: argparse.Namespace) -> Few:
    return Few(
        folder=parsed.folder,
        rec=parsed.rec,
        seeds=tuple(dict.fromkeys(parsed.seeds)),
        shares=tuple(percent / 100 for percent in getattr(parsed, "shares", (100,))),
        steps=parsed.steps,
        again_steps=getattr(parsed, "again_steps", None),
        dense_steps=getattr(parsed, "dense_steps", None),
        overrides=tuple(parsed.set),
        dense_overrides=tuple(getattr(parsed, "dense_set", ())),
        limit=parsed.limit,
    )


def _shares(parsed: argparse.Namespace) -> Studied:
    return None, partial_shares.run(_asked(parsed), parsed.variants or partial_shares.VARIANTS)


def _rpp(parsed: argparse.Namespace) -> Studied:
    asked = replace(_asked(parsed), shares=(partial_pictures.SHARE,))
    return None, partial_shares.run(asked, partial_shares.PIPELINE)


def _task(parsed: argparse.Namespace) -> Studied:
    return None, partial_task.run(_asked(parsed))


def _pictures(parsed: argparse.Namespace) -> Studied:
    return None, partial_pictures.run(_asked(parsed))


def _scenes(parsed: argparse.Namespace) -> Studied:
    return parsed.model, partial_scenes.run(models.load(parsed.model), parsed.limit)


def _bounds(parsed: argparse.Namespace) -> Studied:
    return None, partial_bounds.run(parsed.real, parsed.photos, parsed.limit)


STUDIES = {
    "scenes": _scenes,
    "shares": _shares,
    "rpp": _rpp,
    "task": _task,
    "pictures": _pictures,
    "bounds": _bounds,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.partial", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = {name: studies.add_parser(name, help=text) for name, text in ABOUT.items()}
    for name, study in one.items():
        study.add_argument("--limit", type=positive, help="the first N of each split")
        study.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        if name not in ("bounds", "scenes"):
            study.add_argument("--rec", required=True, help="REC model that all start from")
            training_options(study, "runs/studies/partial")
            study.add_argument("--steps", type=positive, help="of RES [the recipe's]")
    one["scenes"].add_argument("--model", required=True, help="name or folder")
    for name in ("shares", "rpp"):
        one[name].add_argument(
            "--again-steps", type=positive, help="of RES on true and pseudo masks"
        )
    _shares_options(one["shares"])
    one["bounds"].add_argument("--real", type=Path, required=True, help="holds refcoco/")
    one["bounds"].add_argument("--photos", type=Path, required=True, help="has instances.json")
    return parser


def _shares_options(shares: argparse.ArgumentParser) -> None:
    shares.add_argument(
        "--shares", nargs="+", type=float, default=[1, 5, 10, 100], help="of the masks, percent"
    )
    shares.add_argument("--variants", nargs="+", choices=partial_shares.VARIANTS)
    shares.add_argument("--dense-steps", type=positive, help="of VEGA")
    shares.add_argument(
        "--dense-set", action="append", default=[], metavar="KEY=VALUE", help="for VEGA's runs"
    )


if __name__ == "__main__":
    sys.exit(main())
