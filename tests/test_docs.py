"""docs/cli.md is what the commands say of themselves, and every command is in it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from refseg.cli.docs import commands, reference

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
COMMANDS = list(commands())


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.parametrize("words", [words for words, _, _ in COMMANDS])
def test_every_command_is_on_the_page(words: str) -> None:
    assert f"\n## {words}\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "command"), [(words, c) for words, c, _ in COMMANDS])
def test_every_command_and_option_explains_itself(words: str, command: object) -> None:
    assert inspect.cleandoc(getattr(command, "help", None) or "")
    for parameter in getattr(command, "params", []):
        assert getattr(parameter, "help", None), f"{words}: {parameter.name} has no help"


def test_the_commands_of_the_issue_are_there() -> None:
    verbs = {words.split()[1] for words, _, _ in COMMANDS if " " in words}
    asked = {"predict", "eval", "train", "data", "report", "models", "profile", "doctor", "demo"}
    assert asked <= verbs
    assert {"refseg data make", "refseg data info", "refseg data check"} <= {
        w for w, _, _ in COMMANDS
    }
