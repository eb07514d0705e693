"""The task "masks": what a student reads is what the teacher answered."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refseg.baselines import centre_disc
from refseg.data.catalog import data_info, open_data
from refseg.data.refer import load_refs
from refseg.errors import DataError, UnknownName
from refseg.label import LabelOptions, label
from refseg.models import Model
from refseg.types import Geometry, Labels, Prediction, Sample

LABELS = Labels.parse("text+box+mask")
shown: list[Sample] = []


def answer(sample: Sample) -> Prediction:
    """A disc that its words move about; nothing at all for some."""
    hw = sample.image.shape[0], sample.image.shape[1]
    letters = sum(map(ord, sample.text))
    mask = np.roll(centre_disc(hw), 3 * (letters % 7) - 9, axis=1)
    return Prediction(mask & (letters % 5 > 0), 0.25, Geometry(hw, hw, (1.0, 1.0)))


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(self: Model, samples: Sequence[Sample]) -> list[Prediction]:
        shown.extend(samples)
        return [answer(sample) for sample in samples]

    shown.clear()
    monkeypatch.setattr(Model, "predict", predict)


def options(teacher: Path, **changes: Any) -> LabelOptions:
    given: dict[str, Any] = {
        "model": str(teacher), "task": "masks", "data": "scenes", "out": Path("taught"),
        "split": "val", "shard_images": 1, **changes,
    }  # fmt: skip
    return LabelOptions(**given)


def test_every_sentence_comes_back_with_its_mask(teacher: Path) -> None:
    source = open_data("scenes", "val", Labels())
    result = label(options(teacher), workers=1)
    taught = open_data("taught", "val", LABELS)
    assert len(taught) == len(source) == result.counts["refs"] == result.asked
    told = {taught[index].sent_id: taught[index] for index in range(len(taught))}
    nothing = 0
    for index in range(len(source)):
        asked = source[index]
        sample = told[asked.sent_id]
        mask = answer(asked).mask
        assert (sample.text, sample.image_id) == (asked.text, asked.image_id)
        assert sample.weight == 1
        np.testing.assert_array_equal(sample.image, asked.image)
        np.testing.assert_array_equal(sample.mask, mask)
        assert sample.empty == (not mask.any())
        if mask.any():
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(sample.box_xyxy, box)
        nothing += not mask.any()
    assert 0 < nothing == result.counts["nothing found"] < len(source)


def test_the_source_of_each_ref_is_on_record(teacher: Path) -> None:
    label(options(teacher), workers=1)
    source, taught = (open_data(name, "val", Labels()) for name in ("scenes", "taught"))
    ref_of = {source.entry(i).sent_id: source.entry(i).ref_id for i in range(len(source))}
    for index in range(len(taught)):
        entry = taught.entry(index)
        extra = taught.records.extra("refs", entry.ref_row)
        assert extra["source_ref_id"] == ref_of[entry.sent_id]
        assert extra["score"] == 0.25


def test_the_teacher_sees_no_label(teacher: Path) -> None:
    label(options(teacher), workers=1)
    assert len(shown) > 5
    for sample in shown:
        assert (sample.mask, sample.box_xyxy, sample.category, sample.empty) == (None,) * 4


def test_all_splits_keep_their_names(teacher: Path) -> None:
    label(options(teacher, split="all"), workers=1)
    before, after = data_info("scenes")["splits"], data_info("taught")["splits"]
    count = {name: (split["sentences"], split["images"]) for name, split in before.items()}
    assert {n: (split["sentences"], split["images"]) for n, split in after.items()} == count


def test_a_weight_arrives(teacher: Path) -> None:
    label(options(teacher, weight=0.25), workers=1)
    assert open_data("taught", "val", LABELS)[0].weight == 0.25


def test_written_sentences_stay_marked(teacher: Path) -> None:
    """A teacher may draw what another model wrote about."""
    label(options(teacher, weight=0.5), workers=1)
    refs = load_refs(Path("taught/refs(refseg).p"))
    refs[0]["sentences"][0]["pseudo"] = True
    Path("taught/refs(refseg).p").write_bytes(pickle.dumps(refs))
    label(options(teacher, data="taught", out=Path("again"), weight=0.5), workers=1)
    again = open_data("again", "val", LABELS)
    assert {again[index].weight for index in range(len(again))} == {0.25}
    assert sum(again[index].pseudo for index in range(len(again))) == 1


def test_pictures_can_be_left_out(teacher: Path) -> None:
    source = open_data("scenes", "train", Labels())
    ids = sorted({source.entry(index).image_id for index in range(len(source))})
    asked = options(
        teacher, split="train", exclude_images=frozenset(ids[:2]), limit=3, shard_images=2
    )
    result = label(asked, workers=1)
    taught = open_data("taught", "train", Labels())
    assert {taught.entry(i).image_id for i in range(len(taught))} == set(ids[2:5])
    assert result.asked + sum(result.left_out.values()) == len(source)
    assert result.left_out["excluded image"] > 0
    assert (result.images, result.shards) == (3, 2)


def test_no_expression_is_left(teacher: Path) -> None:
    everything = frozenset(range(1, 100))
    with pytest.raises(DataError, match="no expression is left"):
        label(options(teacher, exclude_images=everything))
    with pytest.raises(UnknownName, match="split"):
        label(options(teacher, split="valley"))
    assert not Path("taught").exists()
