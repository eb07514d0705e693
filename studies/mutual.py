"""Measure mutual supervision: `python -m studies.mutual STUDY`.

Each writes docs/results/mutual_STUDY.json (what was measured, and with what);
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies import boxes_scores, mutual_ablation, mutual_boxes, mutual_scenes
from studies.base import RESULTS
from studies.command import Studied, carry_out, positive, told
from studies.mutual_variants import TABLES

ABOUT = {
    "boxes": "real RefCOCO and RefCOCO+ without pixels (Tables 1, 3 and 5); trains",
    "scenes": "a model on rendered scenes, reading and writing, by steps",
    "ablation": "what each part is worth (Tables 3, 6 and 7, Figure 5); trains",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    table = f"-{parsed.table}" if parsed.study == "ablation" else ""
    name = f"mutual_{parsed.study}{table}"
    return carry_out(lambda: STUDIES[parsed.study](parsed), name, command(parsed), parsed.out)


def command(parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    least = {"boxes": ["--real", "."], "scenes": ["--judge", "."], "ablation": []}[parsed.study]
    own = _parser().parse_args([parsed.study, *least])
    return told("studies.mutual", own, parsed, parsed.study)


def _boxes(parsed: argparse.Namespace) -> Studied:
    asked = mutual_boxes.Boxes(
        real=parsed.real,
        folder=parsed.folder,
        sets=tuple(parsed.sets.split(",")),
        never=mutual_boxes.never_trained(parsed.real, parsed.never),
        steps=parsed.steps,
        reward_steps=parsed.reward_steps,
        runs=tuple(parsed.runs.split(",")) if parsed.runs else (),
        overrides=tuple(parsed.set),
        limit=parsed.limit,
        beams=tuple(dict.fromkeys(parsed.beams)),
    )
    mutual_boxes.check(asked)
    if parsed.only != "score":
        mutual_boxes.train(asked)
    return None, None if parsed.only == "train" else boxes_scores.score(asked)


def _scenes(parsed: argparse.Namespace) -> Studied:
    beams = tuple(dict.fromkeys(parsed.beams))
    asked = mutual_scenes.Scenes(
        parsed.model, parsed.judge, parsed.folder, parsed.run, parsed.limit, beams
    )
    return parsed.model, mutual_scenes.run(asked)


def _ablation(parsed: argparse.Namespace) -> Studied:
    known = TABLES[parsed.table]
    # In the table's order, the row first that the others differ from.
    chosen = parsed.variants or known
    unknown = [name for name in chosen if name not in known]
    asked = mutual_ablation.Ablation(
        table=parsed.table,
        variants=(*(name for name in known if name in chosen), *unknown),
        seeds=tuple(dict.fromkeys(parsed.seeds)),
        folder=parsed.folder,
        steps=parsed.steps,
        reward_steps=parsed.reward_steps,
        judge_steps=parsed.judge_steps,
        share=parsed.share,
        judge=parsed.judge,
        overrides=tuple(parsed.set),
        limit=parsed.limit,
    )
    mutual_ablation.check(asked)
    return None, mutual_ablation.run(asked, score=parsed.only != "train")


STUDIES = {"boxes": _boxes, "scenes": _scenes, "ablation": _ablation}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.mutual", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    one = {name: studies.add_parser(name, help=text) for name, text in ABOUT.items()}
    for name, study in one.items():
        folder = Path("runs/studies") / ("boxes" if name == "boxes" else "mutual")
        study.add_argument("--folder", type=Path, default=folder, help="of runs and their scores")
        study.add_argument("--limit", type=positive, help="the first N of each split")
        study.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        if name != "ablation":
            study.add_argument(
                "--beams", nargs="+", type=positive, default=[1, 3], help="1 is greedy"
            )
    for name in ("boxes", "ablation"):
        _training_options(one[name])
    _boxes_options(one["boxes"])
    _scenes_options(one["scenes"])
    _ablation_options(one["ablation"])
    return parser


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("train", "score"))
    parser.add_argument("--steps", type=positive, help="of steps 1 and 3 [the recipe's]")
    parser.add_argument("--reward-steps", type=positive, help="of step 2 [the recipe's]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run"
    )


def _boxes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--real", type=Path, required=True, help="holds refcoco/ and refcoco+/")
    never = f"file of image ids that no training sees [{mutual_boxes.NEVER} beside --real]"
    parser.add_argument("--never", type=Path, help=never)
    parser.add_argument("--sets", default=",".join(mutual_boxes.SETS))
    runs = "train these folders only, such as writer-seed0,judge-seed1"
    parser.add_argument("--runs", help=runs)


def _scenes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mutual-scenes", help="bundled name or folder")
    parser.add_argument("--judge", type=Path, required=True, help="run of an independent reader")
    parser.add_argument("--run", type=Path, help="the run that made the model: scores by steps")


def _ablation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", choices=tuple(TABLES), default="parts")
    parser.add_argument("--variants", nargs="+", metavar="ROW", help="rows of --table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--judge", type=Path, help="run of an independent reader [trains one]")
    parser.add_argument("--judge-steps", type=positive, help="of the judge [the recipe's]")
    parser.add_argument("--share", type=float, default=0.1, help="of people's refs that are known")


if __name__ == "__main__":
    sys.exit(main())
