"""Stages of a run: each leaves a folder, finished when its `manifest.json` is there.

    RUN/recipe.json  RUN/provenance.json  RUN/<stage>/...  RUN/<stage>/manifest.json

A finished stage is skipped, an interrupted one goes on from what its folder holds. A manifest
says what went in (hashes), what came out (hashes), the code's version, and the labels used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import refseg
from refseg.errors import RunError
from refseg.ops.files import atomic_path, atomic_write_json, sha256_file

#: Weights that may lie in a folder of OpenCLIP's, whose file has a name of its own, and what is
#: added to the key of such a file's hash.
OPEN_CLIP_PARTS = tuple(
    f"weights.{part}" for part in ("vision", "text", "calibrator", "edges", "respond")
)
OPEN_CLIP_KEY = ".open_clip"
#: Inputs that earlier manifests lack, and that are unknown where the weights have since gone:
#: compared where both sides name them. Which weights are meant is part of the recipe, always
#: compared.
ADDED = frozenset(
    {
        "weights.model",
        "weights.proposals",
        "weights.rec",
        *OPEN_CLIP_PARTS,
        *(f"{part}{OPEN_CLIP_KEY}" for part in OPEN_CLIP_PARTS),
        "tokens.source",
        "captions",
        "refs",
        "source",
    }
)


@dataclass(frozen=True)
class Stage:
    """name: its folder. inputs: name -> hash. labels: what it may see.

    run(folder): does the work in every process; returns the files that matter, below the folder.
    prepare(): raises what would stop `run` at once, and writes nothing. It is called for the
    stage that a start begins with, before the run's folder is claimed.
    """

    name: str
    inputs: Mapping[str, str]
    labels: str
    run: Callable[[Path], Sequence[Path]]
    prepare: Callable[[], object] | None = None


def begun(stage: Stage, *, main: bool, barrier: Callable[[], None]) -> Stage:
    """The stage, which keeps its inputs in its folder and refuses to go on with what an interrupted
    start has made of others: RunError.
    """

    def run(folder: Path) -> Sequence[Path]:
        path = folder / "inputs.json"
        held = _read_inputs(path) if path.exists() else None
        barrier()  # everybody has looked before anybody writes
        if held is not None:
            _check_inputs(stage, {"inputs": held}, folder, "was begun with")
        if main:
            atomic_write_json(path, dict(stage.inputs))
        return stage.run(folder)

    return replace(stage, run=run)


def _read_inputs(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"broken {path}: {error}", remedy=f"delete {path.parent} to redo the stage"
        ) from error


def run_stage(stage: Stage, run_dir: Path, *, main: bool, barrier: Callable[[], None]) -> bool:
    """Run `stage` unless it is finished; True if it ran. Every process calls this.

    Raises RunError when the finished stage was made from other inputs or its files have changed.
    """
    folder = run_dir / stage.name
    finished = read_manifest(folder)
    barrier()  # everybody has looked before anybody writes
    if finished is not None:
        _check_inputs(stage, finished, folder)
        _check_outputs(finished, folder)
        return False
    outputs = stage.run(folder)
    if main:
        atomic_write_json(folder / "manifest.json", _manifest(stage, folder, outputs))
    barrier()
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None. Raises RunError when it is broken."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not {"inputs", "outputs", "labels"} <= manifest.keys():
            raise ValueError("inputs, outputs or labels are not in it")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"broken {path}: {error}", remedy=f"delete {path} to redo it") from error
    return dict(manifest)


def publish(source: Path, target: Path) -> None:
    """The last stage's model as `target`; files are linked where the disk can, else copied."""
    files = sorted(source.iterdir())
    if target.is_dir() and all(
        _same(path, target / path.name) for path in files if path.name != "README.md"
    ):
        return
    with atomic_path(target) as temp:
        temp.mkdir()
        for path in files:
            try:
                os.link(path, temp / path.name)
            except OSError:
                shutil.copy2(path, temp / path.name)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and sha256_file(one) == sha256_file(other)


def _manifest(stage: Stage, folder: Path, outputs: Sequence[Path]) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "refseg": refseg.__version__,
        "labels": stage.labels,
        "inputs": dict(stage.inputs),
        "outputs": {path.relative_to(folder).as_posix(): sha256_file(path) for path in outputs},
    }


def _check_inputs(
    stage: Stage, finished: Mapping[str, Any], folder: Path, told: str = "was made from"
) -> None:
    was, now = finished["inputs"], stage.inputs
    names = {*was, *now} - (ADDED - (was.keys() & now.keys()))
    changed = [name for name in sorted(names) if was.get(name) != now.get(name)]
    if changed:
        raise RunError(
            f"stage {stage.name} in {folder} {told} other inputs: {', '.join(changed)}",
            remedy=f"delete {folder} to redo the stage, or give another --out",
        )


def _check_outputs(finished: Mapping[str, Any], folder: Path) -> None:
    for name, digest in finished["outputs"].items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != digest:
            raise RunError(
                f"{path} is missing or was changed after its stage had finished",
                remedy=f"delete {folder}/manifest.json to redo the stage",
            )
