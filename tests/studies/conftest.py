"""A small world and a toy model, which the studies are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from refseg import models
from refseg.data.scenes.build import ensure_scenes
from tests.methods.toy import toy_model

WORLD_IMAGES = 28  # of which two each are val, testA, testB


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the session's own with a small world in it."""
    cache = tmp_path_factory.mktemp("cache")
    ensure_scenes(cache, images=WORLD_IMAGES, workers=1)
    return cache


@pytest.fixture(scope="module")
def small_world(world: Path) -> Iterator[None]:
    """One thread, and the small world in place of the usual one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(world))
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
