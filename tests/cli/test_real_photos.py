"""The command on real photographs with real expressions, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.data


@pytest.fixture
def photos() -> Path:
    """The folder `refcoco_photos`: 21 photographs in the layout of REFER."""
    stated = os.environ.get("REFSEG_SHARED")
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    for root in (Path(stated) if stated else beside, Path(stated or beside) / "data"):
        if (root / "refcoco_photos").is_dir():
            return root / "refcoco_photos"
    pytest.skip("no real data beside the project (../shared/data) or at $REFSEG_SHARED")


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
