"""Only masks that fit the known box of their ref."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from refseg.data.catalog import open_data, open_records
from refseg.data.records import Records
from refseg.data.unpickle import load_pickle
from refseg.errors import ConfigError, DataError, RunError
from refseg.label import LabelOptions, label
from refseg.ops.masks import box_mask
from refseg.ops.projection import projection_score
from refseg.types import Labels
from tests.cli.conftest import files_below, refused
from tests.label import fakes
from tests.label.conftest import entries, lines
from tests.label.fakes import Teacher, kind_of
from tests.label.killable import attempt
from tests.label.test_job import contents

PAPER = 0.1
Masks = Callable[..., LabelOptions]
Run = Callable[..., Result]


def without_boxes(world: Path, keep: Callable[[int], bool]) -> Path:
    """The world with the boxes of those objects alone whose id is to `keep`."""
    folder = Path("boxless")
    folder.mkdir()
    (folder / "images").symlink_to(world / "images", target_is_directory=True)
    (refs,) = (world / "scenes").glob("refs(*")
    (folder / refs.name).write_bytes(refs.read_bytes())
    content = json.loads((world / "scenes" / "instances.json").read_text())
    for thing in content["annotations"]:
        thing["bbox"] = thing["bbox"] if keep(thing["id"]) else None
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


# -- what is kept -------------------------------------------------------------------------------


def test_what_fits_its_box_is_kept(masks: Masks, knows: Teacher) -> None:
    """By a plain loop over the source; the rest is in no file that a student reads."""
    result = label(masks(agree=PAPER), workers=1)
    source = entries("scenes", "text+box")
    fits = [entry for entry in source if kind_of(entry.key) == "fits"]
    assert 0 < len(fits) < len(source) == result.asked
    taught = open_data("taught", "train", Labels.parse("text+box+mask"))
    told = {taught[index].sent_id: taught[index] for index in range(len(taught))}
    assert sorted(told) == sorted(entry.sent_id for entry in fits)
    for entry in fits:
        sample = told[entry.sent_id]
        assert (sample.text, sample.image_id) == (entry.text, entry.image_id)
        assert sample.empty is False
        assert sample.mask is not None
        assert entry.box_xyxy is not None
        np.testing.assert_array_equal(sample.mask, box_mask(entry.box_xyxy, sample.mask.shape))
    content = json.loads(Path("taught/instances.json").read_text())
    assert [one["id"] for one in content["annotations"]] == list(range(1, len(fits) + 1))
    assert {one["id"] for one in content["images"]} == {entry.image_id for entry in fits}


def test_counts_add_up(masks: Masks, knows: Teacher) -> None:
    result = label(masks(agree=PAPER), workers=1)
    kinds = [kind_of(entry.key) for entry in entries("scenes", "text+box")]
    assert result.counts == {
        "refs": kinds.count("fits"),
        "expressions": kinds.count("fits"),
        "nothing found": kinds.count("nothing"),
        "box disagrees": kinds.count("half"),
        "no box known": 0,
    }
    assert min(map(kinds.count, ("fits", "nothing", "half"))) > 0
    share = round(kinds.count("fits") / len(kinds), 4)
    told = json.loads(Path("taught/labels.json").read_text())
    assert told["kept share"] == result.to_json()["kept share"] == share
    assert told["labels seen here"] == "text+box"
    assert told["options"]["agree"] == PAPER
    again = label(masks(agree=PAPER), workers=1)
    assert (again.counts, again.summary) == (result.counts, result.summary)


def test_the_projection_is_on_record(masks: Masks, knows: Teacher) -> None:
    label(masks(agree=PAPER), workers=1)
    box_of = {entry.ref_id: entry.box_xyxy for entry in entries("scenes", "text+box")}
    found = {one.key: knows.answer(one).mask for one in knows.shown}
    seen = set()
    for line in lines(Path("taught")):
        key, box = f"{line['ref_id']}-{line['sent_id']}", box_of[line["ref_id"]]
        assert box is not None
        assert line["projection"] == round(projection_score(found[key], box), 6)
        assert (line["projection"] < PAPER) == (kind_of(key) == "fits")
        assert (line["projection"] == 2) == (kind_of(key) == "nothing")
        seen.add(kind_of(key))
    assert len(seen) == 3
    records = open_records("taught")
    extras = [records.extra("refs", row) for row in range(records.count("refs"))]
    assert {tuple(sorted(extra)) for extra in extras} == {("projection", "score", "source_ref_id")}
    assert max(extra["projection"] for extra in extras) < PAPER


def test_the_threshold_is_strict(masks: Masks, knows: Teacher) -> None:
    """At the score of the halves none of them is kept, a little above all are."""
    label(masks(agree=1.9), workers=1)
    halves = [one["projection"] for one in lines(Path("taught")) if PAPER < one["projection"] < 2]
    worst = max(halves)
    at = label(masks(agree=worst, out=Path("at")), workers=1)
    above = label(masks(agree=worst + 1e-6, out=Path("above")), workers=1)
    assert at.counts["box disagrees"] == halves.count(worst)
    assert above.counts["box disagrees"] == 0
    assert above.counts["nothing found"] > 0


def test_no_label_reaches_the_teacher_and_no_mask_is_read(
    masks: Masks, knows: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("a mask of the data was read")

    assert open_data("scenes", "train", Labels.parse("text+mask"))[0].mask is not None
    monkeypatch.setattr(Records, "segmentation", refuse)
    monkeypatch.setattr("refseg.ops.masks.decode_segmentation", refuse)
    monkeypatch.setattr("refseg.data.dataset.read_mask_file", refuse)
    label(masks(agree=PAPER), workers=1)
    assert len(knows.shown) > 5
    for sample in knows.shown:
        assert (sample.mask, sample.box_xyxy, sample.category, sample.empty) == (None,) * 4


def test_refs_without_a_known_box(
    masks: Masks, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot be judged, whatever the teacher says of them; the others are as before."""
    folder = str(without_boxes(world, keep=lambda ann_id: ann_id % 2 == 0))
    Teacher(folder, "train").install(monkeypatch.setattr)
    result = label(masks(data=folder, agree=10.0), workers=1)
    source = entries(folder, "text+box")
    unknown = [entry for entry in source if entry.box_xyxy is None]
    assert 0 < len(unknown) < len(source)
    assert result.counts["no box known"] == len(unknown)
    assert sum(result.counts.values()) - result.counts["expressions"] == result.asked
    kept = {entry.sent_id for entry in entries("taught", "text")}
    assert kept == {
        entry.sent_id
        for entry in source
        if entry.box_xyxy is not None and kind_of(entry.key) != "nothing"
    }


