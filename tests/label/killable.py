"""A start of a labelling job that kills itself (kill -9) at a chosen write. For a child process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from refseg.label import LabelOptions, label
from refseg.ops import files
from tests.label import fakes


def attempt(told: dict[str, Any], passed: int | None, torn: bool) -> None:
    """Label in this process; with `passed`, die at the write after so many whole ones.

    torn: with half of the file under its temporary name, else with all of it.
    """
    fakes.install(setattr)
    if passed is not None:
        _die_after(passed, torn)
    label(LabelOptions.from_json(told), workers=1)


def _die_after(passed: int, torn: bool) -> None:
    left, replace = passed, files._replace

    def late(temp: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            if torn:
                os.truncate(temp, temp.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(temp, target)

    files._replace = late
