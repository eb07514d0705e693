"""Measure VEGA: `python -m studies.vega STUDY`, one study or "all" of the quick ones.

Each writes docs/results/STUDY.json (what was measured, and with what) and its pictures;
`python -m studies.results` makes docs/results.md of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refseg.errors import ConfigError, RefsegError, UnknownName
from refseg.predict import load
from studies import (
    ablation,
    consistency,
    gallery,
    ksweep,
    main_scores,
    photos,
    robustness,
    tsne,
)
from studies.base import FIGURES, RESULTS, Outcome, Setting, Training, model_identity, say, write
from studies.command import positive, told
from studies.variants import TABLES

Run = Callable[[Setting], Outcome]
QUICK: dict[str, Run] = {
    "main": main_scores.run,
    "robustness": robustness.run,
    "consistency": consistency.run,
    "ksweep": ksweep.run,
    "tsne": tsne.run,
    "photos": photos.run,
    "figures": gallery.run,
}
STUDIES: dict[str, Run] = {**QUICK, "ablation": ablation.run}
ABOUT = {
    "main": "every style and split, beside the trivial baselines, by size and kind",
    "robustness": "typos, slang, capitals, articles, filler words (Figure 6)",
    "consistency": "different wordings of one object (Figures 7 and 9)",
    "ksweep": "how many pixels each word selects (Figure 4)",
    "tsne": "tokens in one space (Figure 5)",
    "photos": "real photographs",
    "figures": "best, middle and worst answers; what happens inside",
    "ablation": "what each part is worth (Tables 2 to 4); trains",
    "all": "all of them that train nothing",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; 2 for bad input."""
    parsed = _parser().parse_args(words)
    try:
        for name in QUICK if parsed.study == "all" else (parsed.study,):
            if parsed.study == "all" and name == "photos" and not photos.available(_real(parsed)):
                say("photos: skipped, there are none here")
                continue
            _run(name, parsed)
    except RefsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, parsed: argparse.Namespace) -> None:
    start = time.perf_counter()
    training = _training(name, parsed)
    model = None if training is not None else load(parsed.model)
    setting = Setting(model, parsed.limit, _real(parsed), training)
    outcome = STUDIES[name](setting)
    about: dict[str, Any] = {
        "command": command(name, parsed),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "model": None if model is None else model_identity(model, parsed.model),
    }
    path = write(_file(name, training), outcome, about, parsed.out, parsed.figures)
    say(f"{path} ({about['minutes']:.1f} min)")


def _file(name: str, training: Training | None) -> str:
    """The result's name: trained studies of different tables must not overwrite each other."""
    if training is None:
        return name
    return f"{name}-{training.table}" if name == "ablation" else f"{name}-train"


def _training(name: str, parsed: argparse.Namespace) -> Training | None:
    if name == "ablation":
        table, variants = parsed.table, parsed.variants or parsed.guidance
        if parsed.guidance and table != "guidance":
            raise ConfigError(
                f"--guidance belongs to the table guidance, not to {table}",
                remedy="choose rows of another table by --variants",
            )
    elif name == "ksweep" and parsed.study != "all" and parsed.mode == "train":
        table, variants = "k", parsed.k
    else:
        return None
    known = TABLES[table]
    for variant in variants or ():
        if variant not in known:
            raise UnknownName(f"variant of the table {table}", variant, known)
    # In the table's order, the paper's own model first: differences then read "ours over theirs".
    chosen = tuple(name for name in known if not variants or name in variants)
    seeds, settings = tuple(dict.fromkeys(parsed.seeds)), tuple(parsed.set)
    return Training(table, chosen, seeds, parsed.runs, parsed.steps, settings)


def command(name: str, parsed: argparse.Namespace) -> str:
    """What makes this study's result again, without anything that names a machine."""
    return told("studies.vega", _parser().parse_args([name]), parsed, name)


def _real(parsed: argparse.Namespace) -> Path:
    return parsed.data or photos.default_folder()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.vega", description=__doc__)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, about in ABOUT.items():
        one = studies.add_parser(name, help=about, description=about)
        one.add_argument("--limit", type=positive, help="the first N expressions of each split")
        one.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        one.add_argument("--figures", type=Path, default=FIGURES, help="folder of the pictures")
        one.add_argument("--data", type=Path, help="folder of the real photographs")
        if name != "ablation":
            one.add_argument("--model", default="vega-scenes", help="bundled name or folder")
        if name == "ksweep":
            one.add_argument("--mode", choices=("inference", "train"), default="inference")
            one.add_argument("--k", nargs="+", metavar="PERCENT", help="with --mode train")
        if name == "ablation":
            one.add_argument("--table", choices=[t for t in TABLES if t != "k"], default="guidance")
            one.add_argument("--guidance", nargs="+", metavar="ROW", help="rows of Table 2")
            one.add_argument("--variants", nargs="+", metavar="ROW", help="rows of --table")
        if name in ("ablation", "ksweep"):
            _training_options(one)
    return parser


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=positive, help="of each run [the recipe's]")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of runs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run"
    )


if __name__ == "__main__":
    sys.exit(main())
