"""PhraseCut: tiny trees in the layout of VGPhraseCut v0."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from refseg.data import phrasecut
from refseg.data.catalog import open_data
from refseg.data.dataset import ReferDataset
from refseg.data.phrasecut import iter_json_list
from refseg.data.records import Records
from refseg.errors import DataError, UnknownName
from refseg.types import Labels

HW = (30, 40)
SQUARE = [[2, 3], [10, 3], [10, 9], [2, 9]]
TRIANGLE = [[20.7, 10.2], [33.9, 12.6], [25.1, 25.8]]
OVERLAP = [[8, 5], [15, 5], [15, 14], [8, 14]]


def task(task_id: str, image_id: int, polygons: Any, phrase: str = "two dogs") -> dict[str, Any]:
    return {
        "task_id": task_id,
        "image_id": image_id,
        "ann_ids": [7, 8],
        "instance_boxes": [[1.0, 2.0, 3.0, 4.0]] * len(polygons),
        "Polygons": polygons,
        "phrase": phrase,
        "phrase_structure": {
            "name": "dogs",
            "attributes": ["black"],
            "relation_ids": [],
            "relation_descriptions": [["on", "sofa"]],
            "type": "attribute",
        },
    }


def image(image_id: int, split: str, coco_id: int | None = None) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "coco_id": coco_id,
        "flickr_id": 1,
        "width": HW[1],
        "height": HW[0],
        "url": "",
        "split": split,
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    images = [
        image(1, "train", 30755),
        image(2, "val"),
        image(3, "miniv"),
        image(4, "test"),
        image(99, "train"),
    ]
    (tmp_path / "image_data_split3000.json").write_text(json.dumps(images))
    tasks = {
        "train": [
            task("1__a", 1, [[SQUARE, OVERLAP], [TRIANGLE]]),
            task("1__b", 1, [[SQUARE]], "black dog"),
        ],
        "val": [task("2__a", 2, [[TRIANGLE]])],
        "miniv": [task("3__a", 3, [[TRIANGLE, [[5, 5], [9, 5]], [[1, 1]]]])],
        "test": [task("4__a", 4, [[SQUARE], [[[1, 1]]]])],
    }
    for split, entries in tasks.items():
        (tmp_path / f"refer_{split}.json").write_text(json.dumps(entries))
    (tmp_path / "images").mkdir()
    for entry in images:
        Image.new("RGB", (HW[1], HW[0])).save(tmp_path / "images" / f"{entry['image_id']}.jpg")
    return tmp_path


def official_mask(polygons: list[Any]) -> np.ndarray:
    """The mask as the official code fills it: one polygon after the other, summed, above zero."""
    total = np.zeros(HW)
    for polygon in polygons:
        if len(polygon) < 2:
            continue
        canvas = Image.new("L", (HW[1], HW[0]), 0)
        points = [(int(x), int(y)) for x, y in polygon]
        ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
        total += np.array(canvas)
    return total > 0


def dataset(tree: Path, split: str, labels: str = "text+box+mask+category") -> ReferDataset:
    return open_data(tree, split, Labels.parse(labels))


def refs_by_task(records: Records) -> dict[str, Any]:
    return {ref.extra["task_id"]: ref for ref in records.refs()}


def test_counts_ids_and_structure(tree: Path) -> None:
    records = phrasecut.read(tree)
    refs = refs_by_task(records)
    assert set(refs) == {"1__a", "1__b", "2__a", "3__a", "4__a"}
    assert len({ref.ref_id for ref in refs.values()}) == 5
    assert records.count("images") == 4  # image 99 has no task
    assert records.meta.rasteriser == "pil"
    ann_ids = records.column("annotations", "ann_id").tolist()
    assert len(ann_ids) == len(set(ann_ids)) == 6
    first = refs["1__a"]
    assert len(first.ann_rows) == 2
    assert first.extra["attributes"] == ["black"]
    assert first.extra["relation_descriptions"] == [["on", "sofa"]]
    assert first.extra["coco_id"] == 30755
    assert "coco_id" not in refs["2__a"].extra
    assert records.annotation(first.ann_rows[0]).category == "dogs"
    assert records.box_xywh(first.ann_rows[0]).tolist() == [1, 2, 3, 4]


def test_ids_do_not_depend_on_which_files_are_there(tree: Path) -> None:
    before = {k: r.ref_id for k, r in refs_by_task(phrasecut.read(tree)).items()}
    (tree / "refer_train.json").unlink()
    after = {k: r.ref_id for k, r in refs_by_task(phrasecut.read(tree)).items()}
    assert after == {k: v for k, v in before.items() if not k.startswith("1__")}


def test_mask_is_the_official_union_over_all_instances(tree: Path) -> None:
    sample = dataset(tree, "train")[0]
    np.testing.assert_array_equal(sample.mask, official_mask([SQUARE, OVERLAP, TRIANGLE]))
    assert sample.empty is False
    assert sample.category == "dogs"


def test_two_point_polygons_draw_a_line_and_single_points_nothing(tree: Path) -> None:
    sample = dataset(tree, "miniv")[0]
    np.testing.assert_array_equal(sample.mask, official_mask([TRIANGLE, [[5, 5], [9, 5]]]))
    assert sample.mask is not None
    assert sample.mask[5, 5:10].all()
    test = dataset(tree, "test")[0]
    np.testing.assert_array_equal(test.mask, official_mask([SQUARE]))


def test_val_has_miniv_in_it_as_published(tree: Path) -> None:
    assert len(dataset(tree, "val", "text")) == 2
    assert len(dataset(tree, "val_without_miniv", "text")) == 1
    assert len(dataset(tree, "miniv", "text")) == 1


def test_val_is_read_in_full(tree: Path) -> None:
    """Published code stops after 10,001 phrases; val has 20,316."""
    many = [task(f"2__{n}", 2, [[SQUARE], [TRIANGLE]], f"dogs {n}") for n in range(10_050)]
    (tree / "refer_val.json").write_text(json.dumps(many))
    data = dataset(tree, "val")
    assert len(data) == 10_051  # and the one of miniv
    texts = {data.entry(row).text for row in range(len(data))}
    assert "dogs 10049" in texts
    last = data[10_049]
    np.testing.assert_array_equal(last.mask, official_mask([SQUARE, TRIANGLE]))


def test_old_name_of_the_image_file(tree: Path) -> None:
    (tree / "image_data_split3000.json").rename(tree / "image_data_split.json")
    assert phrasecut.read(tree).count("refs") == 5
    assert {p.name for p in phrasecut.sources(tree)} == {
        "image_data_split.json",
        *(f"refer_{split}.json" for split in phrasecut.SPLITS),
    }


def test_missing_files_are_named(tree: Path) -> None:
    for split in phrasecut.SPLITS:
        (tree / f"refer_{split}.json").unlink()
    (tree / "refer_input_train.json").write_text("[]")
    with pytest.raises(DataError, match=r"no refer_train\.json") as caught:
        phrasecut.read(tree)
    assert "refer_input" in caught.value.remedy
    (tree / "image_data_split3000.json").unlink()
    with pytest.raises(DataError, match="neither image_data_split3000"):
        phrasecut.sources(tree)


def test_unknown_split_by(tree: Path) -> None:
    with pytest.raises(UnknownName, match="unc"):
        phrasecut.read(tree, split_by="unc")


def add_task(tree: Path, entry: dict[str, Any]) -> None:
    path = tree / "refer_train.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), entry]))


WRONG = [
    (task("1__a", 1, [[SQUARE]]), "two tasks with one id: task_id 1__a"),
    (task("5__a", 555, [[SQUARE]]), "task about an unknown image: 5__a, image_id 555"),
    (task("1__c", 1, []), "boxes and polygons do not pair up: task_id 1__c"),
    (task("1__c", 1, [[[[3, 3]]]]), "task without a usable polygon: task_id 1__c"),
    (task("1__c", 1, [[[[3, "x"], [4, 4]]]]), "value of a wrong kind"),
    ({"task_id": "1__c", "image_id": 1}, "task without 'instance_boxes': (2, {'task_id': '1__c'"),
]


@pytest.mark.parametrize(("entry", "message"), WRONG)
def test_contradictions_fail_or_are_counted(
    tree: Path, entry: dict[str, Any], message: str
) -> None:
    add_task(tree, entry)
    with pytest.raises(DataError) as caught:
        phrasecut.read(tree)
    assert message in str(caught.value)
    assert "refer_train.json" in str(caught.value)
    records = phrasecut.read(tree, strict=False)
    assert records.count("refs") == 5
    assert sum(records.meta.skipped.values()) == 1


# --- the streaming reader ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_streaming_equals_json_load(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], chunk: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "list.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phrasecut, "_CHUNK", chunk)
        assert list(iter_json_list(path)) == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}', "the top level is not a list"),
        ("", "the top level is not a list"),
        ('[{"a": 1}, {"a": ', "may be truncated"),
        ('[{"a": 1}', '"," or "]" was expected'),
        ("[1 2]", '"," or "]" was expected'),
        ("[1,]", "Expecting value"),
        ("[1] [2]", "text after the end of the list"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_broken_json_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str, chunk: int
) -> None:
    monkeypatch.setattr(phrasecut, "_CHUNK", chunk)
    path = tmp_path / "refer_train.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"refer_train\.json: .*near character") as caught:
        list(iter_json_list(path))
    assert reason in str(caught.value)


def test_text_that_is_not_utf8_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "refer_train.json"
    with pytest.raises(DataError, match="No such file"):
        list(iter_json_list(path))
    path.write_bytes(b'["caf\xe9"]')
    with pytest.raises(DataError, match="not UTF-8"):
        list(iter_json_list(path))
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert list(iter_json_list(path)) == [1]


def test_streaming_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrasecut, "_CHUNK", 1 << 14)
    path = tmp_path / "refer_train.json"
    path.write_text(json.dumps([task("x", 1, [[SQUARE] * 20])] * 1000))

    def peak(read: Callable[[], int]) -> int:
        tracemalloc.start()
        assert read() == 1000
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    whole = peak(lambda: len(json.loads(path.read_text())))
    assert peak(lambda: sum(1 for _ in iter_json_list(path))) < whole / 20
