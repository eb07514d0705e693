"""One attempt at a run that kills itself (kill -9) at a chosen place. Runs in a child process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from toy import Toy, ToyConfig, make_batch, toy_score

from refseg.ops import files
from refseg.train import checkpoint as ckpt
from refseg.train import log
from refseg.train.config import TrainConfig
from refseg.train.loader import TrainData
from refseg.train.loop import fit
from refseg.train.results import Evaluation
from refseg.types import Batch

CONFIG = TrainConfig(
    steps=40, batch_size=8, accumulate=2, lr=1e-2, clip_norm=0.5, ema=0.95, log_every=3,
    save_every=4, seed=11, cpu=True,
)  # fmt: skip


def attempt(folder: str, kill: tuple[str, int] | None, workers: int = 0) -> None:
    """Train in `folder`; kill = (place, how many times it is passed before the end)."""
    import torch

    torch.set_num_threads(1)
    make = make_batch
    if kill is not None:
        place, times = kill
        make = PLACES[place](times) or make_batch
    settings = CONFIG.model_copy(update={"workers": workers})
    evaluation = Evaluation(toy_score, "agreement", "text+mask")
    fit(
        Toy(ToyConfig(dropout=0.2)), TrainData(24, make), settings, Path(folder),
        evaluation=evaluation, progress="none",
    )  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    def __init__(self, times: int) -> None:
        self.left = times

    def over(self) -> bool:
        self.left -= 1
        return self.left < 0


def in_step(times: int) -> Any:
    """Between two micro-batches."""
    count = Countdown(times)

    def make(indices: list[int], epoch: int) -> Batch:
        if count.over():
            die()
        return make_batch(indices, epoch)

    return make


def in_save(times: int) -> None:
    """With half a weights file on the disk."""
    count, save = Countdown(times), ckpt.save_file

    def half(tensors: Any, path: Path, **options: Any) -> None:
        save(tensors, path, **options)
        if count.over():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    ckpt.save_file = half


def before_rename(times: int) -> None:
    """With everything written, under the temporary name."""
    count, replace = Countdown(times), files._replace

    def late(temp: Path, target: Path) -> None:
        if count.over():
            die()
        replace(temp, target)

    files._replace = late


def in_removal(times: int) -> None:
    """While an old checkpoint is being removed."""
    count, remove = Countdown(times), files._remove

    def half(path: Path) -> None:
        if path.is_dir() and count.over():
            next(path.iterdir()).unlink()
            die()
        remove(path)

    files._remove = half


def in_log(times: int) -> None:
    """With half a log line on the disk."""
    count, write = Countdown(times), log.JsonLog.write

    def half(self: log.JsonLog, line: dict[str, Any]) -> None:
        if count.over():
            with self.path.open("a") as stream:
                stream.write('{"kind": "train", "step":')
            die()
        write(self, line)

    log.JsonLog.write = half  # type: ignore[method-assign]


PLACES: dict[str, Any] = {
    "step": in_step,
    "save": in_save,
    "rename": before_rename,
    "removal": in_removal,
    "log": in_log,
}
