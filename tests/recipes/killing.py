"""Runs that are killed on their way, and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from refseg.recipes.base import Recipe
from refseg.recipes.runner import RunResult, run_recipe

#: Whose call, what is called, how many calls succeed, the stage that it dies in (None: after all).
Death = tuple[Any, str, int, str | None]


def again(recipe: Recipe, folder: Path) -> RunResult:
    return run_recipe(recipe, folder, progress="none")


class Killed(BaseException):
    """As Ctrl-C: nothing catches it."""


def fail_after(count: int, call: Callable[..., Any]) -> Callable[..., Any]:
    left = count

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return call(*given, **named)

    return counted


def die_in_turn(
    recipe: Recipe, folder: Path, deaths: Sequence[Death], stages: Sequence[str]
) -> None:
    """Start the run once for each death; what was finished before stays, and nothing is published.

    At last it ends, with all stages told to be there already.
    """
    for owner, name, count, stage in deaths:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, fail_after(count, getattr(owner, name)))
            with pytest.raises(Killed):
                again(recipe, folder)
        for place, one in enumerate(stages):
            done = stage is None or place < stages.index(stage)
            assert (folder / one / "manifest.json").exists() == done
        assert not (folder / "model").exists()
    assert again(recipe, folder).skipped == tuple(stages)
