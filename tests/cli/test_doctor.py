"""`refseg doctor` and `refseg models`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refseg
from refseg import doctor, models
from refseg.doctor import SUMS, Check, folder, one_image, shipped, write_sums
from refseg.errors import ModelError
from tests.cli.conftest import Run

CHECKPOINTS = Path(refseg.__file__).parent / "checkpoints"


@pytest.fixture
def shelf(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled models that a test may spoil."""
    copy = tmp_path / "shelf"
    shutil.copytree(bundle, copy)
    write_sums(copy / "vega-scenes")
    monkeypatch.setattr(models, "BUNDLED", copy)
    return copy / "vega-scenes"


def test_a_healthy_machine(run: Run, shelf: Path) -> None:
    result = run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == int(any(c["status"] == "fail" for c in checks.values()))
    for name in ("refseg", "python", "torch", "torchvision", "cores", "cache folder", "self test"):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["model vega-scenes"]["detail"] == "as shipped"
    assert "self test" in run("doctor").stdout


def test_a_changed_model_is_found(run: Run, shelf: Path) -> None:
    config = shelf / "config.json"
    config.write_text(config.read_text() + " ")
    result = run("doctor")
    assert result.exit_code == 1
    assert "config.json is not the file that was shipped" in result.stdout
    assert "model vega-scenes -> install refseg again" in result.stdout


def test_sums_name_each_trouble(shelf: Path) -> None:
    assert shipped(shelf).status == "ok"
    (shelf / "README.md").unlink()
    assert shipped(shelf) == Check(
        "model vega-scenes", "fail", "README.md is missing", "install refseg again"
    )
    (shelf / SUMS).unlink()
    assert shipped(shelf).status == "warn"


def test_no_model_at_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "nothing")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert {"name": "models", "status": "fail"}.items() <= json.loads(result.stdout)[-1].items()
    assert json.loads(run("models", "--json").stdout) == []
    assert "no models yet" in run("models").stdout


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = folder(tmp_path / "file" / "cache")
    assert found.status == "fail"
    assert "REFSEG_CACHE" in found.remedy
    assert folder(tmp_path / "new").status in ("ok", "warn")


def test_a_check_that_breaks_is_a_finding(tmp_path: Path) -> None:
    def broken() -> Iterator[Check]:
        yield Check("first", "ok", "")
        raise ZeroDivisionError("oh")

    found = list(doctor.run(tmp_path, broken))
    assert found[-2:] == [
        Check("first", "ok", ""),
        Check("broken", "fail", "ZeroDivisionError: oh", "install refseg again"),
    ]


def test_the_self_test_reports_our_errors() -> None:
    def fails(image: np.ndarray, text: str) -> None:
        raise ModelError("weights are cut short", remedy="get them again")

    assert one_image(fails) == Check("self test", "fail", "weights are cut short", "get them again")


def test_models_are_listed(run: Run, toy_folder: Path) -> None:
    rows = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in rows] == ["vega-scenes"]
    row = rows[0]
    assert (row["method"], row["data"], row["labels"]) == ("vega", "toys", "text+mask")
    assert row["metrics"] == {"mIoU": 0.5}
    assert row["bytes"] == sum(path.stat().st_size for path in toy_folder.iterdir())
    assert row["evaluation"] is None
    told = cells(run("models").stdout)
    assert told[-3:] == ["50.0", "-", "not said"]


def cells(stdout: str) -> list[str]:
    """The cells of the one model's row, of which none is wrapped."""
    (line,) = [line for line in stdout.splitlines() if line.strip().startswith("vega-scenes")]
    return re.split(r" {2,}", line.strip())


METRICS = {"mIoU (original, val)": 0.5391, "oIoU (original, val)": 0.25}
MEASURED = {
    "data": "scenes-all@12000",
    "split": "val",
    "expressions": 600,
    "protocol": "original",
    "chosen by": "mIoU",
}


@pytest.mark.parametrize(
    ("card", "evaluation", "told"),
    [
        ({"evaluation": MEASURED}, MEASURED, "scenes-all@12000 val (600, chosen on it)"),
        (
            # As cards were written before they had the entry "evaluation".
            {
                "data": "scenes-all@12000, split train, 209919 items",
                "weights": "best mIoU on val under the protocol original, at step 6000; the "
                "choice saw text+mask",
            },
            {key: MEASURED[key] for key in MEASURED if key != "expressions"},
            "scenes-all@12000 val (chosen on it)",
        ),
        (
            {"evaluation": {"data": "mine", "split": "testA"}},
            {"data": "mine", "split": "testA"},
            "mine testA",
        ),
        ({"evaluation": "some photographs"}, None, "not said"),
    ],
)
def test_models_say_what_their_score_was_measured_on(
    run: Run,
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: dict[str, Any],
    evaluation: object,
    told: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    content = json.loads((shelf / "config.json").read_text())
    content["card"] = {"metrics": METRICS, **card}
    (shelf / "config.json").write_text(json.dumps(content))
    (row,) = json.loads(run("models", "--json").stdout)
    assert row["evaluation"] == evaluation
    shown = run("models").stdout
    assert cells(shown)[-3:] == ["53.9", "-", told]
    assert ("the score flatters the model" in shown) == ("chosen" in told)


def test_a_model_without_a_score_was_measured_on_nothing(run: Run, shelf: Path) -> None:
    content = json.loads((shelf / "config.json").read_text())
    content["card"] = {}
    (shelf / "config.json").write_text(json.dumps(content))
    assert cells(run("models").stdout)[-3:] == ["-", "-", "-"]


@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="no model has been bundled yet")
def test_the_bundled_models_are_as_shipped() -> None:
    folders = [path for path in CHECKPOINTS.iterdir() if (path / "config.json").is_file()]
    assert folders
    for path in folders:
        assert shipped(path).status == "ok", f"refseg.doctor.write_sums({path.name})"
