"""The command as a whole: start-up, help, exit codes, what goes to which stream."""

from __future__ import annotations

import errno
import json
import math
import resource
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from refseg import __version__
from refseg.cli import ui
from refseg.cli.main import Group, app
from refseg.errors import DataError
from tests.cli.conftest import Run, refused, subprocess_env

HEAVY = ("torch", "transformers", "cv2", "matplotlib", "pyarrow", "numpy", "accelerate", "scipy")


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=subprocess_env(), check=False
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from refseg.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = python("-c", code)
    assert "predict" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_is_quick() -> None:
    """About 0.2 s of processor time, which does not depend on how busy the machine is."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "refseg.cli", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.6


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = python("-c", f"import refseg, sys; print(set({HEAVY!r}) & set(sys.modules))")
    assert done.stdout.strip() == "set()"


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"refseg {__version__}\n"


def test_a_mistyped_command_offers_the_nearest(run: Run) -> None:
    result = run("predct", "a.png", "cup")
    assert result.exit_code == 2
    assert "predict" in result.stderr


@pytest.mark.parametrize("words", [(), ("data",)])
def test_without_a_command_help_is_shown(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert "Commands" in result.output


def failing(error: BaseException) -> typer.Typer:
    broken = typer.Typer(cls=Group)

    @broken.command()
    def verb() -> None:
        raise error

    @broken.command()
    def other() -> None:
        return None

    return broken


def test_errors_of_ours_are_short_and_exit_with_two() -> None:
    error = DataError("refs.p [bold]ends early[/bold]", remedy="copy it again")
    result = CliRunner().invoke(failing(error), ["verb"])
    refused(result, "error: refs.p [bold]ends early[/bold]", "-> copy it again")


def test_bugs_keep_their_traceback() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("a bug")), ["verb"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_interrupt_is_quiet() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["verb"])
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "no space"), (errno.EROFS, "read-only")]
)
def test_trouble_with_files_is_told(number: int, told: str) -> None:
    result = CliRunner().invoke(failing(OSError(number, "x", "/full/mask.png")), ["verb"])
    refused(result, "/full/mask.png", told)


def test_other_system_errors_are_bugs() -> None:
    result = CliRunner().invoke(failing(OSError(errno.EBADF, "bad descriptor")), ["verb"])
    assert isinstance(result.exception, OSError)


def test_a_reader_that_went_away_is_no_news() -> None:
    command = f"{sys.executable} -m refseg.cli train vega_scenes --dry-run | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=subprocess_env(), check=False
    )
    assert done.stdout == "{"
    assert done.stderr == ""


def test_no_json_value_is_lost_or_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    ui.emit_json({"a": [math.nan, 1.5, {"b": math.inf}], "c": "ü", "d": None, "e": (1, True)})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {
        "a": [None, 1.5, {"b": None}],
        "c": "ü",
        "d": None,
        "e": [1, True],
    }
    assert printed.count("\n") == 1


def test_prints_of_libraries_leave_the_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.results_only(True):
        print("noise")
    with ui.results_only(False):
        print("result")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("result\n", "noise\n")


def test_cells_are_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    ui.show(ui.rows(ui.table(["expression", ">n"], "a [b] title"), [("[red]cup[/red]", 3)]))
    printed = capsys.readouterr().out
    assert "[red]cup[/red]" in printed
    assert "a [b] title" in printed


def test_progress_tells_quarters_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress("work", 8) as tick:
        for _ in range(8):
            tick(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"work: {n}/8" for n in (2, 4, 6, 8)]


def test_progress_by_title_counts_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress_by_title() as told:
        for title in ("images", "masks"):
            for done in (1, 2):
                told(title, done, 2)
    starts = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert starts == ["images: 1/2", "images: 2/2", "masks: 1/2", "masks: 2/2"]


@pytest.mark.parametrize(
    ("share", "told"), [(0.7534, "75.3"), (1.0, "100.0"), (None, "-"), (math.nan, "-")]
)
def test_percent(share: float | None, told: str) -> None:
    assert ui.percent(share) == told


def test_short_keeps_one_line() -> None:
    assert ui.short("a\nb  c") == "a b c"
    assert ui.short("x" * 100, 10) == "x" * 9 + "…"


def test_the_app_shows_no_traceback_boxes() -> None:
    assert app.pretty_exceptions_enable is False
