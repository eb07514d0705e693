"""Leakage: images of training that an evaluation split holds too, by id, by file, by pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refer_trees import HW, make_refer

from refseg.data.catalog import open_data
from refseg.data.check import check_data
from refseg.data.leakage import Pictures, find_leaks, leaked_train_images
from refseg.types import Labels


def also_val(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
    refs[0]["split"] = "val"  # image 1 is in train, too


def test_leak_within_a_data_set(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path, change=also_val))
    row = report.row("images of refcoco(unc)/val in refcoco(unc)/train")
    assert (row.status, row.count, row.detail) == ("fail", 1, "coco 1")
    assert report.exit_code == 1


def test_published_splits_by_object_are_a_warning(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path, "refcocog", "google", change=also_val))
    row = report.row("images of refcocog(google)/val in refcocog(google)/train")
    assert (row.status, row.count) == ("warn", 1)
    assert "split by object" in row.detail
    assert report.exit_code == 0


def test_leak_across_data_sets_both_ways(tmp_path: Path) -> None:
    first = make_refer(tmp_path / "a")

    def move(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        for entry in refs:  # image 4 becomes training, images 1 and 2 become val
            entry["split"] = "train" if entry["image_id"] == 4 else "val"
        for image in instances["images"]:
            image["file_name"] = f"{image['id']:012d}.jpg"  # the names of train2017

    second = make_refer(tmp_path / "b", "refcoco+", change=move)
    report = check_data(first, against=[second])
    rows = {r.name: r.count for r in report.rows if r.name.startswith("images of")}
    assert rows == {
        "images of refcoco+(unc)/val in refcoco(unc)/train": 2,
        "images of refcoco(unc)/testA in refcoco+(unc)/train": 1,
    }
    assert report.exit_code == 1
    assert leaked_train_images(first, [second]) == {1, 2}
    assert leaked_train_images(second, [first]) == {4}
    left = open_data(second, "train", Labels(), exclude_images=leaked_train_images(second, [first]))
    assert len(left) == 0


def test_phrasecut_is_matched_by_its_coco_ids(tmp_path: Path) -> None:
    refcoco = make_refer(tmp_path)
    folder = tmp_path / "phrasecut"
    folder.mkdir()
    images = [
        {"image_id": i, "coco_id": coco, "width": 32, "height": 24, "split": "train"}
        for i, coco in ((4, None), (900, 3), (901, 2))
    ]
    tasks = [
        {
            "task_id": f"{entry['image_id']}__1",
            "image_id": entry["image_id"],
            "ann_ids": [1],
            "instance_boxes": [[1, 1, 5, 5]],
            "Polygons": [[[[1, 1], [6, 1], [6, 6], [1, 6]]]],
            "phrase": "cup",
            "phrase_structure": None,
        }
        for entry in images
    ]
    (folder / "image_data_split.json").write_text(json.dumps(images))
    (folder / "refer_train.json").write_text(json.dumps(tasks))
    # Visual Genome's image 4 is not COCO's image 4, and COCO's image 2 is not evaluated on.
    assert leaked_train_images(folder, [refcoco]) == {900}


def make_folder(root: Path, rows: str) -> Path:
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (*HW, 3), np.uint8)).save(root / "images" / name)
    (root / "captions.csv").write_text("image,text,split\n" + rows)
    return root


def test_own_folders_are_matched_by_file(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "one", "a.png,the cup,train\nb.png,the pen,val\n")
    second = make_folder(tmp_path / "two", "a.png,the cup,val\n")
    assert leaked_train_images(first, [second]) == frozenset()  # two files of one name
    (second / "images" / "a.png").unlink()
    (second / "images" / "a.png").symlink_to(first / "images" / "a.png")
    assert len(leaked_train_images(first, [second])) == 1


def test_copies_under_another_name(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "one", "a.png,the cup,train\nb.png,the pen,val\n")
    assert check_data(folder, decode=True).row("copies of training images").status == "ok"
    (folder / "images" / "b.png").write_bytes((folder / "images" / "a.png").read_bytes())
    report = check_data(folder, decode=True)
    row = report.row("copies of training images")
    assert (row.status, row.count, report.exit_code) == ("fail", 1, 1)
    assert "b.png = " in row.detail


splits = st.dictionaries(
    st.sampled_from(["train", "train_seen", "val", "testA"]),
    st.dictionaries(st.integers(0, 9).map(str), st.integers(0, 9), max_size=6),
    max_size=4,
)


@given(splits, splits)
def test_leaks_equal_a_plain_search(
    own: dict[str, dict[str, int]], other: dict[str, dict[str, int]]
) -> None:
    found = {
        (leak.train, leak.evaluation): leak.image_ids
        for leak in find_leaks(Pictures("own", own), [Pictures("other", other)])
    }
    expected = {}
    sides = [("own", own, "own", own), ("own", own, "other", other), ("other", other, "own", own)]
    for a_name, a, b_name, b in sides:
        for train in a:
            for split in b:
                if train.startswith("train") and not split.startswith("train"):
                    ids = {a[train][key] for key in a[train] if key in b[split]}
                    if ids:
                        expected[f"{a_name}/{train}", f"{b_name}/{split}"] = frozenset(ids)
    assert found == expected
