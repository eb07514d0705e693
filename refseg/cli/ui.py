"""What the command line looks like: errors, tables, progress and JSON.

Standard output carries results alone; everything else (errors, progress, notes) goes to standard
error, so a pipe never sees it. Rich is imported inside functions to keep `--help` fast.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from refseg.errors import RefsegError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from typer import Typer

Tick = Callable[[int], None]

STATUS_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add(app: Typer, name: str, verb: Callable[..., None]) -> None:
    """Add a command; its help is the docstring."""
    app.command(name, help=help_of(verb))(verb)


def help_of(verb: Callable[..., None]) -> str:
    """The docstring, each paragraph on one line to be wrapped."""
    paragraphs = inspect.cleandoc(verb.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def stdout() -> Console:
    """A console for results. Made anew each time, so that a redirected stream is honoured."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """A console for everything that is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show_error(error: RefsegError) -> None:
    """The message in red and the remedy below it, on standard error, never wrapped."""
    from rich.text import Text

    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), (error.message, "red")), soft_wrap=True)
    if error.remedy:
        console.print(Text.assemble(("  -> ", "bold"), error.remedy), soft_wrap=True)


def note(text: str) -> None:
    """One calm line on standard error."""
    from rich.text import Text

    stderr().print(Text(text, style="dim"), soft_wrap=True)


def say(text: str = "") -> None:
    """One plain line on standard output."""
    from rich.text import Text

    stdout().print(Text(text), soft_wrap=True)


def warn(text: str) -> None:
    """One line on standard error that should not be overlooked."""
    from rich.text import Text

    stderr().print(Text(text, style="yellow"), soft_wrap=True)


def emit_json(value: Any) -> None:
    """Print one JSON value on standard output; NaN and infinity, unknown to JSON, become null."""
    json.dump(finite(value), sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def finite(value: Any) -> Any:
    """`value` with every float that is no number replaced by None, containers included."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


@contextlib.contextmanager
def results_only(active: bool) -> Iterator[None]:
    """While `active`, whatever a library prints goes to standard error instead of the results."""
    if not active:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def table(columns: Sequence[str], title: str = "") -> Table:
    """An empty table in the house style; a column named ">x" is "x" with its cells to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(title) if title else None,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
    )
    for name in columns:
        right = name.startswith(">")
        made.add_column(
            Text(name.removeprefix(">")),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    return made


def rows(made: Table, lines: Iterable[Sequence[object]]) -> Table:
    """Add `lines` to the table; every cell is shown as it is, never read as markup."""
    from rich.text import Text

    for line in lines:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in line))
    return made


def show(made: Table) -> None:
    """Print a table on standard output; wide ones are not squeezed when nobody is looking."""
    console = stdout()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    # A title of its own line: inside the table it would be broken at the table's width.
    title, made.title = made.title, None
    if title:
        console.print(title, style="bold", soft_wrap=True)
    console.print(made)


def percent(share: float | None) -> str:
    """0.7534 -> "75.3"; no number -> "-"."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.1f}"


def short(text: str, limit: int = 60) -> str:
    """`text` on one line and at most `limit` characters, the rest marked by an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Tick]:
    """A bar with the time left on standard error; yields a function that is told of each step.

    Where nobody watches (a log file), one line at every quarter takes the bar's place.
    """
    console = stderr()
    if not console.is_terminal:
        yield _quarters(title, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Left(compact=True),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)


def steps(tick: Tick) -> Callable[[int, int], None]:
    """For work that tells (done, total) instead of steps."""
    before = 0

    def told(done: int, total: int) -> None:
        nonlocal before
        tick(done - before)
        before = done

    return told


@contextlib.contextmanager
def progress_when_told(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar from the first (done, total) on that goes when all is done. title: {} is the total."""
    with contextlib.ExitStack() as stack:
        told: Callable[[int, int], None] | None = None

        def tell(done: int, total: int) -> None:
            nonlocal told
            if told is None:
                told = steps(stack.enter_context(progress(title.format(f"{total:,}"), total)))
            told(done, total)
            if done >= total:
                stack.close()  # a terminal shows one bar at a time

        yield tell


@contextlib.contextmanager
def progress_by_title() -> Iterator[Callable[[str, int, int], None]]:
    """For work in several parts, each told as (title, done, total): a bar for the present part."""
    with contextlib.ExitStack() as stack:
        now = ""
        told: Callable[[int, int], None] = lambda done, total: None  # noqa: E731

        def tell(title: str, done: int, total: int) -> None:
            nonlocal now, told
            if title != now:
                stack.close()
                now, told = title, steps(stack.enter_context(progress(title, total)))
            told(done, total)

        yield tell


def _quarters(title: str, total: int) -> Tick:
    start, done, said = time.perf_counter(), 0, 0

    def tick(steps: int) -> None:
        nonlocal done, said
        done += steps
        quarter = 4 * done // max(total, 1)
        if quarter > said:
            said = quarter
            spent = time.perf_counter() - start
            left = spent / max(done, 1) * (total - done)
            note(f"{title}: {done}/{total}, {spent:.0f} s, about {left:.0f} s left")

    return tick
