"""Masks for a few: objects are drawn, repeatably, and the file that says which is believed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import make_refer_tree, refer_content

from refseg.data.builder import RecordsBuilder, Sentence
from refseg.data.catalog import open_data, open_records
from refseg.data.records import Records
from refseg.data.subset import (
    MaskSubset,
    check_subset,
    draw_subset,
    read_subset,
    refs_by_object,
    write_subset,
)
from refseg.errors import DataError, RunError, UnknownName
from refseg.types import Labels

Ref = tuple[int, tuple[int, ...], str]  # ref id, annotations, split

SUBSET = MaskSubset("refcoco", "unc", "train", 3, 0.01, 2, frozenset({12, 7, 9}))


def built(refs: list[Ref], annotations: int) -> Records:
    """A data set of one image with these refs in this order."""
    build = RecordsBuilder("d", "unc", source="here")
    build.image(1, "1.jpg", 8, 8)
    for ann_id in range(annotations):
        build.annotation(ann_id, 1, 1, [0, 0, 4, 4], None)
    for row, (ref_id, ann_ids, split) in enumerate(refs):
        build.ref(ref_id, 1, split, ann_ids, [Sentence(row, "text")])
    return build.finish()


@st.composite
def references(draw: st.DrawFn) -> list[Ref]:
    """Refs, of which several may mean the same things, none, or several things."""
    ids = draw(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True))
    meant = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    split = st.sampled_from(["train", "train", "val"])
    return [(ref_id, draw(meant), draw(split)) for ref_id in ids]


def loop_objects(refs: list[Ref]) -> list[list[int]]:
    objects: dict[tuple[int, ...], list[int]] = {}
    for ref_id, ann_ids, split in sorted(refs):
        if split == "train" and ann_ids:
            objects.setdefault(tuple(sorted(set(ann_ids))), []).append(ref_id)
    return list(objects.values())


# -- the draw ------------------------------------------------------------------------------------


@given(references(), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.integers(0, 99), st.randoms())
def test_objects_are_drawn_whole_nested_and_whatever_the_order(
    refs: list[Ref], one: float, other: float, seed: int, random: Any
) -> None:
    small, large = sorted((one, other))
    refs = [*refs, (1000, (4,), "train")]  # one object at least
    records, objects = built(refs, 5), loop_objects(refs)
    assert refs_by_object(records, "train") == objects
    drawn = draw_subset(records, "train", large, seed).ref_ids
    granted = [object_refs for object_refs in objects if set(object_refs) <= drawn]
    assert drawn == {ref_id for object_refs in granted for ref_id in object_refs}
    assert len(granted) == max(round(large * len(objects)), 1)
    assert draw_subset(records, "train", small, seed).ref_ids <= drawn
    random.shuffle(refs)
    shuffled = built([(ref_id, ann_ids[::-1], split) for ref_id, ann_ids, split in refs], 5)
    assert draw_subset(shuffled, "train", large, seed).ref_ids == drawn
    check_subset(drawn, records, "train")


@pytest.fixture(scope="module")
def thousand() -> Records:
    return built([(ref_id, (ref_id,), "train") for ref_id in range(1000)], 1000)


GOLDEN = [182, 315, 718, 921, 971]  # a draw must be repeatable with a later version


def test_the_seed_decides_alone(thousand: Records) -> None:
    drawn = [draw_subset(thousand, "train", 0.1, seed).ref_ids for seed in range(50)]
    assert all(len(refs) == 100 for refs in drawn)
    assert len(set(drawn)) == 50
    assert draw_subset(thousand, "train", 0.1, 0).ref_ids == drawn[0]
    counts = np.bincount([ref_id for refs in drawn for ref_id in refs], minlength=1000)
    # 50 draws of a tenth: binomial, mean 5 and variance 4.5.
    assert counts.mean() == 5
    assert 3.9 < counts.var() < 5.1
    assert sorted(draw_subset(thousand, "train", 0.005, 0).ref_ids) == GOLDEN


def test_a_subset_says_where_it_comes_from(thousand: Records) -> None:
    subset = draw_subset(thousand, "train", 0.0001, 7)
    assert len(subset.ref_ids) == 1
    assert replace(subset, ref_ids=frozenset({0})) == MaskSubset(
        "d", "unc", "train", 7, 0.0001, 1, frozenset({0})
    )
    whole = draw_subset(thousand, "train", 1, 7)
    assert (whole.objects, whole.ref_ids) == (1000, frozenset(range(1000)))


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_share_out_of_range_is_refused(thousand: Records, share: float) -> None:
    with pytest.raises(DataError, match=r"share of objects with masks is .*\n.*above 0"):
        draw_subset(thousand, "train", share, 0)


def test_a_split_without_objects_is_refused() -> None:
    records = built([(1, (), "train"), (2, (0,), "val")], 1)
    with pytest.raises(DataError, match="no expression of d train means an object"):
        draw_subset(records, "train", 0.5, 0)
    with pytest.raises(UnknownName):
        draw_subset(records, "test", 0.5, 0)
    assert draw_subset(records, "val", 0.5, 0).ref_ids == {2}


def test_a_large_data_set_takes_less_than_a_second() -> None:
    count = 42_000
    records = built([(n, (n // 3,), "train") for n in range(count)], count // 3)
    started = time.process_time()
    drawn = draw_subset(records, "train", 0.01, 0).ref_ids
    check_subset(drawn, records, "train")
    assert time.process_time() - started < 1
    assert len(drawn) == 3 * 140
    assert {n // 3 * 3 for n in drawn} == {n for n in drawn if n % 3 == 0}


def test_the_draw_reads_nothing_but_refs(tmp_path: Path) -> None:
    records = open_records(make_refer_tree(tmp_path))
    check_subset(draw_subset(records, "train", 0.5, 0).ref_ids, records, "train")
    assert records.tables_opened <= {"refs"}


# -- the file ------------------------------------------------------------------------------------


def test_a_subset_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "masks.json"
    write_subset(path, SUBSET)
    first = path.read_bytes()
    assert read_subset(path) == SUBSET
    assert json.loads(first)["ref_ids"] == [7, 9, 12]
    assert [file.name for file in path.parent.iterdir()] == ["masks.json"]
    write_subset(path, replace(SUBSET, ref_ids=frozenset(np.array([12, 9, 7]))))
    assert path.read_bytes() == first
    given_ids = replace(SUBSET, seed=None, share=None, objects=0)
    write_subset(path, given_ids)
    assert read_subset(path) == given_ids


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "masks.json"
    write_subset(path, SUBSET)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="disk is full"):
        write_subset(path, replace(SUBSET, ref_ids=frozenset({1})))
    assert read_subset(path) == SUBSET


@pytest.mark.parametrize("text", ["7\n9\n12\n", "\ufeff12\r\n\r\n 9 \r\n7", "7\n7\n9\n12"])
def test_a_list_of_ids_is_read_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "masks.txt"
    path.write_bytes(text.encode())
    assert read_subset(path) == MaskSubset("", "", "", None, None, 0, frozenset({7, 9, 12}))


def test_a_subset_has_a_ref() -> None:
    with pytest.raises(DataError, match="without a ref"):
        replace(SUBSET, ref_ids=frozenset())


def changed(**values: Any) -> Callable[[dict[str, Any]], str]:
    return lambda stated: json.dumps({**stated, **values})


def without(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda stated: json.dumps({k: v for k, v in stated.items() if k != key})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda stated: json.dumps(stated)[:-9], "not readable json, perhaps cut short"),
        (lambda stated: '{"a":' * 100_000, "not readable json"),
        (lambda stated: "[1, 2]", 'no "data"'),
        (without("sha256"), 'no "sha256"'),
        (without("ref_ids"), 'no "ref_ids"'),
        (without("seed"), 'no "seed"'),
        (changed(ref_ids=[7, 9, 13]), "not those that were written"),
        (changed(ref_ids=[7, 9]), "not those that were written"),
        (changed(sha256="0"), "not those that were written"),
        (changed(ref_ids=[7, 9, "12"]), "'12' is no ref id"),
        (changed(ref_ids=[7, 9, 12.0]), "12.0 is no ref id"),
        (changed(ref_ids=[7, True]), "True is no ref id"),
        (changed(ref_ids=[2**63]), "is no ref id"),
        (changed(ref_ids=[]), "no ref id in it"),
        (changed(ref_ids={"7": 1}), '"ref_ids" is'),
        (changed(seed="3"), "\"seed\" is '3'"),
        (changed(share="few"), '"share" is'),
        (changed(objects=None), '"objects" is None'),
        (changed(objects=True), '"objects" is True'),
        (changed(data=5), '"data" is 5'),
        (lambda stated: "7\n\nnine\n12", "line 3 is 'nine'"),
        (lambda stated: "7 9 12", "line 1 is '7 9 12'"),
        (lambda stated: "1.5", "line 1"),
        (lambda stated: "1_000", "line 1"),
        (lambda stated: "9" * 9000, "line 1"),
        (lambda stated: "9" * 19 + "\n1", "9999999999999999999 is no ref id"),
        (lambda stated: "\n \n", "no ref id in it"),
        (lambda stated: "", "no ref id in it"),
    ],
)
def test_a_damaged_file_is_noticed(
    tmp_path: Path, damage: Callable[[dict[str, Any]], str], told: str
) -> None:
    path = tmp_path / "masks"
    write_subset(path, SUBSET)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(DataError) as caught:
        read_subset(path)
    assert str(path) in caught.value.message
    assert told in caught.value.message
    assert "one ref id a line" in caught.value.remedy


def test_what_is_no_file_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: No such file"):
        read_subset(tmp_path / "none.json")
    with pytest.raises(DataError, match="s a directory"):
        read_subset(tmp_path)
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="it is no text"):
        read_subset(tmp_path / "picture")


# -- the check, and the data set -----------------------------------------------------------------


def test_ids_that_are_no_refs_of_the_split_are_named(tmp_path: Path) -> None:
    records = open_records(make_refer_tree(tmp_path))
    check_subset({0, 7}, records, "train")
    check_subset((), records, "train")
    with pytest.raises(DataError) as caught:
        check_subset([7, 5, 99, -1, 2**70], records, "train")
    message = caught.value.message
    assert message.startswith("4 of the 5 refs of the subset")
    assert message.endswith(f"refcoco (unc), split train: -1, 5, 99, {2**70}")
    assert "split_by" in caught.value.remedy
    with pytest.raises(DataError, match=r"10 of the 10 .*: 10, 11, 12, 13, 14, \.\.\."):
        check_subset(range(10, 20), records, "train")
    with pytest.raises(UnknownName):
        check_subset({0}, records, "nowhere")


def test_a_subset_opens_the_masks_of_its_refs(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    subset = draw_subset(open_records(folder), "all", 0.5, 1)
    write_subset(tmp_path / "masks.json", subset)
    labels = Labels(frozenset({"box", "mask"}), read_subset(tmp_path / "masks.json").ref_ids)
    seen = {s.ref_id: s.mask is not None for s in open_data(folder, "all", labels)}
    assert {ref_id for ref_id, there in seen.items() if there} == subset.ref_ids
    empty = {ref["ref_id"] for ref in refer_content()[0] if ref["ann_id"] == [-1]}
    assert subset.objects == round(0.5 * (len(seen) - len(empty))) == len(subset.ref_ids)
    assert not empty & subset.ref_ids
