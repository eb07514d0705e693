"""Checkpoints: folders `step-00000100` that are whole or absent, the last few kept.

    model.safetensors      weights        optimizer.safetensors  AdamW's moments
    ema.safetensors        if averaged    state.json             step, seconds, sums, identity

`best.safetensors` is one file beside them; its header says which metric of which labels chose it.
No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from refseg.errors import RunError
from refseg.ops.files import atomic_path, clean_leftovers, remove_folder, write_errors


@dataclass(frozen=True)
class State:
    """What a checkpoint knows besides tensors.

    step: optimiser steps done. seconds: training time so far. sums, summed: the loss terms since
    the last log line, so that the log too goes on as if nothing had happened. identity: what the
    run was started with.
    """

    step: int
    seconds: float = 0.0
    sums: Mapping[str, float] = field(default_factory=dict)
    summed: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The best evaluated weights so far.

    metric, value: what they were chosen by. metrics: all scores at that step. labels: what the
    choice was allowed to see.
    """

    metric: str
    value: float
    step: int
    labels: str
    metrics: Mapping[str, float]
    path: Path


@dataclass(frozen=True)
class Checkpoint:
    """A read checkpoint. tensors: "model", "optimizer" and maybe "ema" -> name -> tensor."""

    path: Path
    state: State
    tensors: dict[str, dict[str, Tensor]]


def save_checkpoint(
    folder: Path, state: State, tensors: Mapping[str, Mapping[str, Tensor]], *, keep_last: int
) -> Path:
    """Write `folder/step-N` and remove all but the last `keep_last`. Raises RunError."""
    for part in ("model", "ema"):
        for name, tensor in tensors.get(part, {}).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise RunError(
                    f"weight {name} is not finite after step {state.step}; nothing was saved",
                    remedy="lower train.lr, set train.clip_norm, or use train.precision=fp32",
                )
    target = folder / f"step-{state.step:08d}"
    with atomic_path(target) as temp:
        temp.mkdir()
        for part, values in tensors.items():
            save_file(dict(values), temp / f"{part}.safetensors")
        (temp / "state.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    for old in checkpoints(folder)[:-keep_last]:
        remove_folder(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. What a crash left half-written is not among them."""
    return sorted(p for p in folder.glob("step-" + "[0-9]" * 8) if p.is_dir())


def load_last(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, or None; half-written ones are removed. Raises RunError if broken."""
    clean_leftovers(folder)
    found = checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    try:
        state = State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
        tensors = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
        if not {"model", "optimizer"} <= tensors.keys():
            raise FileNotFoundError("model.safetensors or optimizer.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        earlier = "the checkpoint before it" if len(found) > 1 else "the beginning"
        raise RunError(
            f"checkpoint {path} cannot be read: {error}",
            remedy=f"delete that folder to go on from {earlier}",
        ) from error
    return Checkpoint(path, state, tensors)


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path) -> None:
    """Raise RunError naming every key in which the run's recipe differs from the present one."""
    before, after = flatten(saved), flatten(now)
    absent = "(absent)"
    changed = [
        f"{key}: {before.get(key, absent)!r} in the run, {after.get(key, absent)!r} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]
    if changed:
        raise RunError(
            f"{run_dir} was started with another recipe:\n  " + "\n  ".join(changed),
            remedy="give the same settings to go on with it, or another --out for a new run",
        )


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; other values by their JSON meaning (tuples are lists)."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat.update(flatten(entry, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(entry))
    return flat


def save_best(best: Best, weights: Mapping[str, Tensor]) -> None:
    """Write the weights and what chose them as one file. Raises RunError."""
    told = {name: value for name, value in asdict(best).items() if name != "path"}
    with atomic_path(best.path) as temp:
        # One entry: safetensors writes several in any order, and equal runs give equal files.
        save_file(dict(weights), temp, metadata={"best": json.dumps(told)})


def read_best(path: Path) -> Best | None:
    """What `path` says about itself, or None if there is no such file. Raises RunError."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stream:
            told = json.loads(stream.metadata()["best"])
        return Best(**told, path=path)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}", remedy="delete it") from error


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents. Raises RunError when that is impossible."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
