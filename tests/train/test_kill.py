"""Kill -9 anywhere, start again: the bits of a run left alone."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from killable import CONFIG, attempt

from refseg.train.checkpoint import checkpoints
from refseg.train.log import read_log

pytestmark = pytest.mark.slow

# (place, times it is passed unharmed); each attempt starts from what the one before left.
KILLS = [
    ("step", 0), ("save", 0), ("log", 2), ("step", 13), ("save", 4), ("rename", 3), ("removal", 0),
    ("log", 4), ("step", 11), ("removal", 1), ("save", 2), ("rename", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def processes() -> Any:
    """Children forked from a server that has imported torch once and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refseg.train.loop"])
    return context


@pytest.fixture(scope="module")
def alone(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert start(processes, folder, None) == 0
    return folder


def start(processes: Any, folder: Path, kill: tuple[str, int] | None, workers: int = 0) -> int:
    child = processes.Process(target=attempt, args=(str(folder), kill, workers))
    child.start()
    child.join(120)
    return int(child.exitcode)


def compare(folder: Path, alone: Path) -> None:
    last = f"checkpoints/step-{CONFIG.steps:08d}"
    files = [f"{last}/{name}.safetensors" for name in ("model", "ema", "optimizer")]
    for file in [*files, "best.safetensors"]:
        assert (folder / file).read_bytes() == (alone / file).read_bytes(), file
    assert lines(folder) == lines(alone)
    assert [p.name for p in checkpoints(folder / "checkpoints")] == [
        p.name for p in checkpoints(alone / "checkpoints")
    ]
    left = {p.name for p in (*folder.iterdir(), *(folder / "checkpoints").iterdir())}
    assert not {name for name in left if name.endswith(".tmp")}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log without its clock."""
    clock = ("seconds", "samples_per_s")
    return [
        {k: v for k, v in line.items() if k not in clock} for line in read_log(folder / "log.jsonl")
    ]


def test_killed_at_many_places_in_a_row(processes: Any, alone: Path, tmp_path: Path) -> None:
    for kill in KILLS:
        assert start(processes, tmp_path, kill) == -signal.SIGKILL, kill
    assert start(processes, tmp_path, None) == 0
    compare(tmp_path, alone)


def test_killed_at_random_times_with_workers(processes: Any, alone: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    for _ in range(3):
        child = processes.Process(target=attempt, args=(str(tmp_path), None, 2))
        child.start()
        time.sleep(rng.uniform(0.1, 0.8))
        child.kill()
        child.join(120)
    assert start(processes, tmp_path, None, workers=1) == 0
    compare(tmp_path, alone)
