"""Every test here has a cache of its own; real data is optional."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "refseg-cache"
    monkeypatch.setenv("REFSEG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data, beside the project or at $REFSEG_SHARED."""
    stated = os.environ.get("REFSEG_SHARED")
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    for folder in (Path(stated), Path(stated) / "data") if stated else (beside,):
        if (folder / "refcoco_boxes").is_dir():
            return folder
    pytest.skip("no real data beside the project (../shared/data) or at $REFSEG_SHARED")
