"""What the studies' commands share: their words, told again without what names a machine."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refseg import models
from refseg.errors import RefsegError
from studies.base import FIGURES, Outcome, model_identity, say, shown, write

#: The name of the model that was measured, and what was found; None: nothing to be written.
Studied = tuple[str | None, Outcome | None]

# They say where things lie and how far to go, not what was measured.
PLACES = ("out", "figures", "runs", "data", "folder", "only", "records")
#: Of these only the last part of a path is told; see `shown`.
NAMED = (
    "model", "models", "real", "photos", "judge", "run", "rec", "never", "pair", "vit", "text"
)  # fmt: skip


def carry_out(study: Callable[[], Studied], name: str, command: str, out: Path) -> int:
    """Run a study and write <out>/<name>.json, with the command that makes it again.

    Returns the exit status: 2 for bad input, which is told on standard error.
    """
    start = time.perf_counter()
    try:
        model, outcome = study()
        if outcome is None:
            return 0
        about: dict[str, Any] = {
            "command": command,
            "minutes": round((time.perf_counter() - start) / 60, 2),
            "model": None if model is None else model_identity(models.load(model), model),
        }
        say(f"{write(name, outcome, about, out, FIGURES)} ({about['minutes']:.1f} min)")
    except RefsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def told(module: str, own: argparse.Namespace, parsed: argparse.Namespace, study: str) -> str:
    """The command that makes a study's result again. own: what it is when nothing is asked."""
    words = ["python", "-m", module, study]
    for key, value in vars(own).items():
        given = getattr(parsed, key, value)
        if key == "study" or key in PLACES or given == value:
            continue
        words += _words(key, given if isinstance(given, list) else [given])
    return shlex.join(words)


def _words(key: str, given: Sequence[Any]) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if key in ("set", "dense_set"):
        return [word for one in given for word in (flag, str(one))]
    return [flag, *(shown(str(one)) if key in NAMED else str(one) for one in given)]


def training_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """What every study of trained variants is asked. folder: where runs are kept by default."""
    parser.add_argument("--folder", type=Path, default=Path(folder))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def positive(text: str) -> int:
    """An option's number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)
