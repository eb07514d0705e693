"""gRefCOCO: several targets, one, and none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg.data import grefcoco
from refseg.data.catalog import open_data
from refseg.errors import DataError, UnknownName
from refseg.types import ALL_LABELS, Labels

HW = (20, 30)
BOXES = {11: (2, 2, 6, 5), 12: (12, 4, 8, 8), 13: (20, 10, 5, 5), 14: (0, 0, 4, 4)}
CROWD_RLE = {"size": list(HW), "counts": [0, HW[0] * HW[1]]}


def rectangle(box: tuple[int, int, int, int]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def box_mask(*ann_ids: int) -> np.ndarray:
    mask = np.zeros(HW, bool)
    for ann_id in ann_ids:
        x, y, w, h = BOXES[ann_id]
        mask[y : y + h, x : x + w] = True
    return mask


def ref(ref_id: int, ann_id: Any, split: str = "val", text: str = "both cups") -> dict[str, Any]:
    ids = ann_id if isinstance(ann_id, list) else [ann_id]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": 5,
        "category_id": [1 if i > 0 else -1 for i in ids],
        "split": split,
        # an extra piece, as in some refs; and no such file
        "file_name": "COCO_train2014_000000000005_11_3.jpg",
        "sent_ids": [ref_id * 10],
        "sentences": [
            {"sent_id": ref_id * 10, "raw": text.upper(), "sent": text, "tokens": text.split()}
        ],
    }


REFS = [
    ref(1, [11, 12]),
    ref(2, [-1], text="green elephant"),
    ref(3, [13], "train"),
    ref(4, 11, "testA"),
    ref(5, [11, 14], "testB"),
    ref(6, [14], "testB"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "grefcoco"
    folder.mkdir()
    instances = {
        "images": [
            {"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "height": 20, "width": 30}
        ],
        "categories": [{"id": 1, "name": "cup", "supercategory": "kitchen"}],
        "annotations": [
            {
                "id": ann_id,
                "image_id": 5,
                "category_id": 1,
                "bbox": list(box),
                "segmentation": CROWD_RLE if ann_id == 14 else rectangle(box),
                "iscrowd": int(ann_id == 14),
                "area": 1,
            }
            for ann_id, box in BOXES.items()
        ],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "grefs(unc).json").write_text(json.dumps(REFS))
    images = tmp_path / "images" / "train2014"
    images.mkdir(parents=True)
    Image.new("RGB", (HW[1], HW[0])).save(images / "COCO_train2014_000000000005.jpg")
    return folder


def test_several_targets_one_and_none(tree: Path) -> None:
    val = open_data(tree, "val", ALL_LABELS)
    both, none = val[0], val[1]
    assert both.text == "BOTH CUPS"
    np.testing.assert_array_equal(both.mask, box_mask(11, 12))
    assert both.empty is False
    assert both.box_xyxy is not None
    assert both.box_xyxy.tolist() == [2, 2, 20, 12]
    assert none.empty is True
    assert none.mask is not None
    assert not none.mask.any()
    assert none.box_xyxy is None
    single = open_data(tree, "train", ALL_LABELS)[0]
    np.testing.assert_array_equal(single.mask, box_mask(13))
    bare_number = open_data(tree, "testA", ALL_LABELS)[0]
    np.testing.assert_array_equal(bare_number.mask, box_mask(11))


def test_no_target_is_not_told_to_a_text_only_method(tree: Path) -> None:
    assert open_data(tree, "val", Labels())[1].empty is None


def test_crowds_are_left_out_beside_other_targets(tree: Path) -> None:
    records = grefcoco.read(tree)
    refs = {r.ref_id: r for r in records.refs()}
    assert [records.annotation(row).ann_id for row in refs[5].ann_rows] == [11]
    assert refs[5].extra == {"crowds": [14]}
    assert [records.annotation(row).ann_id for row in refs[6].ann_rows] == [14]
    assert refs[6].extra == {}


def test_json_and_pickle_give_the_same(tree: Path) -> None:
    from_json = grefcoco.read(tree)
    (tree / "grefs(unc).json").unlink()
    (tree / "grefs(unc).p").write_bytes(pickle.dumps(REFS, protocol=2))
    from_pickle = grefcoco.read(tree)
    for table in ("refs", "sentences", "annotations", "images"):
        assert from_json.table(table).equals(from_pickle.table(table))


def test_the_newer_json_is_preferred(tree: Path) -> None:
    (tree / "grefs(unc).p").write_bytes(b"not a pickle")
    assert grefcoco.sources(tree)[0].name == "grefs(unc).json"
    assert grefcoco.read(tree).count("refs") == 6


def test_split_by_is_checked(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="google"):
        grefcoco.read(tree, split_by="google")
    (tree / "grefs(other).json").write_text("[]")
    with pytest.raises(DataError, match="several ways to split are here: other, unc"):
        grefcoco.read(tree)
    assert grefcoco.read(tree, split_by="other").count("refs") == 0
    with pytest.raises(DataError, match=r"no grefs\(\.\.\.\)\.p or grefs"):
        grefcoco.sources(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ref(7, [11, -1]), "ref of unclear targets: ref_id 7: ann_id [11, -1]"),
        (ref(7, []), "ref of unclear targets: ref_id 7: ann_id []"),
        (ref(7, [99]), "ref to an unknown annotation: ref_id 7, ann_id 99"),
        (ref(1, [11]), "two refs with one id: ref_id 1"),
        ({**ref(7, [11]), "image_id": 6}, "ref to an unknown image: ref_id 7, image_id 6"),
        ({"ref_id": 7}, "ref without 'ann_id': (6, {'ref_id': 7"),
    ],
)
def test_contradictions_fail_or_are_counted(
    tree: Path, entry: dict[str, Any], message: str
) -> None:
    (tree / "grefs(unc).json").write_text(json.dumps([*REFS, entry]))
    with pytest.raises(DataError) as caught:
        grefcoco.read(tree)
    assert message in str(caught.value)
    assert "grefs(unc).json" in str(caught.value)
    records = grefcoco.read(tree, strict=False)
    assert records.count("refs") == 6
    assert sum(records.meta.skipped.values()) == 1


def test_broken_files_are_named(tree: Path) -> None:
    (tree / "grefs(unc).json").write_text('{"refs": []}')
    with pytest.raises(DataError, match="a list of refs was expected, not dict"):
        grefcoco.read(tree)
    (tree / "grefs(unc).json").write_text("[{")
    with pytest.raises(DataError, match="perhaps truncated"):
        grefcoco.read(tree)
    (tree / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: No such file"):
        grefcoco.read(tree)
