"""What the tests of the studies of Shatter and Gather ask: two steps each, from encoders of two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refseg.recipes.base import Recipe
from refseg.recipes.catalog import get_recipe
from refseg.recipes.overrides import apply_overrides
from refseg.recipes.pretrain import run_encoder
from studies import sag_runs
from studies.sag_runs import Asked
from tests.recipes.sag_small import small_bert, small_sag, small_vit
from tests.studies.test_studies import TOY_RUN


@contextmanager
def small_asked(folder: Path) -> Iterator[Asked]:
    """Inside the block the studies' recipes are small and learn from the small world."""
    world = Path("scenes")
    vit = run_encoder(small_vit(world), folder / "vit", progress="none")
    bert = run_encoder(small_bert(world), folder / "bert", progress="none")

    def small(name: str) -> Recipe:
        if name.startswith("sag"):
            return small_sag(world, vit, bert)
        return apply_overrides(get_recipe(name), TOY_RUN)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sag_runs, "get_recipe", small)
        yield Asked(folder / "runs", str(vit), str(bert))
