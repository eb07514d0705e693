"""All annotated objects of an image: which there are, and which labels they show."""

from __future__ import annotations

import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import HW, LAVT_AREA, SHOWN, UNION_AREA, block, make_refer_tree, refer_content

from refseg.data import dataset as dataset_module
from refseg.data.catalog import converted_store, open_data
from refseg.data.objects import same_objects
from refseg.data.records import TABLES
from refseg.data.transforms import PreprocessConfig
from refseg.errors import DataError, LabelsError
from refseg.types import ALL_LABELS, Labels

NEEDS = {
    "text": {"images", "refs", "sentences", "annotations"},
    "box": {"boxes"},
    "mask": {"segmentations"},
    "category": {"categories"},
}
# What the refs of trees.py mean, as annotation ids; ref 3 means the crowd, ref 5 two, ref 6 none.
MEANT = {0: 11, 1: 12, 2: 21, 3: None, 4: 31, 5: None, 6: None, 7: 41}
MASKS = {
    11: block(10, 20, 10, 20) | block(15, 25, 15, 25),
    21: block(3, 6, 2, 8) | block(10, 13, 9, 14),
    31: block(5, 10, 5, 10),
    32: block(30, 34, 30, 36),
    41: block(5, 13, 30, 38),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_refer_tree(tmp_path)


def listed(image_id: int) -> list[dict[str, Any]]:
    """The annotations of an image in the file's order, crowds left out."""
    return [
        ann
        for ann in refer_content()[1]["annotations"]
        if ann["image_id"] == image_id and not ann["iscrowd"]
    ]


# -- reading -------------------------------------------------------------------------------------


def test_objects_are_those_of_the_file_without_crowds(folder: Path) -> None:
    names = {c["id"]: c["name"] for c in refer_content()[1]["categories"]}
    for sample in open_data(folder, "all", ALL_LABELS, objects=True):
        found, anns = sample.objects, listed(sample.image_id)
        assert found.ann_ids.dtype == np.int64
        assert found.ann_ids.tolist() == [ann["id"] for ann in anns]
        assert len(found) == len(anns)
        assert found.categories == tuple(names[ann["category_id"]] for ann in anns)
        assert found.boxes_xyxy.dtype == np.float32
        for ann, box, mask in zip(anns, found.boxes_xyxy, found.masks, strict=True):
            x, y, w, h = ann["bbox"]
            assert box.tolist() == [x, y, x + w, y + h]
            assert mask.dtype == np.bool_
            assert mask.shape == HW
            if ann["id"] in MASKS:
                assert np.array_equal(mask, MASKS[ann["id"]]), ann["id"]


def test_the_target_is_the_row_of_the_only_object_meant(folder: Path) -> None:
    for sample in open_data(folder, "all", ALL_LABELS, objects=True):
        meant = MEANT[sample.ref_id]
        if meant is None:
            assert sample.target is None
            continue
        assert sample.objects.ann_ids[sample.target] == meant
        assert sample.objects.boxes_xyxy[sample.target].tolist() == sample.box_xyxy.tolist()
        assert np.array_equal(sample.objects.masks[sample.target], sample.mask)


def test_nothing_is_there_unless_asked_for(folder: Path) -> None:
    data = open_data(folder, "all", ALL_LABELS)
    assert all(s.objects is None and s.target is None for s in data)
    assert data.picture(0).objects is None


@pytest.mark.parametrize("granted", SHOWN, ids=lambda granted: "+".join(sorted(granted)))
@pytest.mark.parametrize("pixels", [True, False])
def test_with_the_other_files_deleted_everything_granted_still_works(
    tmp_path: Path, granted: frozenset[str], pixels: bool
) -> None:
    folder = make_refer_tree(tmp_path)
    store = converted_store(folder)
    needed = set().union(*(NEEDS[kind] for kind in granted | {"text"}))
    data = open_data(folder, "all", Labels(granted), objects=True, pixels=pixels)
    for table in set(TABLES) - needed:
        (store / f"{table}.arrow").unlink()
    data = pickle.loads(pickle.dumps(data))
    samples = data.samples(range(len(data)))
    pictures = [data.picture(row) for row in data.picture_rows()]
    assert data.records.tables_opened <= needed
    for objects in (shown.objects for shown in [*samples, *pictures]):
        assert len(objects)
        assert (objects.categories is not None) == ("category" in granted)
        assert (objects.boxes_xyxy is not None) == ("box" in granted)
        assert (objects.masks is not None) == ("mask" in granted)
    assert [s.target is None for s in samples] == [MEANT[s.ref_id] is None for s in samples]


def test_objects_need_a_label_that_shows_them(folder: Path) -> None:
    with pytest.raises(LabelsError, match="only text is granted") as caught:
        open_data(folder, "val", Labels.parse("text"), objects=True)
    assert '"box", "mask" or "category"' in caught.value.remedy
    assert open_data(folder, "val", Labels.parse("category"), objects=True)[0].objects is not None


@pytest.mark.parametrize("granted", [{"mask"}, {"box", "mask"}])
def test_objects_would_show_masks_that_are_withheld(folder: Path, granted: set[str]) -> None:
    partly = Labels(frozenset(granted), frozenset({5, 6}))
    with pytest.raises(LabelsError, match=r"2 refs only.*of the others") as caught:
        open_data(folder, "val", partly, objects=True)
    assert "mask_refs" in caught.value.remedy
    assert len(open_data(folder, "val", partly)) == 4


def test_samples_of_one_image_share_its_objects(folder: Path, monkeypatch: Any) -> None:
    data = open_data(folder, "all", ALL_LABELS, objects=True)
    reads, real = [], dataset_module.read_objects
    monkeypatch.setattr(
        dataset_module, "read_objects", lambda *a, **k: reads.append(a[1]) or real(*a, **k)
    )
    samples = data.samples(range(len(data)))
    assert reads == data.picture_rows()
    for a, b in combinations(samples, 2):
        assert (a.objects is b.objects) == (a.image_id == b.image_id)


def test_what_an_object_lacks_is_unknown(tmp_path: Path) -> None:
    def edit(refs: Any, instances: Any) -> None:
        instances["annotations"][2]["segmentation"] = []
        instances["annotations"][2]["bbox"][1] = float("nan")
        instances["annotations"][3]["bbox"] = []

    data = open_data(make_refer_tree(tmp_path, edit=edit), "train", ALL_LABELS, objects=True)
    objects = data[0].objects
    assert objects.ann_ids.tolist() == [11, 12, 13]
    assert [mask is None for mask in objects.masks] == [False, True, False]
    assert np.isnan(objects.boxes_xyxy).all(axis=1).tolist() == [False, True, True]


def test_objects_follow_the_mask_rule(folder: Path) -> None:
    for rule, area in (("union", UNION_AREA), ("lavt_compat", LAVT_AREA)):
        data = open_data(folder, "train", ALL_LABELS, mask_rule=rule, objects=True)
        assert data[0].objects.masks[0].sum() == area


def test_a_broken_mask_nobody_refers_to_is_named(tmp_path: Path) -> None:
    def edit(refs: Any, instances: Any) -> None:
        instances["annotations"][3]["segmentation"] = [[1, 2]]

    folder = make_refer_tree(tmp_path, edit=edit)
    assert open_data(folder, "train", ALL_LABELS)[0].mask is not None
    data = open_data(folder, "train", ALL_LABELS, objects=True)
    with pytest.raises(DataError) as caught:
        data[0]
    told = f"{folder / 'instances.json'}: annotation 13, image 101: "
    assert caught.value.message.startswith(told)
    assert caught.value.remedy
    boxes = open_data(folder, "train", Labels.parse("box"), objects=True)
    assert len(boxes[0].objects) == 3, "a mask that is not granted breaks nothing"


def test_pictures_of_a_split(folder: Path) -> None:
    data = open_data(folder, "val", ALL_LABELS, objects=True)
    rows = data.picture_rows()
    assert [data.image_record(row).image_id for row in rows] == [101, 103, 104]
    for row in rows:
        picture = data.picture(row)
        assert picture.image_id == data.image_record(row).image_id
        assert np.array_equal(picture.image, data.image(row))
        assert picture.objects.ann_ids.tolist() == [a["id"] for a in listed(picture.image_id)]
    assert open_data(folder, "val", Labels(), view="ref", limit=1).picture_rows() == rows[:1]


def test_a_dataset_with_objects_pickles_small(folder: Path) -> None:
    data = open_data(folder, "val", ALL_LABELS, objects=True, pixels=False)
    before = [data[index] for index in range(len(data))]
    packed = pickle.dumps(data)
    assert len(packed) < 4000
    back = pickle.loads(packed)
    for index, sample in enumerate(before):
        assert same_objects(back[index].objects, sample.objects)
        assert back[index].target == sample.target


# -- without pixels ------------------------------------------------------------------------------


def test_without_pixels_no_file_is_looked_for(tmp_path: Path) -> None:
    seen = open_data(make_refer_tree(tmp_path / "with"), "all", ALL_LABELS, objects=True)
    bare = make_refer_tree(tmp_path / "without", images=None)
    with pytest.raises(DataError, match="no file for image"):
        open_data(bare, "all", ALL_LABELS)[0]
    blind = open_data(bare, "all", ALL_LABELS, objects=True, pixels=False)
    for one, other in zip(seen, blind, strict=True):
        assert other.image.shape == (*HW, 0)
        assert other.image.dtype == np.uint8
        assert np.array_equal(one.mask, other.mask)
        assert same_objects(one.objects, other.objects)
        assert (one.key, one.text, one.target) == (other.key, other.text, other.target)


@pytest.mark.parametrize("side", ["height", "width"])
def test_without_pixels_the_size_must_be_stated(tmp_path: Path, side: str) -> None:
    def edit(refs: Any, instances: Any) -> None:
        instances["images"][0][side] = 0

    data = open_data(make_refer_tree(tmp_path, edit=edit), "train", ALL_LABELS, pixels=False)
    with pytest.raises(DataError, match="do not state the size of image 101") as caught:
        data[0]
    assert "with pixels" in caught.value.remedy


@pytest.mark.parametrize("hw", [(1, 1), (10, 40), (40, 10), (33, 47), (500, 333)])
@pytest.mark.parametrize("fit", ["square", "letterbox"])
def test_without_pixels_the_geometry_is_the_same(fit: str, hw: tuple[int, int]) -> None:
    config = PreprocessConfig.model_validate({"size": 32, "fit": fit})
    _, full = config.apply(np.zeros((*hw, 3), np.uint8))
    net, empty = config.apply(np.zeros((*hw, 0), np.uint8))
    assert net.shape == (0, 0, 3)
    assert empty == full == config.geometry(hw)
