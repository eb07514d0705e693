"""The command `refseg`: one file per verb beside this one, errors and exit codes here.

Exit codes: 0 done; 1 a check found something wrong; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from refseg import __version__
from refseg.cli import (
    data,
    demo,
    describe,
    doctor,
    evaluate,
    label,
    models,
    predict,
    profile,
    propose,
    report,
    train,
    ui,
)
from refseg.errors import RefsegError

HELP = """Segment what words point at: an image and an expression go in, a mask comes out.

Start with `refseg demo`, or with your own picture:

  refseg predict photo.jpg "the cup left of the laptop"

Results are printed on standard output, everything else on standard error.
Exit codes: 0 done, 1 a check found something wrong, 2 bad input."""

FILE_TROUBLE = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long",
}


class Group(TyperGroup):
    """Turns what a person can act on into a short message and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command; see the module's exit codes."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except RefsegError as error:
            ui.show_error(error)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            ui.note("interrupted")
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            _forget_stdout()
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno not in FILE_TROUBLE:
                raise
            ui.show_error(_file_error(error))
            raise typer.Exit(2) from error
        return result


app = typer.Typer(
    name="refseg",
    help=HELP,
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ui.add(app, "predict", predict.predict)
ui.add(app, "describe", describe.describe)
ui.add(app, "propose", propose.propose)
ui.add(app, "eval", evaluate.evaluate)
ui.add(app, "train", train.train)
app.add_typer(data.app, name="data")
ui.add(app, "label", label.label)
ui.add(app, "report", report.report)
app.add_typer(models.app, name="models")
ui.add(app, "profile", profile.profile)
ui.add(app, "doctor", doctor.doctor)
ui.add(app, "demo", demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"refseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Libraries below print advice for programmers; a person at the command line needs none of it.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Entry point of the `refseg` command."""
    app()


def _file_error(error: OSError) -> RefsegError:
    reason = FILE_TROUBLE[error.errno or 0]
    return RefsegError(
        f'cannot use "{error.filename or "a file"}": {reason}', remedy="choose or free another path"
    )


def _forget_stdout() -> None:
    """The reader has gone: keep the interpreter from complaining when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # a captured stream has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
