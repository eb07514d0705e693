"""The REFER reader: what it gives for a known tree, and what it says about a broken one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import (
    SQUARE,
    SQUARE_BESIDE,
    make_refer_tree,
    malicious_pickle,
    refer_content,
    write_refs,
)

from refseg.data import refer
from refseg.data.records import Records
from refseg.errors import DataError, UnknownName


def texts(records: Records) -> list[str]:
    return [records.sentence(row).raw for row in range(records.count("sentences"))]


def test_every_field_of_the_source_is_in_the_normal_form(tmp_path: Path) -> None:
    records = refer.read(make_refer_tree(tmp_path))
    refs, instances = refer_content()
    assert (records.meta.dataset, records.meta.split_by) == ("refcoco", "unc")
    assert records.count("refs") == len(refs)
    anns = {ann["id"]: ann for ann in instances["annotations"]}
    names = {c["id"]: c["name"] for c in instances["categories"]}
    for source, got in zip(refs, records.refs(), strict=True):
        assert (got.ref_id, got.split) == (source["ref_id"], source["split"])
        assert records.image(got.image_row).image_id == source["image_id"]
        wanted = [n for n in np.atleast_1d(source["ann_id"]).tolist() if n != -1]
        assert got.empty == (wanted == [])
        for ann_id, row in zip(wanted, got.ann_rows, strict=True):
            target = records.annotation(row)
            assert target.ann_id == ann_id
            assert target.category == names[anns[ann_id]["category_id"]]
            assert target.image_row == got.image_row
            assert target.iscrowd == bool(anns[ann_id]["iscrowd"])
            assert records.box_xywh(row).tolist() == anns[ann_id]["bbox"]
            assert records.segmentation(row) == anns[ann_id]["segmentation"]
        for said, row in zip(source["sentences"], got.sent_rows, strict=True):
            sentence = records.sentence(row)
            assert (sentence.sent_id, sentence.raw, sentence.sent) == (
                said["sent_id"], said["raw"], said["sent"]
            )  # fmt: skip
            assert records.ref(sentence.ref_row).ref_id == got.ref_id


def test_unreferred_objects_are_kept_and_grouped_by_image(tmp_path: Path) -> None:
    records = refer.read(make_refer_tree(tmp_path))
    instances = refer_content()[1]
    for row in range(records.count("images")):
        image = records.image(row)
        stated = [a["id"] for a in instances["annotations"] if a["image_id"] == image.image_id]
        assert [records.annotation(r).ann_id for r in records.annotation_rows(row)] == stated
    assert records.segmentation(records.annotation_rows(0)[0]) == [SQUARE, SQUARE_BESIDE]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, None])
def test_pickle_protocols_and_json_give_the_same(tmp_path: Path, protocol: int | None) -> None:
    plain = refer.read(make_refer_tree(tmp_path / "a"))
    other = refer.read(make_refer_tree(tmp_path / "b", protocol=protocol))
    assert list(plain.refs()) == list(other.refs())
    assert texts(plain) == texts(other)


def test_a_missing_raw_or_sent_takes_the_other(tmp_path: Path) -> None:
    def edit(refs: list[Any], instances: Any) -> None:
        del refs[0]["sentences"][0]["raw"]
        refs[0]["sentences"][1]["sent"] = ""

    records = refer.read(make_refer_tree(tmp_path, edit=edit))
    assert records.sentence(0).raw == "the left one"
    assert records.sentence(1).sent == "Man in Front"


def test_other_keys_are_kept_as_extra(tmp_path: Path) -> None:
    def edit(refs: list[Any], instances: Any) -> None:
        refs[0]["source"] = "zero"
        refs[0]["sentences"][1] |= {"ambiguous": True, "weight": 0.5}

    records = refer.read(make_refer_tree(tmp_path, edit=edit))
    assert records.ref(0).extra == {"source": "zero"}
    assert [records.sentence(row).ambiguous for row in range(3)] == [False, True, False]
    assert records.sentence(1).extra == {"weight": 0.5}


SPLITS = ["train", "val", "testA", "testB", "testAB", "testBC", "test"]


@given(st.lists(st.sampled_from(SPLITS)), st.sampled_from([*SPLITS, "testC", "all", "dev"]))
def test_the_split_rule_against_refers_own_wording(labels: list[str], wanted: str) -> None:
    def belongs(label: str) -> bool:  # as the notes word REFER's filter
        if wanted == "all":
            return True
        if wanted in ("testA", "testB", "testC"):
            return "test" in label and wanted[-1] in label[len("test") :]
        if wanted == "test":
            return "test" in label
        return label == wanted

    assert refer.splits_matching(labels, wanted) == sorted(filter(belongs, set(labels)))


def test_the_only_split_by_is_taken_and_a_choice_is_asked_for(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path, name="refcocog", split_by="umd")
    assert refer.read(folder).meta.split_by == "umd"
    with pytest.raises(UnknownName, match="umd"):
        refer.read(folder, split_by="unc")
    write_refs(folder, refer_content()[0], "google")
    with pytest.raises(DataError, match="google, umd"):
        refer.read(folder)
    assert refer.read(folder, split_by="google").meta.split_by == "google"


def test_estimated_sizes_are_known_as_such(tmp_path: Path) -> None:
    def edit(refs: Any, instances: Any) -> None:
        instances["info"]["size_note"] = "width and height are estimated from the boxes"
        del instances["images"][0]["height"]
        instances["images"][1]["width"] = None

    records = refer.read(make_refer_tree(tmp_path, edit=edit))
    assert not records.meta.sizes_exact
    assert (records.image(0).height, records.image(0).width) == (0, 64)
    assert records.image(1).width == 0
    assert refer.read(make_refer_tree(tmp_path / "exact")).meta.sizes_exact


def drop(key: str, where: Callable[[list[Any], Any], Any]) -> Callable[[list[Any], Any], None]:
    return lambda refs, instances: where(refs, instances).pop(key)


def put(key: str, value: Any, where: Callable[[list[Any], Any], Any]) -> Any:
    return lambda refs, instances: where(refs, instances).__setitem__(key, value)


BROKEN = {
    "unknown annotation": (put("ann_id", 999, lambda r, i: r[1]), r"ref_id 1, ann_id 999", 7),
    "unknown image": (put("image_id", 999, lambda r, i: r[1]), r"ref_id 1, image_id 999", 7),
    "two refs with one id": (put("ref_id", 0, lambda r, i: r[1]), r"one id: ref_id 0", 7),
    "no sentence": (put("sentences", [], lambda r, i: r[1]), r"without a sentence: ref_id 1", 7),
    "no split": (drop("split", lambda r, i: r[1]), r"ref without 'split': \(1, ", 7),
    "split is a number": (put("split", 3, lambda r, i: r[1]), "ref with a value of a wrong", 7),
    "text is a number": (put("raw", 3, lambda r, i: r[1]["sentences"][0]), "wrong kind", 7),
    "last sentence broken": (put("sent_id", "x", lambda r, i: r[0]["sentences"][2]), r"\(0, ", 7),
    "ref is no dict": (lambda r, i: r.__setitem__(1, 5), "value of a wrong kind: .*5", 7),
    "two images with one id": (put("id", 101, lambda r, i: i["images"][2]), "image_id 101", 6),
    "image without an id": (drop("id", lambda r, i: i["images"][3]), "image without 'id'", 6),
    "height is text": (put("height", "48", lambda r, i: i["images"][3]), "wrong kind", 6),
    "annotation of no image": (
        put("image_id", 5, lambda r, i: i["annotations"][2]), "ann_id 12, image_id 5", 7
    ),
    "two annotations with one id": (
        put("id", 41, lambda r, i: i["annotations"][2]), "one id: ann_id 41", 7
    ),
    "box of three": (put("bbox", [1, 2, 3], lambda r, i: i["annotations"][2]), "ann_id 12", 7),
    "box of words": (put("bbox", list("abcd"), lambda r, i: i["annotations"][2]), "annotation", 7),
    "segmentation of words": (
        put("segmentation", "abc", lambda r, i: i["annotations"][2]), "known form: ann_id 12", 7
    ),
    "polygon of words": (
        put("segmentation", [[1, 2, "x"]], lambda r, i: i["annotations"][2]), "ann_id 12", 7
    ),
    "rle without counts": (
        put("segmentation", {"size": [2, 2]}, lambda r, i: i["annotations"][2]), "ann_id 12", 7
    ),
    "second rle broken": (
        put("segmentation", [{"size": [2, 2], "counts": "0"}, 5], lambda r, i: i["annotations"][2]),
        "ann_id 12", 7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_contradiction_fails_strictly_and_is_counted_otherwise(tmp_path: Path, case: str) -> None:
    edit, says, left = BROKEN[case]
    folder = make_refer_tree(tmp_path, edit=edit)
    with pytest.raises(DataError, match=says) as caught:
        refer.read(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy

    records = refer.read(folder, strict=False)
    assert records.count("refs") == left
    lost = 4 + 8 + 8 - sum(records.count(name) for name in ("images", "annotations", "refs"))
    assert sum(records.meta.skipped.values()) == lost > 0
    # What is left is whole: every table still joins with every other.
    for ref in records.refs():
        image = records.image(ref.image_row)
        for row in ref.ann_rows:
            assert records.image(records.annotation(row).image_row) == image
            records.box_xywh(row)
            records.segmentation(row)
        assert all(records.ref(records.sentence(s).ref_row) == ref for s in ref.sent_rows)
        assert len(ref.sent_rows) > 0
    assert records.count("boxes") == records.count("segmentations") == records.count("annotations")


def test_a_category_nobody_named_is_called_by_its_number(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path, edit=lambda r, i: i["categories"].pop(1))
    records = refer.read(folder)
    assert records.annotation(records.ref(1).ann_rows[0]).category == "2"


def test_files_that_are_absent_or_not_what_they_say(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    instances = folder / "instances.json"
    whole = instances.read_text()
    for content, says in (
        (whole[:-100], "truncated"),
        ("[]", 'no list "images"'),
        (json.dumps({"images": [], "annotations": []}), 'no list "categories"'),
        ("\udce9".encode("utf-8", "surrogateescape") + b"", "not readable json"),
    ):
        instances.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=says):
            refer.read(folder)
    instances.unlink()
    with pytest.raises(DataError, match=r"instances\.json: No such file"):
        refer.read(folder)
    instances.write_text(whole)
    (folder / "refs(unc).p").unlink()
    with pytest.raises(DataError, match="no refs"):
        refer.read(folder)
    write_refs(folder, {"a": 1})
    with pytest.raises(DataError, match="a list of refs was expected, not dict"):
        refer.read(folder)
    canary = tmp_path / "ran"
    malicious_pickle(folder / "refs(unc).p", canary)
    with pytest.raises(DataError, match=r"exec"):
        refer.read(folder)
    assert not canary.exists()


def test_half_a_surrogate_pair_in_a_sentence_does_not_break_the_store(tmp_path: Path) -> None:
    def edit(refs: list[Any], instances: Any) -> None:
        refs[0]["sentences"][0] |= {"raw": "left \ud83d one", "sent": "naïve 猫"}

    records = refer.read(make_refer_tree(tmp_path, protocol=None, edit=edit))
    assert records.sentence(0).raw == "left ? one"
    assert records.sentence(0).sent == "naïve 猫"
