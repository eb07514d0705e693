"""The cache of the tests, and fakes in place of the models that write and judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg import written
from tests.evaluate import fakes


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.worlds import WORLD_IMAGES

    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))


@pytest.fixture
def fake_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "describe", fakes.describe)
    monkeypatch.setattr(written, "refer_back", fakes.refer_back)
