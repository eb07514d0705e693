"""How far a run is: a live bar in a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal, Protocol, TextIO

ProgressMode = Literal["auto", "bar", "lines", "none"]


class Progress(Protocol):
    """What the loop reports to."""

    def step(self, done: int, loss: float | None, samples_per_s: float) -> None:
        """`done` steps are behind; loss is the last logged one."""

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""

    def close(self) -> None:
        """Leave the terminal tidy."""


def make_progress(
    mode: ProgressMode, total: int, start: int, stream: TextIO | None = None
) -> Progress:
    """A progress display on standard error, so that standard output stays for results."""
    stream = stream or sys.stderr
    if mode == "auto":
        mode = "bar" if stream.isatty() else "lines"
    if mode == "bar":
        return _Bar(total, start)
    return _Lines(total, start, stream) if mode == "lines" else _Silence()


class Counting:
    """A display that is told (done, of how many) and finds the rate itself; made on first use."""

    def __init__(self, mode: ProgressMode, about: str) -> None:
        self.mode, self.about = mode, about
        self.display: Progress | None = None
        self.first, self.began = 0, 0.0

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are behind."""
        if self.display is None:
            self.display = make_progress(self.mode, total, done)
            self.display.note(self.about)
            self.first, self.began = done, time.monotonic()
        spent = time.monotonic() - self.began
        self.display.step(done, None, (done - self.first) / spent if spent > 0 else 0.0)
        if done >= total:
            self.display.close()  # a terminal shows one bar at a time

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self.display is not None:
            self.display.close()


class _Silence:
    def step(self, done: int, loss: float | None, samples_per_s: float) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """A plain line every `every_s` seconds, for files and batch systems."""

    def __init__(
        self,
        total: int,
        start: int,
        stream: TextIO,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.stream, self.every_s, self.clock = total, stream, every_s, clock
        self.start, self.began = start, clock()
        self.spoken = self.began

    def step(self, done: int, loss: float | None, samples_per_s: float) -> None:
        now = self.clock()
        if now - self.spoken < self.every_s and done < self.total:
            return
        self.spoken = now
        left = (now - self.began) / max(1, done - self.start) * (self.total - done)
        told = "" if loss is None else f"  loss {loss:.4f}"
        self.note(f"step {done}/{self.total}{told}  {samples_per_s:.1f}/s  {duration(left)} left")

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def close(self) -> None: ...


class _Bar:
    """rich's live bar with loss, throughput and the time left."""

    def __init__(self, total: int, start: int) -> None:
        from rich import progress as bars
        from rich.console import Console

        self.bar = bars.Progress(
            bars.TextColumn("training"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[told]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("training", total=total, completed=start, told="")
        self.bar.start()

    def step(self, done: int, loss: float | None, samples_per_s: float) -> None:
        told = "" if loss is None else f"loss {loss:.4f}"
        self.bar.update(self.task, completed=done, told=f"{told} {samples_per_s:.1f}/s")

    def note(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self.bar.stop()


class Throughput:
    """Samples a second since the last reset; data loading included."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.rate = batch_size, 0.0
        self.reset()

    def reset(self) -> None:
        """Start counting anew (after an evaluation, which is no training time)."""
        self.since, self.steps = time.monotonic(), 0

    def tick(self) -> None:
        """One step is done."""
        self.steps += 1
        passed = time.monotonic() - self.since
        self.rate = self.steps * self.batch_size / max(passed, 1e-9)

    def read(self) -> float:
        """The rate up to now; then start anew."""
        rate = self.rate
        self.reset()
        return rate


def duration(seconds: float) -> str:
    """Seconds as 45s, 12m03s or 3h05m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
