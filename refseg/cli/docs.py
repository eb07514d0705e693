"""`python -m refseg.cli.docs` writes docs/cli.md from the commands' own help.

A test compares the file with what `reference` returns, so the page cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from refseg.cli.main import app

WIDTH = 92
HEAD = """# The command line

Written by `make docs` from `refseg COMMAND --help`; do not edit. Exit codes: 0 done, 1 a check
found something wrong, 2 bad input (the message says what and what to do), 130 interrupted.
"""


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Every command that can be typed: its words, the command, its parent's context."""
    yield from _walk("refseg", typer.main.get_command(app), None)


def reference() -> str:
    """The page docs/cli.md."""
    return HEAD + "".join(
        f"\n## {words}\n\n```text\n{help_text(words, command, parent)}\n```\n"
        for words, command, parent in commands()
    )


def help_text(words: str, command: Any, parent: Any) -> str:
    """A command's help as plain text, the same on every terminal."""
    context = command.context_class(command, info_name=words.split()[-1], parent=parent)
    context.terminal_width = WIDTH
    # Without a markup mode the help is laid out as text instead of boxes.
    command.rich_markup_mode = None
    return "\n".join(line.rstrip() for line in context.get_help().strip().splitlines())


def _walk(words: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    yield words, command, parent
    context = command.context_class(command, info_name=words.split()[-1], parent=parent)
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(f"{words} {name}", child, context)


def main() -> None:
    """Write docs/cli.md beside the package."""
    target = Path(__file__).parents[2] / "docs" / "cli.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
