"""`log.jsonl`: one JSON object a line, each step once, also after crashes and resumes.

{"kind": "train", "step", "epoch", "lr", "loss": {...}, "samples_per_s", "seconds"}
{"kind": "eval", "step", "epoch", "metrics": {...}, "labels"}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refseg.errors import ConfigError
from refseg.ops.files import atomic_write_text, write_errors


class JsonLog:
    """Appends lines. Opening it drops what lies after `step`, and a line torn by a crash."""

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= step]
        atomic_write_text(path, "".join(_dump(line) for line in kept))

    def write(self, line: dict[str, Any]) -> None:
        """Append one object in a single write. Raises RunError when the disk refuses."""
        with write_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(_dump(line))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a torn line (no newline, or not JSON) is left out."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class TensorBoard:
    """The same numbers for tensorboard. Needs the extra `track`."""

    def __init__(self, folder: Path, *, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "train.tensorboard is on but tensorboard is not installed",
                remedy='pip install "refseg[track]" or set train.tensorboard=false',
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Write every number of a log line under its dotted name."""
        values = dict(line.get("loss", {})) or dict(line.get("metrics", {}))
        for name in ("lr", "samples_per_s"):
            if name in line:
                values[name] = line[name]
        for name, value in values.items():
            self._writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
