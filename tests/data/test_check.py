"""`check_data`: tiny data sets with one defect each, and the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refer_trees import HW, Change, make_refer
from scipy.io import savemat

from refseg.data.check import CheckReport, check_data
from refseg.data.check_content import token_counts
from refseg.data.check_files import spread
from refseg.data.tokens import train_wordpiece
from refseg.errors import ConfigError, DataError, UnknownName


def image_file(folder: Path, number: int) -> Path:
    return folder.parent / "images" / "train2014" / f"COCO_train2014_{number:012d}.jpg"


def troubles(report: CheckReport) -> dict[str, tuple[str, int]]:
    """Rows that are not ok, without the counts, which no tiny set matches."""
    return {
        row.name: (row.status, row.count)
        for row in report.rows
        if row.status != "ok" and not row.name.startswith("split ")
    }


def test_a_sound_data_set(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path, "mine"))
    assert troubles(report) == {}
    assert report.exit_code == 0
    assert report.row("split train").count == 3
    assert report.row("split train").detail == "3 refs, 6 sentences, 2 images"
    assert report.row("missing images").detail == "all 4 are there"
    assert report.row("broken masks").detail == "5 of 5 decoded"


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path))
    row = report.row("split val")
    assert (row.status, row.count) == ("warn", 1)
    assert row.detail == "1 refs, 2 sentences, 1 images; published: 3,811, 10,834, 1,500"
    assert report.row("split testB").count == 0
    assert report.exit_code == 0  # a subset is no defect


def test_report_as_json(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path))
    content = json.loads(json.dumps(report.to_json()))
    assert content["dataset"] == "refcoco"
    assert content["split_by"] == "unc"
    assert content["exit_code"] == 0
    assert content["ok"] + content["warn"] + content["fail"] == len(content["rows"])
    assert set(content["rows"][0]) == {"name", "status", "count", "detail"}
    with pytest.raises(KeyError):
        report.row("no such row")


# --- annotations ---


def set_raw(text: str) -> Change:
    def change(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        refs[0]["sentences"][0]["raw"] = text
        refs[0]["sentences"][0]["sent"] = text

    return change


def edit(path: str, key: str, value: Any) -> Change:
    def change(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        (refs if path == "refs" else instances[path])[0][key] = value

    return change


CROWD = {"size": list(HW), "counts": [0, HW[0] * HW[1]]}
CONTENT = [
    (edit("refs", "ann_id", 999), "ref to an unknown annotation", "fail"),
    (edit("refs", "image_id", 999), "ref to an unknown image", "fail"),
    (edit("refs", "ref_id", 1), "two refs with one id", "fail"),
    (edit("refs", "sentences", []), "ref without a sentence", "fail"),
    (edit("annotations", "image_id", 999), "annotation of an unknown image", "fail"),
    (edit("annotations", "segmentation", None), "objects without a mask", "warn"),
    (edit("annotations", "segmentation", []), "objects without a mask", "warn"),
    (edit("annotations", "segmentation", [[1, 2, 3, 4]]), "broken masks", "fail"),
    (edit("annotations", "segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "broken masks", "fail"),
    (
        edit("annotations", "segmentation", {"size": [3, 4], "counts": [0, 12]}),
        "broken masks",
        "fail",
    ),
    (edit("annotations", "segmentation", CROWD), "masks away from their box", "warn"),
    (
        edit("annotations", "segmentation", [[100, 100, 110, 100, 110, 110]]),
        "empty masks",
        "warn",
    ),
    (edit("annotations", "bbox", [2, 3, 0, 12]), "boxes empty or outside", "warn"),
    (edit("annotations", "bbox", [2, 3, 10, 60]), "boxes empty or outside", "warn"),
    (set_raw("???"), "sentences without words", "fail"),
    (set_raw("cup " * 300), "sentences over 1,000 characters", "fail"),
    (set_raw("cup " * 23), "sentences cut at 24 tokens", "warn"),
    (set_raw("tasse \u00e0 caf\u00e9"), "sentences not in ASCII", "warn"),
    (set_raw("left\ncup"), "sentences with control characters", "warn"),
    (set_raw("Cup  1"), "same words for different objects", "warn"),
]


@pytest.mark.parametrize(("change", "name", "status"), CONTENT)
def test_one_defect_is_found(tmp_path: Path, change: Change, name: str, status: str) -> None:
    report = check_data(make_refer(tmp_path, "mine", change=change))
    row = report.row(name)
    assert (row.status, row.count) == (status, 1)
    assert row.detail
    assert report.exit_code == (1 if "fail" in {r.status for r in report.rows} else 0)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path, change=edit("refs", "ann_id", 999)))
    assert report.row("ref to an unknown annotation").detail == "left out: ref_id 0, ann_id 999"
    assert report.row("split train").count == 2


def test_things_that_are_counted_only(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        refs[0]["sentences"][1]["sent"] = "cup 0"
        refs[1]["ann_id"] = refs[0]["ann_id"]
        refs[3]["sentences"][0]["sent_id"] = refs[0]["sentences"][0]["sent_id"]

    report = check_data(make_refer(tmp_path, change=change))
    assert report.row("sentences repeated for a ref").count == 1
    assert report.row("further refs about an object").count == 1
    assert troubles(report) == {"sentence ids used twice": ("warn", 1)}


def test_no_target_is_strange_in_refcoco_only(tmp_path: Path) -> None:
    change = edit("refs", "ann_id", [-1])
    assert check_data(make_refer(tmp_path / "a", change=change)).row(
        "refs without a target"
    ).status == "warn"  # fmt: skip
    mine = check_data(make_refer(tmp_path / "b", "mine", change=change))
    assert (mine.row("refs without a target").status, mine.exit_code) == ("ok", 0)


def test_token_limit_with_and_without_a_tokenizer(tmp_path: Path) -> None:
    folder = make_refer(tmp_path, change=set_raw("unbelievable cups, don't"))
    tokenizer = train_wordpiece(["cup the 0 1 2 3 4"], size=100, max_words=20)
    text = pa.array(["unbelievable cups, don't"])
    # [CLS] unbelievable cups , don ' t [SEP]
    assert token_counts(text, None).tolist() == [8]
    pieces = len(tokenizer.pieces("unbelievable cups, don't"))
    assert token_counts(text, tokenizer).tolist()[0] >= pieces > 8
    assert check_data(folder, max_words=8).row("sentences cut at 8 tokens").status == "ok"
    cut = check_data(folder, max_words=8, tokenizer=tokenizer).row("sentences cut at 8 tokens")
    assert (cut.status, cut.count) == ("warn", 1)


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=30), min_size=1, max_size=5))
def test_counting_words_never_exceeds_a_tokenizer(texts: list[str]) -> None:
    tokenizer = train_wordpiece(["cup"], size=60, max_words=20)
    column = pa.array([text.replace("\x00", "") for text in texts])
    assert (token_counts(column, None) <= token_counts(column, tokenizer)).all()


# --- files ---


def test_missing_images_are_listed(tmp_path: Path) -> None:
    folder = make_refer(tmp_path)
    image_file(folder, 3).unlink()
    row = check_data(folder).row("missing images")
    assert (row.status, row.count) == ("fail", 1)
    assert "of 4; no file for image 3 (COCO_train2014_000000000003.jpg); tried" in row.detail
    assert "train2014/COCO_train2014_000000000003.jpg" in row.detail
    assert "000000000003.jpg" in row.detail


def test_a_folder_without_any_image(tmp_path: Path) -> None:
    folder = make_refer(tmp_path / "data")
    for number in range(1, 5):
        image_file(folder, number).unlink()
    report = check_data(folder)
    assert (report.row("missing images").status, report.row("missing images").count) == ("fail", 4)
    assert report.exit_code == 1
    assert "--no-images" in report.row("missing images").detail
    words_alone = check_data(folder, pixels=False)
    assert (words_alone.row("missing images").detail, words_alone.exit_code) == (
        "not looked for", 0,
    )  # fmt: skip
    for contrary in ({"images": tmp_path}, {"decode": True}):
        with pytest.raises(ConfigError, match="--no-images"):
            check_data(folder, pixels=False, **contrary)
    (tmp_path / "elsewhere").mkdir()
    named = check_data(folder, images=tmp_path / "elsewhere")
    assert (named.row("missing images").status, named.exit_code) == ("fail", 1)
    with pytest.raises(DataError, match="no such folder of images"):
        check_data(folder, images=tmp_path / "nowhere")


def test_broken_and_truncated_images(tmp_path: Path) -> None:
    folder = make_refer(tmp_path)
    image_file(folder, 1).write_bytes(b"<html>not found</html>")
    whole = image_file(folder, 2).read_bytes()
    image_file(folder, 2).write_bytes(whole[:-100])
    headers = check_data(folder)
    assert headers.row("broken images").count == 1
    pixels = check_data(folder, decode=True)
    assert pixels.row("broken images").count == 2
    assert "000000000002.jpg is damaged or cut short" in pixels.row("broken images").detail
    assert pixels.exit_code == 1


def test_image_sizes_are_compared(tmp_path: Path) -> None:
    folder = make_refer(tmp_path)
    Image.new("RGB", HW).save(image_file(folder, 1))  # rows and columns swapped
    row = check_data(folder).row("image sizes")
    assert (row.status, row.count) == ("fail", 1)
    assert "32 x 24 (rows x columns), stated 24 x 32 (rows x columns)" in row.detail
    assert "turned by a quarter" in row.detail


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_an_image_that_exif_turns_fails(tmp_path: Path, orientation: int) -> None:
    folder = make_refer(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (HW[1], HW[0])).save(image_file(folder, 1), exif=exif)
    report = check_data(folder)
    assert troubles(report) == {"images turned by EXIF": ("fail", 1)}
    assert f"orientation {orientation}" in report.row("images turned by EXIF").detail
    assert report.exit_code == 1


def no_refs(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
    refs.clear()


def no_sentences(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
    for one in refs:
        one["sentences"] = []


@pytest.mark.parametrize("change", [no_refs, no_sentences])
def test_a_data_set_without_expressions_fails(tmp_path: Path, change: Change) -> None:
    report = check_data(make_refer(tmp_path, "mine", change=change))
    assert (report.row("expressions").status, report.exit_code) == ("fail", 1)


def test_a_table_with_a_header_alone_fails(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,text,mask\n")
    report = check_data(tmp_path)
    assert (report.row("expressions").status, report.exit_code) == ("fail", 1)


def test_empty_masks_alone_fail(tmp_path: Path) -> None:
    def empty_all(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        for one in instances["annotations"]:
            one["segmentation"] = [[100, 100, 110, 100, 110, 110]]

    report = check_data(make_refer(tmp_path, "mine", change=empty_all))
    row = report.row("empty masks")
    assert (row.status, row.count, report.exit_code) == ("fail", 5, 1)


def test_estimated_sizes_prove_nothing(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], refs: list[dict[str, Any]]) -> None:
        instances["info"] = {"size_note": "width and height are estimated from the boxes"}

    folder = make_refer(tmp_path, change=change)
    Image.new("RGB", (40, 40)).save(image_file(folder, 1))
    assert check_data(folder).row("image sizes").status == "ok"


def test_limit_spreads_what_is_opened(tmp_path: Path) -> None:
    report = check_data(make_refer(tmp_path), limit=2)
    assert report.row("broken images").detail == "2 opened, headers only"
    assert report.row("broken masks").detail == "2 of 5 decoded"
    assert spread(np.arange(10), 3).tolist() == [0, 4, 9]
    assert spread(np.arange(10), None).tolist() == list(range(10))
    assert len(set(spread(np.arange(1000), 999).tolist())) == 999


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check_data(make_refer(tmp_path), progress=lambda *step: told.append(step))
    assert told[0] == ("images", 1, 4)
    assert told[-1] == ("masks", 5, 5)


def make_referit(folder: Path, *, inverted: bool) -> Path:
    mask = np.zeros(HW, np.uint8)
    mask[4:10, 5:15] = 1
    (folder / "images").mkdir(parents=True)
    (folder / "mask").mkdir()
    Image.new("RGB", (HW[1], HW[0])).save(folder / "images" / "7.jpg")
    savemat(folder / "mask" / "7_1.mat", {"segimg_t": mask == 0 if inverted else mask})
    (folder / "referit_query_train.json").write_text(json.dumps({"7_1": ["hat"]}))
    (folder / "referit_bbox.json").write_text(json.dumps({"7_1": [5, 4, 14, 9]}))
    (folder / "referit_imsize.json").write_text(json.dumps({"7.jpg": [HW[1], HW[0]]}))
    return folder


def test_mat_masks_that_are_not_inverted_are_noticed(tmp_path: Path) -> None:
    right = check_data(make_referit(tmp_path / "a", inverted=True))
    assert right.row("masks the wrong way round").status == "ok"
    wrong = check_data(make_referit(tmp_path / "b", inverted=False))
    row = wrong.row("masks the wrong way round")
    assert (row.status, row.count) == ("fail", 1)
    assert "mask/7_1.mat" in row.detail


def test_mask_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = make_referit(tmp_path, inverted=True)
    savemat(folder / "mask" / "7_1.mat", {"other": np.ones(HW)})
    assert 'no variable "segimg_t"' in check_data(folder).row("broken masks").detail
    (folder / "mask" / "7_1.mat").unlink()
    row = check_data(folder).row("broken masks")
    assert (row.status, row.count) == ("fail", 1)
    assert "the mask file is missing" in row.detail


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    folder = make_refer(tmp_path)
    path = folder / "refs(unc).p"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: truncated"):
        check_data(folder)
    with pytest.raises(UnknownName, match="refcocoo"):
        check_data("refcocoo")


# --- the real data, where it is ---


@pytest.mark.data
def test_all_of_refcoco_has_the_published_counts(shared_data: Path) -> None:
    report = check_data(shared_data / "refcoco_boxes" / "refcoco", pixels=False)
    counted = [row for row in report.rows if row.name.startswith("split ")]
    assert len(counted) == 5
    assert all(row.status == "ok" and row.detail.endswith("as published") for row in counted)
    assert set(troubles(report)) == {
        "objects without a mask",
        "sentences cut at 24 tokens",
        "same words for different objects",
    }
    assert report.exit_code == 0


@pytest.mark.data
@pytest.mark.parametrize("name", ["refcoco", "refcoco+"])
def test_real_photographs_and_polygons_are_sound(shared_data: Path, name: str) -> None:
    report = check_data(shared_data / "refcoco_photos" / name, decode=True)
    assert troubles(report) == {}
    assert report.row("broken masks").detail == "56 of 56 decoded"
