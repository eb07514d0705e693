"""A small rendered world, a toy teacher in a folder, and a writer of expressions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from refseg.cli.main import app
from refseg.models import save
from tests.label import fakes
from tests.methods.toy import toy_model
from tests.worlds import WORLD_IMAGES


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy model."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    model = toy_model("vega")
    model.card = {"labels used": "text+mask"}
    save(folder, model)
    return folder


@pytest.fixture(autouse=True)
def sandbox(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder with the small world."""
    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def world(cache: Path) -> Path:
    """The folder of the small world."""
    return cache / f"scenes-v1-0-{WORLD_IMAGES}"


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy method can write expressions (see `fakes.describe`)."""
    fakes.install(monkeypatch.setattr)


@pytest.fixture
def run() -> Callable[..., Result]:
    """run("label", ...) -> result with exit_code, stdout, stderr. No exception may escape."""

    def call(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
