"""What a run was made from and with: its recipe, its identity, and each of its starts."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import refseg
from refseg.errors import RunError
from refseg.ops.files import atomic_write_json, atomic_write_text
from refseg.recipes.base import Recipe
from refseg.recipes.encoders import EncoderRecipe
from refseg.recipes.overrides import reasons
from refseg.train.checkpoint import check_identity
from refseg.train.config import TrainConfig

R = TypeVar("R", bound=BaseModel)


#: Groups of a recipe that only some stages read.
_READ_BY = {
    "disambiguation": ("disambiguate", "disambiguate_again"),
    "pseudo": ("label", "retrain"),
    "partial": ("rec", "res", "pseudo", "res_pseudo"),
    "tris": ("respond", "select", "edges", "refine", "segment"),
}
#: Keys under which a recipe or a stage keeps how it trains.
_TRAININGS = ("train", "rec")
#: Settings that came later, group -> key -> the value that says what was so before: left out, so
#: that a run which began before them is still the same run.
_LATER: dict[str, dict[str, Any]] = {
    "data": {"also": [], "mask_share": None, "mask_seed": 0, "mask_refs": None, "negatives": 0},
    "augment": {"scale": None},  # within data
    "pseudo": {"source": None},
    "weights": {"rec": None, "calibrator": None, "edges": None, "respond": None},
}
#: Groups of an encoder's recipe that came later -> the one kind that reads them.
_OF_KIND = {"pair": "pairs", "captions": "pairs", "vit": "attributes"}


def identity(recipe: BaseModel) -> dict[str, Any]:
    """What must stay the same for a run to be resumed: all but words, places and log settings,
    and but the groups that none of its stages reads.
    """
    places = {"data": {"images"}, "pseudo": {"images"}}
    whole = recipe.model_dump(mode="json", exclude={"promise": True, **places})
    for name, readers in _READ_BY.items():
        if name in whole and not set(readers) & set(whole["stages"]):
            del whole[name]
    stages = [part for part in whole.values() if isinstance(part, dict)]
    for group in (whole, *stages):  # a stage may have a training of its own
        for name in _TRAININGS:
            if isinstance(group.get(name), dict):
                kept = group[name].items()
                group[name] = {k: v for k, v in kept if k not in TrainConfig.VOLATILE}
                _drop(group[name], TrainConfig.LATER)
    data = whole.get("data")
    groups = {**whole, "augment": data.get("augment") if isinstance(data, dict) else None}
    for name, values in _LATER.items():
        if isinstance(groups.get(name), dict):
            _drop(groups[name], values)
    for name in ("partial", "tris"):
        if whole.get(name, whole) is None:
            del whole[name]
    for name, kind in _OF_KIND.items():
        if whole.get("kind") != kind:
            whole.pop(name, None)
    return whole


def _drop(group: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Take out of `group` the keys that have these values."""
    for key, value in values.items():
        if key in group and group[key] == value:
            del group[key]


def digest(value: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a JSON value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path) -> Recipe | EncoderRecipe:
    """The recipe in a run folder. Raises RunError naming what is wrong with the file."""
    value = _read_json(path)
    is_encoder = isinstance(value, dict) and "kind" in value and "method_name" not in value
    return _parse(value, path, EncoderRecipe) if is_encoder else _parse(value, path, Recipe)


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
    held = read_recipe(path)
    if type(held) is not type(recipe):
        raise RunError(
            f"{run_dir} holds a run of another kind, of the recipe {held.name}",
            remedy="give another --out",
        )
    check_identity(identity(held), identity(recipe), run_dir)


def settle(recipe: BaseModel, run_dir: Path, *, processes: int | None) -> None:
    """Make `run_dir` this run's: its recipe, and unless `processes` is None a start of it.

    A first start that cannot write leaves nothing behind, not even the folders it made.
    """
    files = [run_dir / "recipe.json", run_dir / "provenance.json"]
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    first = not files[0].exists()
    try:
        atomic_write_text(files[0], recipe.model_dump_json(indent=2) + "\n")
        if processes is not None:
            record_start(files[1], processes=processes)
    except BaseException:
        for file in files if first else ():
            file.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _unreadable(path, str(error)) from error


def _parse(value: Any, path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate(value)
    except KeyError as error:
        raise _unreadable(path, f"{error} is missing") from None
    except ValidationError as error:
        raise _unreadable(path, reasons(error, places=True)) from None


def _unreadable(path: Path, why: str) -> RunError:
    return RunError(
        f"cannot read the recipe {path}: {why}",
        remedy="use the refseg version that wrote it, or give another --out",
    )


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
