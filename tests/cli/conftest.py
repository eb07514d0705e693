"""A tiny rendered world, a toy model in a folder, and a way to run the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from refseg import models, predict
from refseg.cli.main import app
from refseg.models import save
from tests.methods.toy import drawn_scene, toy_model
from tests.worlds import WORLD_IMAGES

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundled models with one toy in it, which is the default."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = toy_model("vega")
    model.card = {
        "labels used": "text+mask",
        "data": "toys",
        "parameters": 12345,
        "metrics": {"mIoU": 0.5},
    }
    save(folder / "vega-scenes", model)
    return folder


@pytest.fixture(autouse=True)
def sandbox(cache: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder, with the small world and the toy as bundled model."""
    monkeypatch.setenv("REFSEG_CACHE", str(cache))
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(models, "BUNDLED", bundle)
    monkeypatch.setattr(predict, "default_model", lambda: "vega-scenes")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def toy_folder(bundle: Path) -> Path:
    return bundle / "vega-scenes"


@pytest.fixture
def photo(sandbox: Path) -> Path:
    """A drawn picture with two things in it, beside the test."""
    path = sandbox.parent / "photo.png"
    Image.fromarray(drawn_scene(0, (48, 80))[0][1]).save(path)
    return path


@pytest.fixture
def run() -> Run:
    """run("predict", ...) -> result with exit_code, stdout, stderr. No exception may escape."""

    def call(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def refused(result: Result, *told: str) -> None:
    """Bad input was refused: exit code 2, a short message that names the thing, no results."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    text = " ".join(result.stderr.split())
    for words in told:
        assert words in text


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def subprocess_env() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def noise(hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*hw, 3), dtype=np.uint8)