def test_data_without_boxes(masks: Masks, world: Path) -> None:
    folder = str(without_boxes(world, keep=lambda ann_id: False))
    with pytest.raises(DataError, match=r"boxless.* train: no box is known") as error:
        label(masks(agree=PAPER, data=folder), workers=1)
    assert "--agree" in error.value.remedy
    assert not Path("taught").exists()


def test_nothing_fits(masks: Masks, knows: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "KINDS", ("half", "nothing"))
    with pytest.raises(RunError, match=r"no mask agrees with its box better than 0\.1") as error:
        label(masks(agree=PAPER), workers=1)
    assert "raise the threshold (--agree" in error.value.remedy
    assert "box disagrees" in error.value.message
    assert not Path("taught/labels.json").exists()


@pytest.mark.parametrize("agree", [0.0, -0.1, float("nan"), float("inf")])
def test_thresholds_that_are_none(masks: Masks, agree: float) -> None:
    with pytest.raises(ConfigError, match=f"agree is {agree}"):
        masks(agree=agree)


def test_all_is_as_before_without(masks: Masks, knows: Teacher) -> None:
    """No new entry in any file, so that jobs have the bytes that they always had."""
    result = label(masks(), workers=1)
    assert set(result.counts) == {"refs", "expressions", "nothing found"}
    assert result.counts["refs"] == result.asked
    assert result.summary == {}
    told = json.loads(Path("taught/labels.json").read_text())
    assert set(told["options"]) == {
        "split", "split_by", "exclude_images", "limit", "shard_images", "text_field", "batch_size",
        "weight",
    }  # fmt: skip
    assert told["labels seen here"] == "text"
    assert set(told["left_out"]) == {"excluded image", "over the limit"}
    assert "kept share" not in told
    assert set(lines(Path("taught"))[0]) == {
        "image_id", "asked", "ref_id", "sent_id", "split", "raw", "sent", "weight", "pseudo",
        "score", "size", "counts",
    }  # fmt: skip
    assert "projection" not in load_pickle(Path("taught/refs(refseg).p"))[0]


