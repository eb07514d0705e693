"""`refseg models convert`, and that predict, eval and label take what it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg.data.catalog import open_data
from refseg.types import Labels
from tests.cli.conftest import Run, refused
from tests.hub_toys import hub_clip, hub_groupvit


@pytest.mark.parametrize(("make", "method"), [(hub_clip, "maskclip"), (hub_groupvit, "groupvit")])
def test_a_model_that_was_never_trained_here(
    make: object, method: str, run: Run, photo: Path, tmp_path: Path
) -> None:
    assert callable(make)
    make(tmp_path / "hub")
    told = json.loads(run("models", "convert", tmp_path / "hub", "--out", "made", "--json").stdout)
    assert (told["model"], told["method"]) == ("made", method)
    assert told["labels used"] == "text (of the pre-training pairs)"
    assert told["data"] == "none of this data"

    answers = json.loads(
        run("predict", photo, "red ball", "left cup", "--model", "made", "--json").stdout
    )
    assert [one["mask"]["size"] for one in answers] == [[48, 80]] * 2
    explained = run("predict", photo, "red ball", "--model", "made", "--explain", "--out", "why")
    assert explained.exit_code == 0, explained.stderr
    assert (Path("why") / f"{photo.stem}.1.explain.png").is_file()

    scores = run(
        "eval", "made", "--data", "scenes", "--split", "val", "--protocol", "sag", "--json"
    )
    assert scores.exit_code == 0, scores.stderr
    report = json.loads(scores.stdout)
    report = report[0] if isinstance(report, list) else report
    assert report["protocol"] == "sag"
    assert report["labels"] == told["labels used"]
    assert {"mIoU", "oIoU", "Pr@0.3", "Pr@0.5", "Pr@0.7"} <= set(report["metrics"])


def test_it_teaches(run: Run, tmp_path: Path) -> None:
    """Masks of a split by a teacher that saw pairs alone, as an ordinary data set."""
    hub_clip(tmp_path / "hub")
    assert run("models", "convert", tmp_path / "hub", "--out", "made").exit_code == 0
    words = ("--task", "masks", "--data", "scenes", "--split", "val", "--workers", 1)
    taught = run("label", "--with", "made", *words, "--out", "taught", "--json")
    assert taught.exit_code == 0, taught.stderr
    assert json.loads(taught.stdout)["labels used"] == "text (of the pre-training pairs)"
    data = open_data("taught", "val", Labels.parse("text+mask"))
    masks = [sample.mask for sample in data]
    assert len(masks) == len(open_data("scenes", "val", Labels()))
    assert any(mask is not None and mask.any() for mask in masks)


def test_refusals_are_short(run: Run, photo: Path, tmp_path: Path) -> None:
    hub_clip(tmp_path / "hub")
    refused(run("models", "convert", "clip-nowhere", "--out", "made"), "clip-nowhere")
    refused(run("models", "convert", tmp_path / "hub", "--out", "made", "--set", "x=1"), "x")
    (tmp_path / "hub" / "model.safetensors").unlink()
    refused(run("models", "convert", tmp_path / "hub", "--out", "made"), "no weights")
    assert not Path("made").exists()
    refused(run("predict", photo, "cup", "--model", "maskclip"), "models convert")
