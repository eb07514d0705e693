"""What a benchmark measured, for people or for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Told = Mapping[str, Any]


def hand_over(told: Told, show: Callable[[Any], None], path: str | None) -> None:
    """`show` it, and write it as one object to the file `path`, if any; "-": print that alone."""
    if path == "-":
        print(json.dumps(told))
        return
    show(told)
    if path:
        Path(path).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
