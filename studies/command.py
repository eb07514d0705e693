"""What the studies' commands share: their words, told again without what names a machine."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# They say where things lie and how far to go, not what was measured.
PLACES = ("out", "figures", "runs", "data", "folder", "only", "records")
#: Of these only the last part of a path is told.
NAMED = ("model", "real", "judge", "run", "never")


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
    if key == "set":
        return [word for one in given for word in (flag, str(one))]
    return [flag, *(Path(one).name if key in NAMED else str(one) for one in given)]


def positive(text: str) -> int:
    """An option's number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)
