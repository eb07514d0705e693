"""What every test shares: no deadlines, one thread a process, and the real data if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.worlds import WORLD_IMAGES

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Toy tensors are too small for threads to pay; set before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the tests' own with a small rendered world in it."""
    from refseg.data.scenes.build import ensure_scenes

    folder = tmp_path_factory.mktemp("cache")
    ensure_scenes(folder, images=WORLD_IMAGES, workers=1)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data, beside the project or at $REFSEG_SHARED."""
    stated = os.environ.get("REFSEG_SHARED")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    for folder in (Path(stated), Path(stated) / "data") if stated else (beside,):
        if (folder / "refcoco_boxes").is_dir():
            return folder
    pytest.skip("no real data beside the project (../shared/data) or at $REFSEG_SHARED")
