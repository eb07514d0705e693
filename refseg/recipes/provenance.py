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
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import refseg
from refseg.errors import RunError
from refseg.ops.files import atomic_write_json
from refseg.recipes.base import Recipe
from refseg.train.checkpoint import check_identity
from refseg.train.config import TrainConfig

R = TypeVar("R", bound=BaseModel)


def identity(recipe: BaseModel) -> dict[str, Any]:
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
    return _read(path, Recipe)


def claim(recipe: BaseModel, run_dir: Path, *, resume: bool = True) -> None:
    """Refuse a folder that holds something else. Raises RunError."""
    path = run_dir / "recipe.json"
    if not path.exists():
        if run_dir.is_dir() and any(not p.name.startswith(".") for p in run_dir.iterdir()):
            raise RunError(
                f"{run_dir} is not empty and no run of refseg", remedy="give another --out"
            )
        return
    if not resume:
        raise RunError(f"{run_dir} holds a run", remedy="resume it, or give another --out")
    check_identity(identity(_read(path, type(recipe))), identity(recipe), run_dir)


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
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
