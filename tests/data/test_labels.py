"""The labels contract: what is not granted is absent and stays on disk, unopened and undecoded."""

from __future__ import annotations

import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_refer_tree

from refseg.data.catalog import converted_store, open_data
from refseg.data.info import describe_records
from refseg.data.records import TABLES
from refseg.errors import DataError, LabelsError
from refseg.evaluate import target_mask
from refseg.ops import masks as mask_ops
from refseg.types import LABEL_KINDS, Labels

# The files that each label needs; whatever is in none of a grant's lists must stay shut.
NEEDS = {
    "text": {"images", "refs", "sentences"},
    "box": {"boxes"},
    "mask": {"segmentations"},
    "category": {"annotations", "categories"},
}
GRANTS = [
    frozenset(("text", *extra))
    for n in range(4)
    for extra in combinations([kind for kind in LABEL_KINDS if kind != "text"], n)
]


@pytest.mark.parametrize("granted", GRANTS, ids=lambda granted: "+".join(sorted(granted)))
def test_with_the_other_files_deleted_everything_granted_still_works(
    tmp_path: Path, granted: frozenset[str]
) -> None:
    folder = make_refer_tree(tmp_path)
    store = converted_store(folder)
    needed = set().union(*(NEEDS[kind] for kind in granted))
    # A whole store is opened first; then the files nobody may see are taken away.
    data = open_data(folder, "all", Labels(granted))
    for table in set(TABLES) - needed:
        (store / f"{table}.arrow").unlink()
    data = pickle.loads(pickle.dumps(data))
    samples = [data[index] for index in range(len(data))]
    data.groups_by_image()
    data.samples(range(3))
    assert data.records.tables_opened <= needed
    assert len(samples) == 12
    for sample in samples:
        assert (sample.mask is not None) == ("mask" in granted)
        assert (sample.parts > 0) == ("mask" in granted and not sample.empty)
        assert (sample.box_xyxy is not None) == ("box" in granted and not sample.empty)
        assert (sample.category is not None) == ("category" in granted and sample.ref_id != 6)
        assert (sample.empty is not None) == bool({"mask", "box"} & granted)
        assert sample.text


def test_no_mask_is_decoded_when_none_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a mask was decoded")

    for name in ("decode_segmentation", "polygons_to_mask", "rle_decode"):
        monkeypatch.setattr(mask_ops, name, explode)
    folder = make_refer_tree(tmp_path)  # conversion must not decode either
    for grant in ("text", "text+box", "text+box+category"):
        data = open_data(folder, "all", Labels.parse(grant))
        assert all(sample.mask is None for sample in data)
    with pytest.raises(AssertionError, match="decoded"):
        open_data(folder, "all", Labels.parse("mask"))[0]


def test_the_decoder_is_called_once_for_each_target_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = mask_ops.decode_segmentation
    monkeypatch.setattr(
        mask_ops, "decode_segmentation", lambda *a, **k: calls.append(a) or real(*a, **k)
    )
    folder = make_refer_tree(tmp_path)
    # ref 5 has two targets and two sentences, ref 1 one of each; ref 6 is granted but has none.
    data = open_data(folder, "val", Labels(frozenset({"mask"}), frozenset({5, 6})))
    got = {sample.key: sample for sample in data}
    assert len(calls) == 4
    assert {key for key, sample in got.items() if sample.mask is not None} == {
        "5-50", "5-51", "6-60"
    }  # fmt: skip
    assert got["1-10"].empty is None
    assert got["5-50"].empty is False
    assert got["6-60"].empty is True
    assert not got["6-60"].mask.any()


def test_a_box_is_not_derived_from_a_granted_mask(tmp_path: Path) -> None:
    sample = open_data(make_refer_tree(tmp_path), "train", Labels.parse("mask"))[0]
    assert sample.mask is not None
    assert sample.box_xyxy is None


def test_a_filter_on_boxes_needs_boxes(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    with pytest.raises(LabelsError, match="min_box_share"):
        open_data(folder, "val", Labels.parse("text+mask"), min_box_share=0.05)


def test_masks_are_not_promised_where_there_are_none(tmp_path: Path) -> None:
    def edit(refs: Any, instances: Any) -> None:
        for ann in instances["annotations"]:
            ann["segmentation"] = []

    folder = make_refer_tree(tmp_path, edit=edit)
    with pytest.raises(DataError, match="no object in it has one"):
        open_data(folder, "val", Labels.parse("mask"))
    assert np.allclose(
        open_data(folder, "train", Labels.parse("box"))[0].box_xyxy, [10, 10, 25, 25]
    )


def test_an_object_without_a_mask_is_unknown_not_empty(tmp_path: Path) -> None:
    def edit(refs: Any, instances: Any) -> None:
        instances["annotations"][2]["segmentation"] = []

    data = open_data(make_refer_tree(tmp_path, edit=edit), "val", Labels.parse("mask"))
    sample = data[0]
    assert sample.mask is None
    assert sample.empty is False
    with pytest.raises(DataError, match="image 101 has a target without a mask"):
        target_mask(sample)


def test_the_description_of_a_data_set_looks_at_granted_tables_only(tmp_path: Path) -> None:
    data = open_data(make_refer_tree(tmp_path), "val", Labels())
    found = describe_records(data.records, data.labels)
    assert data.records.tables_opened <= NEEDS["text"]
    assert found["labels"] == ["text"]
    assert found["objects"] is None
    assert found["multi_target_refs"] is None