# -- resuming -----------------------------------------------------------------------------------


def test_interrupted_and_gone_on_with(masks: Masks, knows: Teacher) -> None:
    skip = frozenset({entries("scenes", "text+box")[0].ref_id})
    given = masks(agree=PAPER, per_ref=True, seed=1, skip_refs=skip, limit=4, shard_images=1)
    knows.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        label(given, workers=1)
    assert list(Path("taught/shards").iterdir())
    knows.dies_after = None
    result = label(given, workers=1)
    assert 0 < result.found < result.shards
    label(replace(given, out=Path("alone")), workers=1)
    assert contents(Path("taught")) == contents(Path("alone"))


@pytest.mark.slow
def test_killed_then_two_workers(masks: Masks) -> None:
    """A network's own masks. A toy fits by chance, so the threshold is the middle of its scores."""
    few: dict[str, Any] = {"per_ref": True, "limit": 5}
    label(masks(agree=10.0, out=Path("all"), **few), workers=1)
    scores = sorted(line["projection"] for line in lines(Path("all")))
    given = masks(agree=scores[len(scores) // 2], shard_images=1, **few)
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=attempt, args=(given.to_json(), 4, True))
    child.start()
    child.join(1000)
    assert child.exitcode == -signal.SIGKILL
    result = label(given, workers=2)
    assert 0 < result.found < result.shards
    assert 0 < result.counts["refs"] < result.asked
    label(replace(given, out=Path("alone")), workers=1)
    assert contents(Path("taught")) == contents(Path("alone"))


# -- the command --------------------------------------------------------------------------------


def test_the_summary_says_what_was_kept(run: Run, teacher: Path, knows: Teacher) -> None:
    words = ("--with", teacher, "--task", "masks", "--data", "scenes", "--split", "train")
    asked = ("label", *words, "--agree", PAPER, "--per-ref", "--seed", 2, "--workers", 1)
    result = run(*asked, "--out", "taught", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    reasons = ("nothing found", "box disagrees", "no box known")
    assert told["asked"] == told["refs"] + sum(told[reason] for reason in reasons)
    assert told["kept share"] == round(told["refs"] / told["asked"], 4)
    shown = run(*asked, "--out", "taught").stdout
    for reason in reasons:
        assert reason in " ".join(shown.split())
    assert f"kept share: {100 * told['kept share']:.1f} %" in shown
    assert json.loads(Path("taught/job.json").read_text())["options"]["seed"] == 2


def test_what_the_command_refuses(run: Run, teacher: Path, knows: Teacher) -> None:
    words = ("label", "--with", teacher, "--data", "scenes", "--out", "taught", "--workers", 1)
    refused(run(*words, "--task", "masks", "--seed", 1), "--seed means nothing to --task masks")
    refused(run(*words, "--task", "masks", "--agree", 0), "agree is 0.0", "0.1")
    refused(
        run(*words, "--task", "expressions", "--per-ref"), "--per-ref means nothing", "--task masks"
    )
    assert files_below(Path()) == []
    refused(run(*words, "--task", "masks", "--polygons"), "has no polygons", "--polygons")
