"""Scores of written expressions: golden values, and loops that count the plain way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from refseg import evaluate_text
from refseg.data.scenes.oracle import UnparsableExpression, referents
from refseg.data.scenes.serial import read_scenes
from refseg.data.tokens import SPECIALS, wordpiece
from refseg.errors import DataError, NoProposal
from refseg.evaluate_text import HUMAN, OWN, evaluate_expressions
from refseg.meaning import MEANINGS, meaning
from refseg.metrics.captions import CaptionScores, meteor_es
from tests.evaluate.fakes import Fake, Refs, heads, opened, write_refer
from tests.metrics.examples import HYPOTHESES, REFERENCES
from tests.metrics.test_captions import CIDER, twin

pytestmark = pytest.mark.usefixtures("fake_writing")

# Annotations 1 and 2 stand in one image; object 1 is described by two refs.
IMAGE_OF = {1: 10, 2: 10, 3: 11, 4: 11, 5: 12}
REFS: Refs = (
    (1, "val", REFERENCES[1][:2]),
    (3, "val", REFERENCES[3]),
    (2, "val", REFERENCES[2]),
    (1, "val", REFERENCES[1][2:]),
    (5, "train", ["nobody asks"]),
)
WRITER = Fake(HYPOTHESES.get)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_refer(tmp_path / "three", IMAGE_OF, REFS)


# -- Captions -------------------------------------------------------------------------------------


def test_cider_is_the_published_one(three: Path) -> None:
    report = evaluate_expressions(WRITER, opened(three))
    assert report.n == 3
    assert report.samples["ann_id"] == [1, 2, 3]
    assert report.samples["references"] == [REFERENCES[n] for n in (1, 2, 3)]
    assert report.samples["text"] == [HYPOTHESES[n] for n in (1, 2, 3)]
    assert report.samples["CIDEr"] == pytest.approx(list(CIDER.values()), abs=1e-6)
    assert report.metrics["CIDEr"] == pytest.approx(2.073727, abs=1e-6)
    low, high = report.intervals["CIDEr"]
    assert low < report.metrics["CIDEr"] < high
    assert (report.metrics["distinct"], report.metrics["words"]) == (1, (4 + 5 + 4) / 3)
    assert "CIDEr merged" not in report.metrics


def test_references_are_merged_by_annotation(three: Path, tmp_path: Path) -> None:
    more = {1: ["the big bus", "red bus on left"], 3: ["zebra on the right"], 4: ["another"]}
    refs: Refs = [(n, "train" if n == 3 else "testA", texts) for n, texts in more.items()]
    plus = write_refer(tmp_path / "plus", IMAGE_OF, refs)
    report = evaluate_expressions(WRITER, opened(three), merge=[plus], with_meteor="no")
    joined = {n: [*REFERENCES[n], *more.get(n, [])] for n in (1, 2, 3)}
    expected = twin(HYPOTHESES, joined)
    assert report.metrics["CIDEr merged"] == pytest.approx(np.mean(list(expected.values())))
    assert report.metrics["CIDEr"] == pytest.approx(2.073727, abs=1e-6)
    similar = meteor_es(HYPOTHESES, joined)
    assert report.metrics["meteor_es merged"] == similar.corpus
    assert report.samples["meteor_es merged"] == [similar.each[n] for n in (1, 2, 3)]
    assert report.samples["CIDEr merged"] == pytest.approx([expected[n] for n in (1, 2, 3)])
    assert report.samples["CIDEr"] == pytest.approx([CIDER[n] for n in (1, 2, 3)], abs=1e-6)
    assert report.samples["references"][0] == REFERENCES[1]  # the data set's own
    assert report.merged == (str(plus),)


def test_of_several_ways_to_split_that_of_the_evaluated_data_is_merged(
    three: Path, tmp_path: Path
) -> None:
    """RefCOCO's own folder holds refs(unc).p and refs(google).p."""
    own = opened(three).records.meta.split_by
    plus = write_refer(tmp_path / "plus", IMAGE_OF, [(1, "val", ["a bus"])])
    (refs,) = plus.glob("refs(*)*")
    assert f"({own})" in refs.name
    other = write_refer(tmp_path / "other", IMAGE_OF, [(1, "val", ["another bus"])])
    shutil.copy(other / refs.name, plus / refs.name.replace(own, "google"))
    report = evaluate_expressions(WRITER, opened(three), merge=[plus], with_meteor="no")
    joined = {n: [*REFERENCES[n], *(["a bus"] if n == 1 else [])] for n in (1, 2, 3)}
    assert report.metrics["CIDEr merged"] == pytest.approx(
        np.mean(list(twin(HYPOTHESES, joined).values()))
    )
    refs.rename(plus / refs.name.replace(own, "umd"))
    with pytest.raises(DataError, match=f"google, umd, and none is that of .*, {own}"):
        evaluate_expressions(WRITER, opened(three), merge=[plus])


