"""Which model answers when none is named: the one for photographs, once it can see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refseg import models, predict
from refseg.errors import ModelError
from refseg.predict import default_model, load
from refseg.pull import kept
from tests.cli.conftest import Run, files_below, refused
from tests.cli.mutual import toy_mutual
from tests.cli.photos import open_eyes, shelve_photos
from tests.methods.mutual.test_photographs import SEEN, ToldEyes

COMMANDS: dict[str, tuple[str, ...]] = {
    "predict": ("left red disc",),
    "describe": ("--box", "5,10,30,30"),
    "propose": (),
}


@pytest.fixture(autouse=True)
def unpatched(sandbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true default, and an untrained model for photographs beside the other one."""
    shelf = tmp_path / "shelf"
    shelve_photos(shelf)
    models.save(shelf / "vega-scenes", toy_mutual())
    monkeypatch.setattr(models, "BUNDLED", shelf)
    monkeypatch.setattr(predict, "default_model", default_model)


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToldEyes:
    """A pull that is whole, and eyes that need no weights."""
    monkeypatch.setitem(SEEN, (48, 80), SEEN[40, 64])
    opened: ToldEyes = open_eyes(tmp_path, monkeypatch)
    return opened


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_before_a_pull_it_says_how_to_pull(
    run: Run, photo: Path, sandbox: Path, command: str
) -> None:
    told = "photos has not been pulled", "refseg models pull photos", "mutual-scenes"
    refused(run(command, photo, *COMMANDS[command]), *told, "->")
    assert files_below(sandbox) == []


def test_a_half_finished_pull_says_so(
    run: Run, photo: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    kept.folder_of("photos").mkdir(parents=True)
    refused(run("predict", photo, "disc"), "half pulled", "refseg models pull photos")
    with pytest.raises(ModelError, match=r"(?s)half pulled.*pull photos"):
        load()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_once_pulled_it_answers(run: Run, photo: Path, eyes: ToldEyes, command: str) -> None:
    result = run(command, photo, *COMMANDS[command], "--json")
    assert result.exit_code == 0, result.output
    assert len(eyes.asked) == 1
    named = run(command, photo, *COMMANDS[command], "--json", "--model", "photos")
    ours, theirs = (json.loads(one.stdout) for one in (result, named))
    if command == "predict":
        assert [one.pop("ms") > 0 for one in (*ours, *theirs)] == [True, True]
    assert ours == theirs


def test_from_python(photo: Path, eyes: ToldEyes) -> None:
    assert default_model() == "photos"
    answer = predict.segment(photo, "left red disc")
    assert not isinstance(answer, list)
    assert answer.mask.shape == (48, 80)
    np.testing.assert_array_equal(answer.mask, load().segment(photo, "left red disc").mask)
    assert load().name == "photos"
    assert load("vega-scenes").name == "vega-scenes"


def checked(run: Run) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json.loads(run("doctor", "--json").stdout)}


def test_doctor_tells_of_the_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks = checked(run)
    assert checks["weights of photos"]["status"] == "warn"
    assert checks["weights of photos"]["remedy"] == "refseg models pull photos"
    assert checks["self test"]["status"] == "ok"
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "half"))
    kept.folder_of("photos").mkdir(parents=True)
    assert checked(run)["weights of photos"]["status"] == "fail"


def test_doctor_asks_photos_where_it_can_see(
    run: Run, monkeypatch: pytest.MonkeyPatch, eyes: ToldEyes, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept, "pulled_folder", lambda name, hashes: tmp_path)
    monkeypatch.setitem(SEEN, (96, 128), SEEN[40, 64])
    checks = checked(run)
    assert checks["weights of photos"]["status"] == checks["self test"]["status"] == "ok"
    assert len(eyes.asked) == 1
