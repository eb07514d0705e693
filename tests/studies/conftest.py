"""A small world and a toy model, which the studies are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from refseg import models
from tests.methods.toy import toy_model
from tests.worlds import WORLD_IMAGES


@pytest.fixture(scope="module")
def small_world(cache: Path) -> Iterator[None]:
    """One thread, and the small world in place of the usual one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(cache))
        patch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model in a folder; untrained, but with words and selections of its own."""
    model = toy_model("vega")
    model.card = {"labels used": "text+mask", "recipe": "toy", "steps": 7, "seed": 3}
    folder = tmp_path_factory.mktemp("models") / "toy"
    models.save(folder, model)
    return folder
