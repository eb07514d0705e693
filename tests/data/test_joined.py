"""Several data sets as one are the concatenation of their items."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.joined import JoinedDataset
from refseg.types import Labels, Sample

LABELS = Labels.parse("text+box")


def folder(where: Path, shade: int) -> Path:
    """Three pictures, of which the first has two expressions in train, and one of its own."""
    (where / "images").mkdir(parents=True)
    rows = ["image,text,box,split"]
    for index, count in enumerate((2, 1, 3)):
        Image.new("RGB", (8, 6), (shade, index, 0)).save(where / "images" / f"{index}.png")
        for number in range(count):
            split = "val" if number == 2 else "train"
            rows.append(f'{index}.png,thing {shade} {number} of {index},"1,1,3,2",{split}')
    (where / "captions.csv").write_text("\n".join(rows) + "\n")
    return where


@pytest.fixture
def parts(tmp_path: Path) -> list[ReferDataset]:
    """The second has other pictures; the third is the first's folder seen otherwise."""
    one, other = folder(tmp_path / "one", 40), folder(tmp_path / "other", 90)
    return [
        open_data(one, "train", LABELS, objects=True),
        open_data(other, "train", LABELS, view="ref"),
        open_data(one, "val", LABELS),
    ]


def same(one: Sample, other: Sample) -> bool:
    return (
        (one.key, one.text, one.image_id, one.weight, one.target)
        == (other.key, other.text, other.image_id, other.weight, other.target)
        and np.array_equal(one.image, other.image)
        and (one.objects is None) == (other.objects is None)
    )


def test_items_are_those_of_a_loop(parts: list[ReferDataset]) -> None:
    joined, items, groups = JoinedDataset(parts), [], []
    for part in parts:
        groups += [[len(items) + index for index in group] for group in part.groups_by_image()]
        items += [(part, index) for index in range(len(part))]
    assert len(joined) == len(items) == 5 + 5 + 1
    assert joined.groups_by_image() == groups
    assert sorted(row for group in groups for row in group) == list(range(len(joined)))
    assert [joined.entry(i).text for i in range(len(joined))] == [
        part.entry(index).text for part, index in items
    ]

    @settings(max_examples=25)
    @given(st.lists(st.integers(0, len(items) - 1), max_size=12))
    def check(asked: list[int]) -> None:
        found = joined.samples(asked)
        assert len(found) == len(asked)
        for sample, place in zip(found, asked, strict=True):
            part, index = items[place]
            assert same(sample, part[index])

    check()


def test_a_picture_is_read_once_a_part(parts: list[ReferDataset]) -> None:
    one, other = JoinedDataset(parts).samples([1, 0])
    assert one.image is other.image
    again, theirs = JoinedDataset([parts[0], parts[0]]).samples([0, 5])
    assert again.image is not theirs.image  # two parts may see different objects
    assert same(again, theirs)


@pytest.mark.parametrize("index", [-1, 11, 1000])
def test_rows_beyond_are_refused(parts: list[ReferDataset], index: int) -> None:
    joined = JoinedDataset(parts)
    for ask in (joined.entry, lambda row: joined.samples([0, row])):
        with pytest.raises(IndexError):
            ask(index)


def test_nothing_joined_is_empty(parts: list[ReferDataset]) -> None:
    empty = JoinedDataset([])
    assert len(empty) == 0
    assert empty.samples([]) == []
    assert empty.groups_by_image() == []
    alone = JoinedDataset(parts[:1])
    assert alone.hash == parts[0].hash
    assert alone.groups_by_image() == parts[0].groups_by_image()


def test_the_epoch_reaches_every_part(parts: list[ReferDataset]) -> None:
    """Sentences of the view "ref" are drawn anew."""
    told = set()
    for epoch in range(8):
        joined = JoinedDataset(parts[1:] * 2)
        joined.set_epoch(epoch)
        assert [part._epoch for part in joined.parts] == [epoch] * 4
        told.add(joined.entry(0).text)
    assert told == {parts[1].entry(0).text}  # a ref of a plain folder has one sentence


def test_the_hash_is_of_all_parts_in_their_order(parts: list[ReferDataset]) -> None:
    told = {JoinedDataset(some).hash for some in (parts, parts[1::-1], parts[:2], parts[:1])}
    assert len(told) == 4


def test_a_copy_in_another_process_is_the_same(parts: list[ReferDataset]) -> None:
    joined = JoinedDataset(parts)
    again = pickle.loads(pickle.dumps(joined))
    rows = [7, 0, 10]
    assert all(same(a, b) for a, b in zip(joined.samples(rows), again.samples(rows), strict=True))
