"""The command on real photographs with real expressions, where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.data


@pytest.fixture
def photos(shared_data: Path) -> Path:
    """The folder `refcoco_photos`: 21 photographs in the layout of REFER."""
    return shared_data / "refcoco_photos"


@pytest.mark.parametrize(("name", "count"), [("refcoco", 168), ("refcoco+", 154)])
def test_every_expression_is_scored(run: Run, photos: Path, name: str, count: int) -> None:
    words = ("--data", photos / name, "--split", "val", "--protocol", "original", "--json")
    whole = json.loads(run("eval", "baseline:whole-image", *words).stdout)
    assert whole["n"] == count
    assert 0.05 < whole["metrics"]["mIoU"] < 0.4
    model = json.loads(run("eval", "vega-scenes", *words, "--limit", "12").stdout)
    assert model["n"] == 12


def test_a_photograph_is_segmented(run: Run, photos: Path, sandbox: Path) -> None:
    image = next(path for path in sorted(photos.rglob("*.jpg")))
    result = run("predict", image, "the person on the left", "the largest thing")
    assert result.exit_code == 0, result.output
    assert len(list((sandbox / "out").iterdir())) == 3
