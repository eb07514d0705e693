"""Masks: one sentence a ref, refs that have masks already, and outlines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refseg.data.catalog import open_data, open_records
from refseg.data.dataset import draw
from refseg.errors import ConfigError, DataError
from refseg.label import LabelOptions, label
from refseg.label.masks import MaskTask
from refseg.types import Labels
from tests.label.conftest import entries, lines
from tests.label.fakes import Teacher

PAPER = 0.1
Masks = Callable[..., LabelOptions]


# -- what is asked ------------------------------------------------------------------------------


def test_one_sentence_of_each_ref(masks: Masks, knows: Teacher) -> None:
    records = open_records("scenes")
    rows = {int(ref.ref_id): list(ref.sent_rows) for ref in records.refs() if ref.split == "train"}
    sent_ids = records.column("sentences", "sent_id")
    drawn = {}
    for seed in (0, 1):
        out = Path(f"seed{seed}")
        result = label(masks(per_ref=True, seed=seed, out=out), workers=1)
        told = {line["ref_id"]: line["sent_id"] for line in lines(out)}
        assert result.asked == len(rows) == len(told)
        for ref_id, sentences in rows.items():
            row = sentences[draw(seed, 0, ref_id, len(sentences))]
            assert told[ref_id] == sent_ids[row]
        drawn[seed] = told
    assert drawn[0] != drawn[1]


def test_refs_with_masks_are_not_asked(masks: Masks, knows: Teacher) -> None:
    """All of the first picture, and some of the others: the limit counts pictures that are left."""
    source = entries("scenes", "text+box")
    first, *others = sorted({entry.image_id for entry in source})
    skip = {entry.ref_id for entry in source if entry.image_id == first}
    skip |= {entry.ref_id for entry in source if entry.image_id != first and entry.ref_id % 3 == 0}
    result = label(masks(skip_refs=frozenset(skip), limit=2), workers=1)
    told = lines(Path("taught"))
    assert skip & {entry.ref_id for entry in source if entry.image_id in others[:2]}
    assert {(line["ref_id"], line["sent_id"]) for line in told} == {
        (entry.ref_id, entry.sent_id)
        for entry in source
        if entry.image_id in others[:2] and entry.ref_id not in skip
    }
    assert result.left_out["mask known"] == sum(entry.ref_id in skip for entry in source)
    assert result.asked + sum(result.left_out.values()) == len(source)
    everything = frozenset(entry.ref_id for entry in source)
    with pytest.raises(DataError, match=r"no expression is left .* with masks already"):
        label(masks(skip_refs=everything, out=Path("none")), workers=1)


def test_they_belong_to_the_job(masks: Masks) -> None:
    plain = masks()
    told = plain.identity()
    changed = [
        {"agree": 0.2}, {"agree": 0.1}, {"per_ref": True}, {"per_ref": True, "seed": 1},
        {"polygons": True}, {"skip_refs": frozenset({1})}, {"skip_refs": frozenset({1, 2})},
    ]  # fmt: skip
    others = [json.dumps(replace(plain, **change).identity()) for change in changed]
    assert len({json.dumps(told), *others}) == len(changed) + 1
    assert replace(plain, seed=1).identity() == told
    many = replace(plain, skip_refs=frozenset(range(9000))).identity()["skip_refs"]
    assert many.startswith("9000 ids, ")
    words = {"agree", "per_ref", "polygons", "skip_refs"}
    assert not words & set(replace(plain, task="expressions", agree=0.1).identity())


def test_workers_are_told(masks: Masks) -> None:
    """All but the refs that are skipped, which the plan has settled."""
    given = masks(agree=PAPER, per_ref=True, seed=3, polygons=True, skip_refs=frozenset({1, 2}))
    told = LabelOptions.from_json(json.loads(json.dumps(given.to_json())))
    assert told == replace(given, skip_refs=frozenset())
    assert MaskTask(told).labels_seen == "text+box"


# -- outlines -----------------------------------------------------------------------------------


def test_outlines_as_the_model_predicts_them(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a line of two points, which COCO's tools would take for a box."""
    knows = Teacher("scenes", "train", outlines=True).install(monkeypatch.setattr)
    label(masks(agree=PAPER, polygons=True), workers=1)
    answers = {sample.key: knows.answer(sample) for sample in knows.shown}
    content = json.loads(Path("taught/instances.json").read_text())
    kept = [line for line in lines(Path("taught")) if line["projection"] < PAPER]
    assert len(content["annotations"]) == len(kept) > 0
    for one, line in zip(content["annotations"], kept, strict=True):
        predicted = answers[f"{line['ref_id']}-{line['sent_id']}"]
        flat = [[float(number) for number in predicted.polygons[0].reshape(-1)]]
        assert one["segmentation"] == flat
        assert one["area"] == predicted.mask.sum()
    taught = open_data("taught", "train", Labels.parse("text+mask"))
    source_key = {line["sent_id"]: f"{line['ref_id']}-{line['sent_id']}" for line in kept}
    for index in range(len(taught)):
        sample = taught[index]
        np.testing.assert_array_equal(sample.mask, answers[source_key[sample.sent_id]].mask)


def test_masks_of_a_model_with_outlines(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a student learns from the filled mask, even here."""
    Teacher("scenes", "train", outlines=True).install(monkeypatch.setattr)
    label(masks(agree=PAPER), workers=1)
    content = json.loads(Path("taught/instances.json").read_text())
    assert {tuple(one["segmentation"]) for one in content["annotations"]} == {("size", "counts")}


def test_outlines_of_a_model_without(masks: Masks, knows: Teacher) -> None:
    with pytest.raises(ConfigError, match="has no polygons") as error:
        label(masks(agree=PAPER, polygons=True), workers=1)
    assert "leave out --polygons" in error.value.remedy
    assert not Path("taught/instances.json").exists()
