"""What lies in the package does what its page says, on rendered scenes that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refseg import models
from refseg.data.catalog import open_data
from refseg.evaluate import evaluate
from refseg.evaluate_text import evaluate_expressions
from refseg.types import Labels
from tests.worlds import WORLD_IMAGES

LABELS = Labels.parse("text+box+mask+category")
LIMIT_MB = 15


@pytest.fixture(scope="module", autouse=True)
def world(cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSEG_CACHE", str(cache))
        patch.setenv("REFSEG_SCENES_IMAGES", str(WORLD_IMAGES))
        yield


@pytest.mark.parametrize("name", models.list_bundled())
def test_it_is_small(name: str) -> None:
    folder = models.find_model(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT_MB * 10**6


@pytest.mark.parametrize(
    ("name", "least"),
    [("vega-scenes", 0.55), ("mutual-scenes", 0.5), ("partial-res-scenes", 0.35)],
)
def test_it_reads(name: str, least: float) -> None:
    """Bounds far below the measured scores: 28 pictures are few."""
    data = open_data("scenes", "train", LABELS, objects=True)
    report = evaluate(models.load(name), data, limit=150)
    assert report.metrics["mIoU"] >= least
    if name == "mutual-scenes":
        assert report.metrics["oracle"] >= 0.7


def test_it_finds_boxes() -> None:
    """REC: its answers are boxes, filled; of masks it knows nothing."""
    data = open_data("scenes", "train", LABELS)
    model = models.load("seqtr-rec-scenes")
    assert "mask" not in model.card["labels granted"]
    assert evaluate(model, data, limit=150).metrics["REC@0.5"] >= 0.55


def test_its_few_masks_are_told() -> None:
    """An outline of points, from a box for all and masks for 1 %."""
    model = models.load("partial-res-scenes")
    assert model.card["labels granted"] == "text+box+mask(696 refs)"
    data = open_data("scenes", "train", LABELS)
    for answer in model.predict(data.samples(range(8))):
        assert answer.empty or len(answer.polygons[0]) >= 3


def test_it_writes() -> None:
    data = open_data("scenes", "train", LABELS, objects=True)
    report = evaluate_expressions(
        models.load("mutual-scenes"), data, limit=60, beams=1, with_meteor="no"
    )
    assert report.metrics["unambiguous"] >= 0.45
    assert report.metrics["runs on"] <= 0.05
    assert 1.5 <= report.metrics["words"] <= 8
