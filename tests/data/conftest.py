"""Every test here has a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "refseg-cache"
    monkeypatch.setenv("REFSEG_CACHE", str(folder))
    return folder
