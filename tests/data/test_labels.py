"""The labels contract: what is not granted is absent and stays on disk, unopened and undecoded."""

from __future__ import annotations

import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import make_refer_tree

from refseg.data import dataset as dataset_module
from refseg.data.catalog import converted_store, open_data
from refseg.data.info import describe_records
from refseg.data.records import TABLES, Records
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


def test_of_a_mask_that_is_withheld_nothing_is_read_or_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes for all, masks for refs 5 and 6; a withheld one is not even looked up."""
    folder = make_refer_tree(tmp_path)
    few = Labels(frozenset({"box", "mask"}), frozenset({5, 6}))
    all_boxes = {s.key: s.box_xyxy for s in open_data(folder, "all", Labels.parse("box"))}

    def explode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a mask was read")

    for place, name in (
        (mask_ops, "decode_segmentation"),
        (mask_ops, "polygons_to_mask"),
        (mask_ops, "rle_decode"),
        (dataset_module, "read_mask_file"),
        (Records, "segmentation"),
    ):
        monkeypatch.setattr(place, name, explode)
    data = open_data(folder, "all", few)
    withheld = [n for n in range(len(data)) if data.entry(n).ref_id != 5]
    assert len(withheld) == 10
    assert all(data.picture(row).objects is None for row in data.picture_rows())
    for sample in [*data.samples(withheld), *(data[n] for n in withheld)]:
        assert (sample.mask is not None) == (sample.ref_id == 6)  # which means nothing: no target
        assert (sample.parts, sample.empty) == (0, sample.ref_id == 6)
        box = all_boxes[sample.key]
        assert np.array_equal(sample.box_xyxy, box) if box is not None else sample.ref_id == 6
    with pytest.raises(AssertionError, match="read"):
        data.samples([n for n in range(len(data)) if n not in withheld])


@pytest.mark.parametrize("granted", [{"mask"}, {"box", "mask"}, {"category", "mask"}])
def test_parts_and_emptiness_are_told_of_the_refs_that_may_be_seen(
    tmp_path: Path, granted: set[str]
) -> None:
    folder = make_refer_tree(tmp_path)
    whole = {s.key: s for s in open_data(folder, "all", Labels(frozenset(granted)))}
    for sample in open_data(folder, "all", Labels(frozenset(granted), frozenset({0, 2, 5, 6}))):
        told = whole[sample.key]
        if sample.ref_id in {0, 2, 5, 6}:
            assert np.array_equal(sample.mask, told.mask)
            assert (sample.parts, sample.empty) == (told.parts, told.empty)
            assert (sample.parts, sample.empty) == ((0, True) if sample.ref_id == 6 else (2, False))
        else:
            assert (sample.mask, sample.parts) == (None, 0)
            assert sample.empty == (False if "box" in granted else None)


@pytest.mark.parametrize("view", ["sentence", "ref"])
@pytest.mark.parametrize("refs", [None, frozenset(), frozenset({5, 6, 0}), frozenset({1, 999})])
def test_refs_without_a_mask_to_be_seen_are_left_out_on_request(
    tmp_path: Path, refs: frozenset[int] | None, view: Any
) -> None:
    labels = Labels(frozenset({"mask"}), refs)
    data = open_data(make_refer_tree(tmp_path), "val", labels, view=view)
    entries = [data.entry(n) for n in range(len(data))]
    wanted = [e.key for e in entries if labels.allows("mask", e.ref_id)]
    only = data.with_options(masked_only=True)
    only = pickle.loads(pickle.dumps(only))
    assert [only.entry(n).key for n in range(len(only))] == wanted
    short = only.with_options(limit=2)  # of those that are left
    assert [short.entry(n).key for n in range(len(short))] == wanted[:2]
    assert all(sample.mask is not None for sample in only)


def test_a_filter_on_masks_needs_masks(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    with pytest.raises(LabelsError, match="masked_only") as caught:
        open_data(folder, "val", Labels.parse("box"), masked_only=True)
    assert '"mask"' in caught.value.remedy
    few = Labels(frozenset({"mask"}), frozenset({1}))
    assert [s.ref_id for s in open_data(folder, "val", few, masked_only=True)] == [1]


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
