"""A small rendered world, a toy teacher in a folder, and a writer of expressions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from refseg.cli.main import app
from refseg.data.catalog import open_data
from refseg.data.dataset import Entry
from refseg.label import LabelOptions
from refseg.label.job import read_job, read_shard
from refseg.models import save
from refseg.ops.masks import rle_encode
from refseg.types import Labels
from tests.label import fakes
from tests.methods.toy import SHAPES, SIDE, drawn_scene, toy_model
from tests.worlds import WORLD_IMAGES


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy model."""
    folder = tmp_path_factory.mktemp("models") / "teacher"
    model = toy_model("vega")
    model.card = {"labels used": "text+mask"}
    save(folder, model)
    return folder


@pytest.fixture(scope="session")
def author(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that finds proposals, chooses among them, and writes, untaught."""
    folder = tmp_path_factory.mktemp("models") / "author"
    save(folder, toy_model("mutual"))
    return folder


def draw(folder: Path, pictures: int) -> Path:
    """A COCO file of drawn pictures with two things each; the first thing of all has no box."""
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, pictures + 1):
        scene = drawn_scene(image_id)
        name = f"{image_id}.png"
        Image.fromarray(scene[0][1]).save(folder / name)
        images.append({"id": image_id, "file_name": name, "height": SIDE, "width": SIDE})
        for text, _, mask in scene:
            rows, columns = np.nonzero(mask)
            size = [int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            box = [int(columns.min()), int(rows.min()), *size]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "segmentation": rle_encode(mask),
                    "category_id": SHAPES.index(text.split()[-1]),
                    "iscrowd": 0,
                    "bbox": box if annotations else None,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "things.json"
    path.write_text(json.dumps(content))
    return path


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
def knows(monkeypatch: pytest.MonkeyPatch) -> fakes.Teacher:
    """A teacher that knows the boxes of train."""
    return fakes.Teacher("scenes", "train").install(monkeypatch.setattr)


@pytest.fixture
def masks(teacher: Path) -> Callable[..., LabelOptions]:
    """masks(agree=0.1, ...): the options of masks for train."""

    def make(**changes: Any) -> LabelOptions:
        given: dict[str, Any] = {
            "model": str(teacher), "task": "masks", "data": "scenes", "out": Path("taught"),
            "split": "train", "shard_images": 8, **changes,
        }  # fmt: skip
        return LabelOptions(**given)

    return make


def entries(data: str, labels: str) -> list[Entry]:
    """Of the split train."""
    dataset = open_data(data, "train", Labels.parse(labels))
    return [dataset.entry(index) for index in range(len(dataset))]


def lines(out: Path) -> list[dict[str, Any]]:
    """All answers of a job."""
    job = read_job(out)
    return [line for number in range(job.shards) for line in read_shard(job, number)]


@pytest.fixture
def run() -> Callable[..., Result]:
    """run("label", ...) -> result with exit_code, stdout, stderr. No exception may escape."""

    def call(*words: object) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call
