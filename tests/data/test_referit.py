"""ReferIt: text_objseg's json files with inverted .mat masks, and TRIS's pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat

from refseg.data import referit
from refseg.data.catalog import open_data
from refseg.data.records import MaskFile
from refseg.errors import DataError, UnknownName
from refseg.ops.masks import rle_decode
from refseg.types import ALL_LABELS, Labels

HW = (12, 16)
# key -> rows and columns of the region, far edges excluded
REGIONS = {
    "100_1": (2, 6, 3, 9),
    "100_2": (0, 3, 0, 4),
    "205_1": (5, 12, 8, 16),
    "300_4": (1, 2, 1, 2),
    "300_5": (4, 8, 4, 8),
}
QUERIES = {
    "train": {"100_1": ["girl left", " Girl  in\nblue "], "100_2": ["sky"]},
    "val": {"205_1": ["boy\u2122"]},
    "test": {"300_4": ["hat"]},
}


def region_mask(key: str) -> np.ndarray:
    top, bottom, left, right = REGIONS[key]
    mask = np.zeros(HW, bool)
    mask[top:bottom, left:right] = True
    return mask


def inclusive_box(key: str) -> list[int]:
    top, bottom, left, right = REGIONS[key]
    return [left, top, right - 1, bottom - 1]


def write_queries(folder: Path, queries: dict[str, Any]) -> None:
    for split, asked in queries.items():
        (folder / f"referit_query_{split}.json").write_text(json.dumps(asked))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_queries(tmp_path, QUERIES)
    boxes = {key: inclusive_box(key) for key in REGIONS}
    (tmp_path / "referit_bbox.json").write_text(json.dumps(boxes))
    images = sorted({key.split("_")[0] for key in REGIONS})
    sizes = {f"{name}.jpg": [HW[1], HW[0]] for name in images}
    (tmp_path / "referit_imsize.json").write_text(json.dumps(sizes))
    (tmp_path / "images").mkdir()
    for name in images:
        Image.new("RGB", (HW[1], HW[0]), "green").save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "mask").mkdir()
    for key in REGIONS:
        inverted = np.where(region_mask(key), 0, 1).astype(np.uint8)
        savemat(tmp_path / "mask" / f"{key}.mat", {"segimg_t": inverted})
    return tmp_path


def test_counts_boxes_and_stable_ids(tree: Path) -> None:
    records = referit.read(tree)
    assert records.count("images") == 3
    assert records.count("annotations") == 5  # one of them nobody asked for
    assert records.count("refs") == 4
    assert records.count("sentences") == 5
    refs = {ref.ref_id: ref for ref in records.refs()}
    assert set(refs) == {100001, 100002, 205001, 300004}
    ref = refs[100001]
    assert ref.split == "train"
    row = ref.ann_rows[0]
    assert records.annotation(row).ann_id == 100001
    assert records.box_xywh(row).tolist() == [3, 2, 6, 4]
    assert records.segmentation(row) == MaskFile("mask/100_1.mat", "segimg_t", "zero")
    second = records.sentence(ref.sent_rows[1])
    assert (second.raw, second.sent) == (" Girl  in\nblue ", "Girl in blue")
    assert records.sentence(refs[205001].sent_rows[0]).raw == "boy\u2122"
    image = records.image(ref.image_row)
    assert (image.image_id, image.file_name, image.height, image.width) == (100, "100.jpg", *HW)


def test_inverted_masks_are_turned_round(tree: Path) -> None:
    samples = open_data(tree, "train", ALL_LABELS)
    for index, key in enumerate(("100_1", "100_1", "100_2")):
        sample = samples[index]
        np.testing.assert_array_equal(sample.mask, region_mask(key))
        left, top, right, bottom = inclusive_box(key)
        assert sample.box_xyxy is not None
        assert sample.box_xyxy.tolist() == [left, top, right + 1, bottom + 1]


def test_a_mat_without_the_variable_says_what_it_has(tree: Path) -> None:
    savemat(tree / "mask" / "205_1.mat", {"mask": np.ones(HW, np.uint8)})
    with pytest.raises(DataError, match=r'205_1\.mat: no variable "segimg_t" in it; it has: mask'):
        open_data(tree, "val", ALL_LABELS)[0]


def test_a_missing_mask_is_named_and_text_works_without_any(tree: Path) -> None:
    for path in (tree / "mask").iterdir():
        path.unlink()
    (tree / "mask").rmdir()
    assert open_data(tree, "val", Labels.parse("text+box"))[0].text == "boy\u2122"
    with pytest.raises(DataError, match=r"mask/205_1\.mat: the mask file is missing"):
        open_data(tree, "val", ALL_LABELS)[0]


def test_joined_query_files_add_nothing_twice(tree: Path) -> None:
    joined = {**QUERIES["train"], **QUERIES["val"]}
    everything = {**joined, **QUERIES["test"]}
    write_queries(tree, {"trainval": joined, "all": everything})
    records = referit.read(tree)
    assert records.count("refs") == 4
    assert sorted(records.splits()[0]) == ["test", "train", "val"]
    assert len(open_data(tree, "trainval", Labels())) == 4
    assert len(open_data(tree, "all", Labels())) == 5


def test_only_the_joined_file_is_there(tree: Path) -> None:
    for split in ("train", "val"):
        (tree / f"referit_query_{split}.json").unlink()
    write_queries(tree, {"trainval": {**QUERIES["train"], **QUERIES["val"]}})
    assert len(open_data(tree, "trainval", Labels())) == 4
    with pytest.raises(UnknownName, match="train"):
        open_data(tree, "train", Labels())


def test_the_repositorys_own_layout(tree: Path) -> None:
    data, dataset = tree / "exp-referit" / "data", tree / "exp-referit" / "referit-dataset"
    data.mkdir(parents=True)
    dataset.mkdir()
    for path in list(tree.glob("*.json")):
        path.rename(data / path.name)
    (tree / "images").rename(dataset / "images")
    (tree / "mask").rename(dataset / "mask")
    sample = open_data(data, "test", ALL_LABELS)[0]
    np.testing.assert_array_equal(sample.mask, region_mask("300_4"))


@pytest.mark.parametrize(
    ("split", "key", "value", "message"),
    [
        ("train", "100-9", ["x"], "region with a value of a wrong kind"),
        ("train", "100_1000", ["x"], "is not in 0..999"),
        ("train", "100_9", ["x"], "region without a box: 100_9"),
        ("train", "300_5", [], "ref without a sentence: ref_id 300005"),
        ("train", "300_5", "one text", "a list of queries was expected"),
    ],
)
def test_contradictions_fail_or_are_counted(
    tree: Path, split: str, key: str, value: Any, message: str
) -> None:
    write_queries(tree, {split: {**QUERIES[split], key: value}})
    with pytest.raises(DataError) as caught:
        referit.read(tree)
    assert message in str(caught.value)
    assert sum(referit.read(tree, strict=False).meta.skipped.values()) >= 1


def test_broken_and_missing_files(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tree / "referit_bbox.json").write_text('{"100_1": [1, 2')
    with pytest.raises(DataError, match=r"referit_bbox\.json: not readable json, perhaps trunc"):
        referit.read(tree)
    (tree / "referit_bbox.json").write_text("[]")
    with pytest.raises(DataError, match="an object from region to value"):
        referit.read(tree)
    with pytest.raises(DataError, match=r"neither referit_query_\*\.json nor"):
        referit.sources(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UnknownName, match="unc"):
        referit.read(tree, split_by="unc")


def test_without_boxes_and_sizes_masks_still_work(tree: Path) -> None:
    (tree / "referit_bbox.json").unlink()
    (tree / "referit_imsize.json").unlink()
    sample = open_data(tree, "test", ALL_LABELS)[0]
    np.testing.assert_array_equal(sample.mask, region_mask("300_4"))
    assert sample.box_xyxy is None


# --- TRIS ---


def tris_entry(key: str, query: str) -> dict[str, Any]:
    left, top, right, bottom = inclusive_box(key)
    rle = coco.encode(np.asfortranarray(region_mask(key), np.uint8))
    return {
        "image_id": key.split("_")[0],
        "query": query,
        "bbox": [[left, top, right + 1, bottom + 1]],
        "segmentation": [{"size": list(rle["size"]), "counts": rle["counts"].decode()}],
    }


@pytest.fixture
def tris(tmp_path: Path) -> Path:
    train = {
        "100": {
            "annotations": [
                tris_entry("100_1", "girl left"),
                tris_entry("100_2", "sky"),
                tris_entry("100_1", "girl in blue"),
            ]
        },
        "205": {"annotations": [tris_entry("205_1", "boy")]},
    }
    (tmp_path / "annotations").mkdir()
    with (tmp_path / "annotations" / "train.pickle").open("wb") as file:
        pickle.dump(train, file, protocol=2)
    (tmp_path / "images").mkdir()
    for name in train:
        Image.new("RGB", (HW[1], HW[0])).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def test_tris_queries_of_one_region_are_one_ref(tris: Path) -> None:
    records = referit.read(tris)
    assert records.meta.split_by == "tris"
    texts = [[records.sentence(row).raw for row in ref.sent_rows] for ref in records.refs()]
    assert texts == [["girl left", "girl in blue"], ["sky"], ["boy"]]
    first = next(records.refs())
    assert records.box_xywh(first.ann_rows[0]).tolist() == [3, 2, 6, 4]
    (rle,) = records.segmentation(first.ann_rows[0])
    np.testing.assert_array_equal(rle_decode(rle), region_mask("100_1"))
    assert (records.image(0).height, records.image(0).width) == HW


def test_tris_python_2_text_is_read_as_latin1(tris: Path) -> None:
    path = tris / "annotations" / "test.pickle"
    # Protocol 0 as Python 2 wrote it: S'caf\xe9' is a byte string.
    counts = tris_entry("300_4", "")["segmentation"][0]["counts"]
    path.write_bytes(
        b"(dS'300'\n(dS'annotations'\n(l(dS'image_id'\nS'300'\nsS'query'\nS'caf\\xe9 sign'\n"
        b"sS'bbox'\n(l(lI1\naI1\naI2\naI2\naasS'segmentation'\n(l(dS'size'\n(lI12\naI16\nas"
        b"S'counts'\nS" + repr(counts).encode() + b"\nsasass."
    )
    with pytest.warns(UserWarning, match="latin1"):
        records = referit.read(tris)
    assert "caf\u00e9 sign" in records.table("sentences").column("raw").to_pylist()


def test_tris_malicious_pickle_is_refused(tris: Path) -> None:
    path = tris / "annotations" / "train.pickle"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DataError, match=r"wants to import os\.system"):
        referit.read(tris)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="a dict from image id"):
        referit.read(tris)


def test_tris_broken_entries_fail_or_are_counted(tris: Path) -> None:
    path = tris / "annotations" / "train.pickle"
    content = pickle.loads(path.read_bytes())
    del content["205"]["annotations"][0]["bbox"]
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"image without 'bbox': \('205'"):
        referit.read(tris)
    records = referit.read(tris, strict=False)
    assert records.count("refs") == 2
    assert records.meta.skipped == {"image without 'bbox'": 1}
