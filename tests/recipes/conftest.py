"""What every test of a recipe's run shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from refseg.recipes.base import Recipe
from tests.recipes.mutual_small import small_recipe
from tests.worlds import WORLD_IMAGES


@pytest.fixture(scope="module", autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(cache: Path) -> Path:
    """The small rendered world's `scenes`."""
    return cache / f"scenes-v1-0-{WORLD_IMAGES}" / "scenes"


@pytest.fixture(scope="module")
def recipe(world: Path) -> Recipe:
    """Mutual supervision, small; modules about other recipes have a fixture of their own."""
    return small_recipe(world)
