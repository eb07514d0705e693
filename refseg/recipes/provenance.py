"""What a run was made from and with: its recipe, its identity, and each of its starts."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import refseg
from refseg.errors import RunError
from refseg.ops.files import atomic_write_json
from refseg.recipes.base import Recipe
from refseg.train.config import TrainConfig


def identity(recipe: Recipe) -> dict[str, Any]:
    """What must stay the same for a run to be resumed: all but words, places and log settings."""
    whole = recipe.model_dump(mode="json", exclude={"promise": True, "data": {"images"}})
    whole["train"] = {
        key: value for key, value in whole["train"].items() if key not in TrainConfig.VOLATILE
    }
    return whole


def digest(value: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a JSON value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a run folder. Raises RunError naming what is wrong with the file."""
    try:
        return Recipe.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, ValidationError) as error:
        raise RunError(
            f"cannot read the recipe {path}: {error}",
            remedy="use the refseg version that wrote it, or give another --out",
        ) from error


def record_start(path: Path, *, processes: int) -> None:
    """Append this start of the run to `path`: command, versions, git commit, date."""
    starts = []
    if path.exists():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError):
            starts = []  # a torn record of the past must not stop a run
    start = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "refseg": refseg.__version__,
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": processes,
        **{name: _version(name) for name in ("torch", "transformers", "accelerate", "numpy")},
    }
    atomic_write_json(path, {"starts": [*starts, start]})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout the package runs from; None for an installed package."""
    root = Path(refseg.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