def test_data_that_does_not_belong_together_is_not_merged(three: Path, tmp_path: Path) -> None:
    strangers = write_refer(tmp_path / "strangers", {7: 10}, [(7, "val", ["a bus"])])
    moved = write_refer(tmp_path / "moved", {1: 99}, [(1, "val", ["a bus"])])
    for folder, told in ((three, "itself"), (strangers, "none of the 3"), (moved, "another image")):
        with pytest.raises(DataError, match=told):
            evaluate_expressions(WRITER, opened(three), merge=[folder])


def test_meteor_has_its_own_name_only_where_it_runs(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_text, "why_no_meteor", lambda: "java is not on the PATH")
    report = evaluate_expressions(WRITER, opened(three))
    assert report.metrics["meteor_es"] == meteor_es(HYPOTHESES, REFERENCES).corpus
    assert "METEOR" not in report.metrics
    assert sum("java is not on the PATH" in note for note in report.notes) == 1

    monkeypatch.setattr(evaluate_text, "why_no_meteor", lambda: "")
    each = {1: 0.5, 2: 0.25, 3: 0.0}
    monkeypatch.setattr(evaluate_text, "meteor", lambda texts, refs: CaptionScores(0.125, each))
    report = evaluate_expressions(WRITER, opened(three))
    assert report.metrics["METEOR"] == 0.125
    assert report.samples["METEOR"] == [0.5, 0.25, 0.0]
    assert "meteor_es" not in report.samples
    assert "meteor_es" not in report.metrics
    assert not any("METEOR" in note for note in report.notes)
    quick = evaluate_expressions(WRITER, opened(three), with_meteor="no").metrics
    assert "meteor_es" in quick
    assert "METEOR" not in quick


def test_a_missing_meteor_is_said_once_even_when_merged(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_text, "why_no_meteor", lambda: "no java")
    plus = write_refer(tmp_path / "plus", IMAGE_OF, [(1, "val", ["a bus"])])
    notes = evaluate_expressions(WRITER, opened(three), merge=[plus]).notes
    assert sum("no java" in note for note in notes) == 1


# -- Objects --------------------------------------------------------------------------------------


def test_what_is_no_single_object_is_left_out_and_said(tmp_path: Path) -> None:
    refs: Refs = [
        (1, "val", ["a", "b"]),
        ([1, 2], "val", ["both"]),
        (3, "val", ["a crowd", "many"]),
        (5, "val", ["c"]),
    ]
    data = opened(write_refer(tmp_path / "mixed", IMAGE_OF, refs, crowds=[3]))
    report = evaluate_expressions(Fake(), data)
    assert report.samples["ann_id"] == [1, 5]
    assert any(note.startswith("3 expressions that mean none") for note in report.notes)


def test_a_split_without_objects_is_refused(tmp_path: Path) -> None:
    data = opened(write_refer(tmp_path / "none", IMAGE_OF, [([1, 2], "val", ["both"])]))
    with pytest.raises(DataError, match="no single object"):
        evaluate_expressions(Fake(), data)


def test_data_without_objects_is_refused(three: Path) -> None:
    from refseg.data.catalog import open_data
    from tests.evaluate.fakes import LABELS

    with pytest.raises(DataError, match="without its objects"):
        evaluate_expressions(Fake(), open_data(three, "val", LABELS, pixels=False))


