"""`refseg eval --task objects` and `--task expressions`, with fakes in place of the models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refseg import written
from refseg.cli import evaluate as command
from refseg.cli.evaluate_tasks import Reads, default_task, reads
from refseg.data.catalog import open_data
from refseg.models import save
from refseg.types import Labels
from tests.cli.conftest import Run, files_below, refused
from tests.cli.mutual import toy_mutual
from tests.evaluate import fakes
from tests.evaluate.fakes import Chooser, Fake, by_letters, heads


def method(needs: str = "text+box+category", **abilities: Any) -> SimpleNamespace:
    return heads(needs=Labels.parse(needs), **abilities)


class Both(Chooser, Fake):
    """Writes, judges and chooses."""

    def __init__(self, name: str, **abilities: Any) -> None:
        Chooser.__init__(self, by_letters, name, {"labels used": "text+box"})
        writer = Fake()
        self.says, self.finds, self.iou = lambda n: f"ball {n % 2}", writer.finds, writer.iou
        self.pictures, self.beams = writer.pictures, writer.beams
        self.refuses = ()
        self.method = method(reads_pixels=False, **abilities)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, sandbox: Path) -> dict[str, Any]:
    """Names that `refseg eval` loads in this test."""
    known = {
        "boxes": Both("boxes", reads_objects=True),
        "writer": Both("writer"),
        "judge": Both("judge"),
    }
    real = command._load
    monkeypatch.setattr(
        command, "_load", lambda name, device: known.get(name) or real(name, device)
    )
    monkeypatch.setattr("refseg.models.find_model", lambda name: Path(name))
    monkeypatch.setattr(written, "describe", fakes.describe)
    monkeypatch.setattr(written, "refer_back", fakes.refer_back)
    # Java takes seconds to start, for every single score.
    monkeypatch.setattr("refseg.evaluate_text.why_no_meteor", lambda: "java is not wanted here")
    return known


# -- Objects --------------------------------------------------------------------------------------


def test_who_reads_objects_is_asked_to_choose_them(run: Run, models: dict[str, Any]) -> None:
    told = json.loads(run("eval", "boxes", "--json").stdout)
    assert told == json.loads(run("eval", "boxes", "--task", "objects", "--json").stdout)
    assert (told["model"], told["protocol"], told["split"]) == ("boxes", "annotated objects", "val")
    assert told["n"] > 5
    assert {"accuracy", "chance"} <= set(told["metrics"])
    sample = models["boxes"].shown[0]
    assert sample.image.shape[2] == 0  # it reads no pixels, so none were read
    assert sample.objects.boxes_xyxy is not None
    assert sample.objects.categories is not None
    assert sample.objects.masks is None


def test_the_table_of_choices(run: Run, models: dict[str, Any]) -> None:
    told = json.loads(run("eval", "boxes", "--json", "--out", "a.json").stdout)
    assert json.loads(Path("a.json").read_text()) == told
    shown = run("eval", "boxes").stdout
    assert f"{100 * told['metrics']['accuracy']:.1f}" in shown
    assert "annotated objects" in shown
    assert "rival" in shown
    assert "learned from: text+box" in shown


# -- Expressions ----------------------------------------------------------------------------------

WRITE = ("eval", "writer", "--task", "expressions")


def test_sentences_are_written_and_judged(run: Run, models: dict[str, Any]) -> None:
    words = ("--judge", "judge", "--beams", "5", "--merge", "scenes+", "--limit", "4")
    told = json.loads(run(*WRITE, *words, "--json", "--out", "a.json").stdout)
    assert (told["task"], told["n"], told["judge"]) == ("expressions", 4, "judge")
    assert (told["merged"], told["beams"]) == (["scenes+"], 5)
    assert told["metrics"]["Rb-Acc"] == 1
    assert {"CIDEr", "CIDEr merged", "unambiguous", "distinct", "words"} <= set(told["metrics"])
    assert models["writer"].beams == {5}
    kept = json.loads(Path("a.json").read_text())
    samples = kept.pop("samples")
    assert kept == told
    assert len(samples["text"]) == 4


def test_the_table_of_sentences(run: Run, models: dict[str, Any]) -> None:
    told = json.loads(run(*WRITE, "--json").stdout)
    shown = run(*WRITE).stdout
    assert f"{told['metrics']['CIDEr']:.3f}" in shown
    assert f"{100 * told['metrics']['distinct']:.1f}" in shown
    assert f"{told['n']} objects" in shown
    for note in told["notes"]:
        assert note in shown
    assert any("no judge" in note for note in told["notes"])


def test_progress_goes_to_standard_error(run: Run, models: dict[str, Any]) -> None:
    result = run(*WRITE, "--batch-size", "1", "--json")
    assert "writer writes on scenes val" in result.stderr
    assert "left" in result.stderr
    json.loads(result.stdout)


# -- What is shown to whom ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "models", "expected"),
    [
        ("masks", [None], ("text+box+mask", False, True)),
        ("masks", [method("text+mask")], ("text+box+mask", False, True)),
        ("objects", [method(reads_pixels=False)], ("text+box+category", True, False)),
        ("expressions", [method("text+mask")], ("text+box+mask", True, True)),
        (
            "expressions",
            [method(reads_objects=True, reads_pixels=False), method("text+mask")],
            ("text+box+mask+category", True, True),
        ),
        ("expressions", [method(reads_pixels=False), None], ("text+box+category", True, False)),
    ],
)
def test_labels_and_pixels_are_those_that_the_models_need(
    task: str, models: list[Any], expected: tuple[str, bool, bool]
) -> None:
    holders = [one if one is None else SimpleNamespace(method=one) for one in models]
    labels, objects, pixels = expected
    assert reads(task, *holders) == Reads(Labels.parse(labels).granted, objects, pixels)


def test_the_default_task() -> None:
    assert default_task(None) == "masks"
    assert default_task(SimpleNamespace(method=method())) == "masks"
    assert default_task(SimpleNamespace(method=method(reads_objects=False))) == "masks"
    assert default_task(SimpleNamespace(method=method(reads_objects=True))) == "objects"


# -- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("writer", "--task", "sentences"), 'unknown task "sentences"'),
        (("writer", "--task", "object"), 'did you mean "objects"'),
        (("writer", "--judge", "judge"), "--judge means nothing to --task masks"),
        (("boxes", "--beams", "2"), "--beams means nothing to --task objects"),
        (("writer", "--beams", "2"), "leave it out, or ask for --task expressions"),
        (("boxes", "--protocol", "original"), "--protocol means nothing to --task objects"),
        (("boxes", "--task", "masks"), "boxes chooses among annotated objects and makes no masks"),
        (("boxes", "--task", "masks", "--protocol", "lavt-480"), "score it with --task objects"),
        ((*WRITE[1:], "--perturb", "typo"), "--perturb means nothing to --task expressions"),
        ((*WRITE[1:], "--mask-rule", "union"), "--mask-rule means nothing"),
        ((*WRITE[1:], "--beams", "0"), "--beams 0 is too small"),
        ((*WRITE[1:], "--judge", "writer"), "--judge writer is the model itself"),
        ((*WRITE[1:], "--judge", "baseline:whole-image"), "is no model"),
        ((*WRITE[1:], "--merge", "scens"), 'did you mean "scenes"'),
        ((*WRITE[1:], "--merge", "scenes"), "scenes is the evaluated data set itself"),
        ((*WRITE[1:], "--split", "vall"), 'did you mean "val"'),
        (("writer", "--task", "objects"), "writer does not choose among annotated objects"),
        (("baseline:whole-image", "--task", "objects"), "score it with --task masks"),
        (("baseline:whole-image", "--task", "expressions"), "cannot write expressions"),
    ],
)
def test_wrong_words_are_refused(
    run: Run, sandbox: Path, models: dict[str, Any], words: tuple[str, ...], told: str
) -> None:
    refused(run("eval", *words, "--json", "--out", "a.json"), told, "->")
    assert files_below(sandbox) == []


def test_what_is_refused_anyway_is_not_offered(run: Run, models: dict[str, Any]) -> None:
    told = run("eval", "boxes", "--protocol", "original")
    refused(told, "-> leave it out")
    assert "--task masks" not in told.stderr
    refused(run("eval", "boxes", "--perturb", "typo", "--task", "expressions"), "--task objects")


def test_the_reward_s_own_head_is_no_judge(run: Run, sandbox: Path) -> None:
    """The model before step 2, in another folder: told before any data is opened."""
    before = toy_mutual()
    save(sandbox.parent / "before", before)
    with torch.no_grad():
        for parameter in before.method.generator.parameters():
            parameter.add_(1)
    save(sandbox.parent / "after", before)
    words = ("eval", sandbox.parent / "after", "--task", "expressions", "--data", "nowhere")
    told = run(*words, "--judge", sandbox.parent / "before", "--out", "a.json")
    refused(told, "has the same selection head as", "no independent judge", "another seed")
    assert files_below(sandbox) == []


def test_who_cannot_write_is_told_who_can(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refseg.describe.writers", lambda: ["mutual-toy"])
    for name in ("vega-scenes", "baseline:centre-disc"):
        told = run("eval", name, "--task", "expressions")
        refused(told, f"{name}", "cannot write expressions", "these can: mutual-toy")


def test_scores_of_masks_open_the_data_as_ever(
    run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def remembered(*args: Any, **options: Any) -> Any:
        asked.append({"labels": str(args[2]), **options})
        return open_data(*args, **options)

    monkeypatch.setattr("refseg.data.catalog.open_data", remembered)
    run("eval", "baseline:whole-image", "--json")
    assert [(one["labels"], one["objects"], one["pixels"]) for one in asked] == [
        ("text+box+mask", False, True)
    ]
