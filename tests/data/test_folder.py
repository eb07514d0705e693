"""A plain folder: images/, masks/ and captions.csv, as people write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refseg.data import folder
from refseg.data.captions_csv import COLUMNS, read_rows
from refseg.data.catalog import open_data
from refseg.data.records import MaskFile
from refseg.errors import DataError, UnknownName
from refseg.types import ALL_LABELS, Labels

HW = (12, 20)
TEXT_BOX = Labels.parse("text+box")

CAPTIONS = """\
image,text,mask,split,x,y,w,h,category,annotator
desk.jpg,the cup left of the laptop,cup.png,train,2,3,5,4,cup,ann
desk.jpg,"cup, on the left",cup.png,train,,,,,,bob
desk.jpg,the red phone,none,train,,,,,,
shelf.png,lowest book,,val,1,2,3,4.5,book,
"""


def cup() -> np.ndarray:
    mask = np.zeros(HW, bool)
    mask[3:7, 2:7] = True
    return mask


def write(tree: Path, text: str, encoding: str = "utf-8") -> None:
    (tree / "captions.csv").write_bytes(text.encode(encoding))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    Image.new("RGB", (HW[1], HW[0]), "red").save(root / "images" / "desk.jpg")
    Image.new("RGB", (9, 8)).save(root / "images" / "shelf.png")
    Image.fromarray(cup()).save(root / "masks" / "cup.png")
    write(root, CAPTIONS)
    return root


def test_lines_become_refs_and_sentences(tree: Path) -> None:
    records = folder.read(tree)
    assert (records.meta.dataset, records.meta.split_by) == ("mine", "split")
    first, phone, book = records.refs()
    assert [records.sentence(row).raw for row in first.sent_rows] == [
        "the cup left of the laptop",
        "cup, on the left",
    ]
    assert records.sentence(first.sent_rows[1]).extra == {"annotator": "bob"}
    assert records.segmentation(first.ann_rows[0]) == MaskFile("masks/cup.png")
    assert records.box_xywh(first.ann_rows[0]).tolist() == [2, 3, 5, 4]
    assert records.annotation(first.ann_rows[0]).category == "cup"
    assert (phone.empty, phone.ann_rows) == (True, ())
    assert (book.empty, book.split) == (False, "val")
    assert records.segmentation(book.ann_rows[0]) is None
    assert records.count("images") == 2


def test_samples(tree: Path) -> None:
    write(tree, "\n".join(CAPTIONS.splitlines()[:4]))
    train = open_data(tree, "train", ALL_LABELS)
    samples = [train[i] for i in range(3)]
    for sample in samples[:2]:
        np.testing.assert_array_equal(sample.mask, cup())
        assert sample.box_xyxy is not None
        assert sample.box_xyxy.tolist() == [2, 3, 7, 7]
    assert samples[0].ref_id == samples[1].ref_id != samples[2].ref_id
    assert samples[2].empty is True
    assert samples[2].mask is not None
    assert not samples[2].mask.any()


def test_boxes_without_masks(tree: Path) -> None:
    sample = open_data(tree, "val", TEXT_BOX)[0]
    assert sample.box_xyxy is not None
    np.testing.assert_allclose(sample.box_xyxy, [1, 2, 4, 6.5])
    assert sample.mask is None


def mask_image(mode: str) -> Image.Image:
    on = cup()
    if mode == "1":
        return Image.fromarray(on)
    if mode == "L faint":
        return Image.fromarray(on.astype(np.uint8))
    if mode == "P":
        image = Image.fromarray(on.astype(np.uint8) * 7, "P")
        image.putpalette([0, 0, 0] * 256)  # every colour is black: only the index tells
        return image
    if mode == "RGB":
        return Image.fromarray(np.stack([on * 0, on * 0, on * 255], axis=2).astype(np.uint8))
    if mode == "RGBA":
        opaque = np.full_like(on, 255, np.uint8)
        colour = (on * 255).astype(np.uint8)
        return Image.fromarray(np.stack([colour, colour, colour, opaque], axis=2))
    return Image.fromarray(on.astype(np.uint16) * 300)


@pytest.mark.parametrize("mode", ["1", "L faint", "P", "RGB", "RGBA", "I;16"])
def test_any_kind_of_png_mask(tree: Path, mode: str) -> None:
    mask_image(mode).save(tree / "masks" / "cup.png")
    np.testing.assert_array_equal(open_data(tree, "train", ALL_LABELS)[0].mask, cup())


def test_only_the_needed_columns(tree: Path) -> None:
    write(tree, "Text, Image\nthe cup,desk.jpg\n\nthe cup,desk.jpg\nthe pen,desk.jpg\n")
    records = folder.read(tree)
    refs = list(records.refs())
    assert [len(ref.sent_rows) for ref in refs] == [2, 1]
    assert {ref.split for ref in refs} == {"train"}
    assert not any(ref.empty for ref in refs)  # not known is not the same as not there
    assert open_data(tree, "train", Labels())[0].text == "the cup"


def test_ids_stay_when_lines_move(tree: Path) -> None:
    def ids() -> dict[str, tuple[int, int]]:
        records = folder.read(tree)
        return {
            records.sentence(ref.sent_rows[0]).raw: (
                ref.ref_id,
                records.image(ref.image_row).image_id,
            )
            for ref in records.refs()
        }

    before = ids()
    lines = CAPTIONS.splitlines()
    write(tree, "\n".join([lines[0], lines[4], lines[3], lines[1], lines[2]]))
    assert ids() == before


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_how_editors_write_it(tree: Path, delimiter: str, encoding: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    decimal = "2,5" if delimiter == ";" else "2.5"
    writer.writerow(["image", "text", "x", "y", "w", "h"])
    writer.writerow(["desk.jpg", 'the "caf\u00e9", left; here', "1", decimal, "3", "4"])
    write(tree, out.getvalue(), encoding)
    records = folder.read(tree)
    assert records.sentence(0).raw == 'the "caf\u00e9", left; here'
    assert records.box_xywh(0).tolist() == [1, 2.5, 3, 4]


def test_files_in_subfolders_and_with_their_folders_name(tree: Path) -> None:
    (tree / "images" / "kitchen").mkdir()
    (tree / "images" / "desk.jpg").rename(tree / "images" / "kitchen" / "desk.jpg")
    write(tree, "image,text,mask\nimages/kitchen/desk.jpg,cup,masks\\cup.png\n")
    np.testing.assert_array_equal(open_data(tree, "train", ALL_LABELS)[0].mask, cup())


HEADERS = [
    ("image,txet", 'unknown column "txet"', 'did you mean "text"?'),
    ("image,text,maks", 'unknown column "maks"', 'did you mean "mask"?'),
    ("image,text,catagory", 'unknown column "catagory"', 'did you mean "category"?'),
    ("image,caption", 'no column "text"; the first line has: image, caption', "image, text, mask"),
    ("desk.jpg,the cup", 'no column "image"', "the first line names the columns"),
    ("image,text,text", 'two columns "text"', "rename"),
    ("image,text,x,y,w", "only the columns x, y, w", "a box needs all of x, y, w, h"),
    ("", 'no column "image"', "the first line names the columns"),
]


@pytest.mark.parametrize(("header", "message", "remedy"), HEADERS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_wrong_header_is_always_refused(
    tree: Path, header: str, message: str, remedy: str, strict: bool
) -> None:
    write(tree, header + "\n")
    with pytest.raises(DataError) as caught:
        folder.read(tree, strict=strict)
    assert message in caught.value.message
    assert "captions.csv" in caught.value.message
    assert remedy in caught.value.remedy


LINES = [
    ("desk.jpg,,,,,,,,", "no text: line 2", ""),
    (",the cup,,,,,,,", "no image: line 2", ""),
    ("dsek.jpg,the cup,,,,,,,", "no such image: line 2: dsek.jpg", 'did you mean "desk.jpg"?'),
    ("desk.jpg,the cup,cup2.png,,,,,,", "no such mask: line 2: cup2.png", '"cup.png"?'),
    ("../desk.jpg,the cup,,,,,,,", "image outside the folder: line 2", "copy it to images/"),
    ("/desk.jpg,the cup,,,,,,,", "image outside the folder: line 2", "copy it to images/"),
    ("C:\\desk.jpg,the cup,,,,,,,", "image outside the folder: line 2", "copy it to images/"),
    ("desk.jpg,the cup,cup.png,,1,2,x,4,", "box without four numbers: line 2", ""),
    ("desk.jpg,the cup,cup.png,,1,2,,4,", "box without four numbers: line 2", ""),
    ("desk.jpg,the cup,cup.png,,1,2,0,4,", "box without an area: line 2", ""),
    ("desk.jpg,the cup,cup.png,,1,2,nan,4,", "box without an area: line 2", ""),
    ("desk.jpg,the cup,none,,1,2,3,4,", "a box for what is not there: line 2", ""),
    (
        "shelf.png,the cup,cup.png,,,,,,",
        "cup.png is 20 x 12 pixels (width x height), shelf.png is 9 x 8",
        "give every mask the size of its image",
    ),
    ("desk.jpg,the cup,noise.jpg,,,,,,", "mask in a lossy format: line 2: noise.jpg", "PNG"),
    ("broken.jpg,the cup,,,,,,,", "unreadable image: line 2", ""),
]


@pytest.mark.parametrize(("line", "message", "remedy"), LINES)
def test_a_wrong_line_is_refused_or_counted(
    tree: Path, line: str, message: str, remedy: str
) -> None:
    (tree / "images" / "broken.jpg").write_bytes(b"no image")
    Image.new("L", (HW[1], HW[0])).save(tree / "masks" / "noise.jpg")
    good = "desk.jpg,the laptop,cup.png,,,,,,"
    write(tree, f"{','.join(COLUMNS)}\n{line}\n{good}\n")
    with pytest.raises(DataError) as caught:
        folder.read(tree)
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    records = folder.read(tree, strict=False)
    assert records.count("refs") == 1
    assert sum(records.meta.skipped.values()) == 1


def test_all_lines_of_a_left_out_image_are_counted(tree: Path) -> None:
    write(tree, "image,text\nno.jpg,a\nno.jpg,b\ndesk.jpg,c\n")
    records = folder.read(tree, strict=False)
    assert records.count("refs") == 1
    assert records.meta.skipped == {"no such image": 1, "line about an image left out": 1}


def test_two_boxes_for_one_mask_contradict(tree: Path) -> None:
    lines = CAPTIONS.splitlines()
    write(tree, "\n".join([*lines[:2], lines[1].replace("2,3,5,4", "2,3,5,5")]))
    with pytest.raises(DataError, match=r"two boxes for one mask: lines 2 and 3: cup\.png"):
        folder.read(tree)


def test_broken_tables(tree: Path) -> None:
    write(tree, "image,text\ndesk.jpg,cup\ndesk.jpg,caf\u00e9\n", "latin1")
    with pytest.raises(DataError, match="line 3 is not UTF-8") as caught:
        folder.read(tree)
    assert "CSV UTF-8" in caught.value.remedy
    write(tree, "image,text\ndesk.jpg,cup, left\n")
    with pytest.raises(DataError, match="line 2 has 3 cells, the header 2 columns"):
        folder.read(tree)
    write(tree, 'image,text\ndesk.jpg,"cup\n')
    with pytest.raises(DataError, match="line 2: unexpected end of data"):
        folder.read(tree)
    (tree / "captions.csv").unlink()
    with pytest.raises(DataError, match=r"captions\.csv: No such file"):
        folder.read(tree)
    with pytest.raises(UnknownName, match="unc"):
        folder.read(tree, split_by="unc")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)


@given(st.lists(st.tuples(cells, cells, cells), max_size=5), st.sampled_from([",", ";", "\t"]))
def test_whatever_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "captions.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("image", "text", "mask"), *rows])
    expected = [tuple(cell.strip() for cell in row) for row in rows]
    found = [(row["image"], row["text"], row["mask"]) for _, row in read_rows(path)]
    assert found == [row for row in expected if any(row)]