@pytest.mark.parametrize(("limit", "kept"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_limit_counts_objects(three: Path, limit: int, kept: list[int]) -> None:
    steps: list[int] = []
    report = evaluate_expressions(WRITER, opened(three), limit=limit, progress=steps.append)
    assert report.samples["ann_id"] == kept
    assert sum(steps) == len(kept)
    assert any("single object is 0" in note for note in report.notes) == (limit == 1)
    assert sum("idf" in note and "whole split" in note for note in report.notes) == (limit < 3)


def test_pictures_are_bounded_and_chunks_change_nothing() -> None:
    data, writer = opened("scenes"), Fake()
    whole = evaluate_expressions(writer, data, judge=Fake(name="judge"))
    pieces = Fake()
    again = evaluate_expressions(
        pieces, data, judge=Fake(name="judge"), pictures_at_once=1, beams=1
    )
    assert whole.metrics == again.metrics
    assert whole.samples == again.samples
    assert (writer.pictures, set(pieces.pictures)) == ([2], {1})
    assert (writer.beams, pieces.beams) == ({3}, {1})


# -- Words -----------------------------------------------------------------------------------------


def test_loops_run_on_and_count_as_the_words_they_repeat(three: Path) -> None:
    said = {1: "sitowingowingowing", 2: "polka dot dot", 3: "its its its"}
    report = evaluate_expressions(Fake(said.get), opened(three))
    assert report.samples["runs on"] == [True, False, True]
    assert report.metrics["runs on"] == pytest.approx(2 / 3)
    assert report.intervals["runs on"][0] <= 2 / 3 <= report.intervals["runs on"][1]
    assert report.metrics["words"] == (4 + 3 + 3) / 3
    assert report.metrics["distinct"] == 1


def test_a_sentence_as_long_as_can_be_runs_on(three: Path) -> None:
    """The limit is in word pieces, [CLS] and [SEP] included, and known of the method alone."""
    vocabulary = [*SPECIALS, "red", "ball", "##s", "in", "front", "of"]
    said = {1: "red balls in front of", 2: "red ball in front of", 3: ""}  # 6, 5 and no pieces
    for longest, told in ((8, [True, False, False]), (7, [True, True, False]), (9, [False] * 3)):
        writer = Fake(said.get, method=heads(word_limits={"generator.max_words": longest}))
        writer.tokenizer = wordpiece(vocabulary, max_words=7)
        assert evaluate_expressions(writer, opened(three)).samples["runs on"] == told


# -- Referring back -------------------------------------------------------------------------------


def test_accuracies_equal_a_plain_loop() -> None:
    data = opened("scenes")
    writer = Fake(lambda n: f"ball {n}", lambda n, text: n % 2 == 0)
    judge = Fake(finds=lambda n, text: (n + len(text)) % 3 > 0, name="judge")
    report = evaluate_expressions(writer, data, judge=judge)
    said: dict[int, list[str]] = {}
    for index in range(len(data)):
        sample = data[index]
        said.setdefault(int(sample.objects.ann_ids[sample.target]), []).append(sample.text)
    assert report.samples["ann_id"] == sorted(said)
    hits = [(n + len(f"ball {n}")) % 3 > 0 for n in sorted(said)]
    assert report.samples["hit"] == hits
    assert report.metrics["Rb-Acc"] == np.mean(hits)
    assert report.metrics[OWN] == np.mean([n % 2 == 0 for n in said])
    human = [(n + len(text)) % 3 > 0 for n, texts in said.items() for text in texts]
    assert report.metrics[HUMAN] == pytest.approx(np.mean(human))
    assert 0 < report.metrics["Rb-Acc"] != report.metrics[HUMAN] < 1
    for name in ("Rb-Acc", OWN, HUMAN):
        assert report.intervals[name][0] <= report.metrics[name] <= report.intervals[name][1]
    assert report.judge == "judge"


def test_without_a_judge_its_metrics_are_missing_and_that_is_said(three: Path) -> None:
    report = evaluate_expressions(WRITER, opened(three))
    assert {OWN} == {name for name in report.metrics if name.startswith("Rb-Acc")}
    assert report.judge is None
    assert report.samples["hit"] == [None] * 3
    assert any("no judge" in note for note in report.notes)


def test_regions_that_match_no_proposal_are_counted_not_dropped(three: Path) -> None:
    ious = {1: 0.5, 2: 0.49, 3: 0.9}
    report = evaluate_expressions(Fake(HYPOTHESES.get, iou=ious.get), opened(three))
    assert report.n == 3
    assert report.metrics["without a proposal"] == pytest.approx(1 / 3)
    assert report.samples["iou"] == [0.5, 0.49, 0.9]
    assert "without a proposal" not in evaluate_expressions(WRITER, opened(three)).metrics


def test_a_writer_that_cannot_read_has_no_head_of_its_own(three: Path) -> None:
    report = evaluate_expressions(Fake(HYPOTHESES.get, method=heads(select=False)), opened(three))
    assert OWN not in report.metrics
    assert report.samples["own"] == [None] * 3


@pytest.mark.parametrize("pictures_at_once", [1, 9])
def test_what_cannot_be_described_counts_as_a_failure(three: Path, pictures_at_once: int) -> None:
    writer = Fake(HYPOTHESES.get, refuses=[1, 2])
    judge = Fake(finds=lambda n, text: True, refuses=[3])
    report = evaluate_expressions(
        writer, opened(three), judge=judge, pictures_at_once=pictures_at_once
    )
    assert report.samples["text"] == ["", "", HYPOTHESES[3]]
    assert report.samples["CIDEr"] == pytest.approx([0, 0, CIDER[3]], abs=1e-6)
    assert report.samples["own"] == [False, False, True]
    assert report.samples["hit"] == [False, False, False]
    assert report.metrics["without a proposal"] == pytest.approx(2 / 3)
    assert report.metrics[HUMAN] == pytest.approx(6 / 8)
    for told, image_id in (
        ("2 objects could not be described and count as failures", 10),
        ("1 objects do not exist for the judge and count as misses", 11),
    ):
        reason = f"{told} (image {image_id}: no proposal stands for object 0)"
        assert report.notes.count(reason) == 1


def test_an_empty_sentence_finds_nothing(three: Path) -> None:
    report = evaluate_expressions(Fake(lambda n: ""), opened(three), judge=Fake())
    assert report.samples["hit"] == report.samples["own"] == [False] * 3
    assert report.metrics["CIDEr"] == 0


def test_where_nothing_can_be_described_the_reason_is_raised(three: Path) -> None:
    with pytest.raises(NoProposal, match="image 10: no proposal stands for object 0"):
        evaluate_expressions(Fake(refuses=[1, 2, 3]), opened(three))


# -- Rendered worlds ------------------------------------------------------------------------------


def first_sentence(data) -> dict[int, str]:
    said: dict[int, str] = {}
    for index in range(len(data)):
        sample = data[index]
        said.setdefault(int(sample.objects.ann_ids[sample.target]), sample.text)
    return said


def test_what_people_wrote_means_its_object() -> None:
    """By construction, in the splits for evaluation: so annotations and scenes are aligned."""
    for name in ("scenes", "scenes+", "scenesg"):
        for split in ("val", "testA", "testB"):
            data = opened(name, split)
            report = evaluate_expressions(Fake(first_sentence(data).get), data)
            assert report.metrics["unambiguous"] == 1, (name, split)


@pytest.mark.parametrize("text", ["the ball", "left thing", "red cube", "zebra the", "thing", ""])
def test_meanings_equal_a_loop_over_the_oracle(text: str, cache: Path) -> None:
    data = opened("scenes")
    report = evaluate_expressions(Fake(lambda n: text), data)
    scenes = dict(read_scenes(next(cache.glob("scenes-v*"))))
    counts = dict.fromkeys(MEANINGS, 0)
    boxes = {
        int(n): box
        for index in range(len(data))
        for n, box in zip(data[index].objects.ann_ids, data[index].objects.boxes_xyxy, strict=True)
    }
    for ann_id, image_id in zip(report.samples["ann_id"], report.samples["image_id"], strict=True):
        scene = scenes[image_id]
        # Found by its box, not by its number.
        target = next(o for o in scene.objects if np.allclose(o.box_xyxy, boxes[ann_id]))
        try:
            meant = referents(text, scene)
        except UnparsableExpression:
            counts["not understood"] += 1
            continue
        name = {0: "means none", 1: "means another"}.get(len(meant), "means several")
        counts["unambiguous" if meant == {target.object_id} else name] += 1
    found = {name: report.metrics[name] for name in MEANINGS}
    assert found == pytest.approx({name: n / report.n for name, n in counts.items()})
    assert sum(found.values()) == pytest.approx(1)


def test_every_meaning_occurs(cache: Path) -> None:
    scenes = [scene for _, scene in read_scenes(next(cache.glob("scenes-v*")))]
    scene = next(s for s in scenes if len(referents("leftmost thing", s)) == 1)
    (first,) = referents("leftmost thing", scene)
    other = next(o.object_id for o in scene.objects if o.object_id != first)
    kinds = {o.kind for o in scene.objects}
    absent = next(kind for kind in ("cube", "ball", "cone", "mug", "ring") if kind not in kinds)
    assert [
        meaning("leftmost thing", scene, first),
        meaning("thing", scene, first),
        meaning("leftmost thing", scene, other),
        meaning(absent, scene, first),
        meaning("zebra", scene, first),
    ] == list(MEANINGS)


def test_a_foreign_list_of_scenes_is_not_believed(three: Path, cache: Path) -> None:
    assert "unambiguous" not in evaluate_expressions(WRITER, opened(three)).metrics
    scenes = (next(cache.glob("scenes-v*")) / "scenes.jsonl").read_text()
    (three.parent / "scenes.jsonl").write_text(scenes)
    report = evaluate_expressions(WRITER, opened(three))
    assert "unambiguous" not in report.metrics
    assert any("lists other objects" in note for note in report.notes)


# -- The report -----------------------------------------------------------------------------------


def test_the_report_is_json() -> None:
    report = evaluate_expressions(Fake(), opened("scenes+", "testA"), judge=Fake(name="judge"))
    told = json.loads(json.dumps(report.to_json()))
    assert "samples" not in told
    assert (told["task"], told["data"], told["split"]) == ("expressions", "scenes+", "testA")
    assert told["metrics"] == dict(report.metrics)
    whole = json.loads(json.dumps(report.to_json(samples=True)))
    assert whole["samples"] == report.samples
    assert {len(column) for column in whole["samples"].values()} == {report.n}
