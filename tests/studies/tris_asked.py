"""What the tests of the studies of TRIS ask: two steps each, from a pair of two steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from studies import tris_runs
from studies.tris_runs import Asked
from tests.recipes.tris_small import small_pair, small_tris
from tests.studies.test_studies import TOY_RUN


@contextmanager
def small_asked(folder: Path) -> Iterator[Asked]:
    """Inside the block the studies' recipes are small and learn from the small world."""
    pair = run_encoder(small_pair(Path("scenes")), folder / "pair", progress="none")

    def small(name: str) -> Recipe:
        if name.startswith("tris"):
            return small_tris(Path("scenes"), pair, name=name)
        return apply_overrides(get_recipe(name), TOY_RUN)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tris_runs, "get_recipe", small)
        yield Asked(folder / "runs", str(pair), limit=6)
