"""The cache of the tests, and fakes in place of the models that write and judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from refseg import evaluate_text, written
from tests.evaluate import fakes


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.worlds import WORLD_IMAGES

    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java takes seconds to start, for every single score."""
    monkeypatch.setattr(evaluate_text, "why_no_meteor", lambda: "java is not wanted in tests")


@pytest.fixture
def fake_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "describe", fakes.describe)
    monkeypatch.setattr(written, "refer_back", fakes.refer_back)
