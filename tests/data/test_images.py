"""Finding image files in the places where people keep them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import IMAGE_IDS, make_refer_tree, photo

from refseg.data.catalog import open_data, open_records
from refseg.data.check import check_data
from refseg.data.images import ImageFinder, exif_orientation, possible_names, usual_places
from refseg.data.records import ImageRecord
from refseg.errors import DataError
from refseg.types import ALL_LABELS, Labels

PLACES = [
    "images",
    "images/train2014",
    "images/train2017",
    "images/mscoco/images/train2014",
    "images/saiapr_tc-12",
    "train2014",
    "refcoco/images",
    "refcoco/images/train2014",
    "images/part2/deep",
]


@pytest.mark.parametrize("form", ["COCO_train2014_{:012d}.jpg", "{:012d}.jpg", "{}.jpg"])
@pytest.mark.parametrize("place", PLACES)
def test_every_usual_place_and_name_is_found(tmp_path: Path, place: str, form: str) -> None:
    folder = make_refer_tree(tmp_path, images=place, form=form)
    data = open_data(folder, "train", Labels())
    assert data[0].image_id == 101
    assert data[3].image_id == 104


def test_two_levels_up_and_through_a_link(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path / "refer", images="../images")
    assert open_data(folder, "train", Labels())[0].image_id == 101
    link = tmp_path / "elsewhere" / "refcoco"
    link.parent.mkdir()
    link.symlink_to(folder)
    assert open_data(link, "train", Labels())[0].image_id == 101


def test_a_stated_folder_is_the_only_one_searched(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    empty, nested = tmp_path / "empty", tmp_path / "mine"
    empty.mkdir()
    with pytest.raises(DataError, match="no file for image 101"):
        open_data(folder, "train", Labels(), images=empty)[0]
    (tmp_path / "images").rename(nested)
    assert open_data(folder, "train", Labels(), images=nested)[0].image_id == 101
    with pytest.raises(DataError, match="no such folder of images"):
        open_data(folder, "train", Labels(), images=tmp_path / "nowhere")


def test_a_missing_image_shows_where_it_was_looked_for(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    (tmp_path / "images/train2014/COCO_train2014_000000000103.jpg").unlink()
    data = open_data(folder, "all", Labels())
    with pytest.raises(DataError) as caught:
        list(data)
    text = str(caught.value)
    assert "image 103 (COCO_train2014_000000000103.jpg)" in text
    assert str(tmp_path / "images/train2014/000000000103.jpg") not in text or "tried" in text
    assert text.count(str(tmp_path)) >= 3
    assert "1 of the 4 images of refcoco all are missing" in text
    assert "--images" in text
    records = open_records(folder)
    everything = [records.image(row) for row in range(records.count("images"))]
    assert [image.image_id for image in data.finder.missing(everything)] == [103]


def test_existing_places_are_shown_first(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    places = usual_places(folder, ("photos",))
    assert places[0].is_dir()
    assert folder / "photos" in places
    (folder / "photos").mkdir()
    assert usual_places(folder, ("photos",))[0] == folder / "photos"


def test_data_without_pixels_opens_and_reads_entries(tmp_path: Path) -> None:
    data = open_data(make_refer_tree(tmp_path, images=None), "train", Labels.parse("box"))
    entry = data.entry(0)
    assert entry.text == "The left one"
    assert entry.box_xyxy is not None
    with pytest.raises(DataError, match="no file for image 101"):
        data[0]


def test_images_in_several_folders(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path, images="images/part1")
    other = tmp_path / "images/part2"
    other.mkdir()
    for image_id in IMAGE_IDS[1::2]:
        name = f"COCO_train2014_{image_id:012d}.jpg"
        (tmp_path / "images/part1" / name).rename(other / f"{image_id:012d}.jpg")
    data = open_data(folder, "all", Labels())
    assert {sample.image_id for sample in data} == set(IMAGE_IDS)


@pytest.mark.parametrize("orientation", range(2, 9))  # 3, a half turn, keeps the size
def test_an_image_that_exif_turns_is_refused(tmp_path: Path, orientation: int) -> None:
    folder = make_refer_tree(tmp_path)
    path = tmp_path / "images/train2014/COCO_train2014_000000000101.jpg"
    save_turned(path, orientation)
    with pytest.raises(DataError, match=rf"EXIF tag \(orientation {orientation}\)(?s:.)*->"):
        open_data(folder, "train", Labels())[0]
    save_turned(path, 1)
    assert open_data(folder, "train", Labels())[0].image_id == 101


def test_turned_pixels_of_another_size_are_explained(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    path = tmp_path / "images/train2014/COCO_train2014_000000000101.jpg"
    Image.fromarray(photo(101)).rotate(90, expand=True).save(path)
    with pytest.raises(DataError, match=r"64 x 48 px(?s:.)*turn it by a quarter"):
        open_data(folder, "train", Labels())[0]


def test_a_plain_folder_is_about_upright_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    half = np.zeros((20, 30, 3), np.uint8)
    half[:10] = 255  # stored upside down: white above, below when upright
    save_turned(tmp_path / "images" / "a.png", 3, half)
    Image.fromarray(half[::-1, :, 0]).save(tmp_path / "masks" / "a.png")
    (tmp_path / "captions.csv").write_text("image,text,mask\na.png,lower half,a.png\n")
    sample = open_data(tmp_path, "train", ALL_LABELS)[0]
    assert sample.mask is not None
    assert (sample.image[sample.mask] == 255).all()
    assert check_data(tmp_path).exit_code == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe1\x00\x10Exif\x00\x00nonsense"])
def test_a_broken_file_has_no_orientation(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert exif_orientation(tmp_path / "a.jpg") == 1
    save_turned(tmp_path / "a.jpg", 9)
    assert exif_orientation(tmp_path / "a.jpg") == 1


def save_turned(path: Path, orientation: int, pixels: np.ndarray | None = None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(101) if pixels is None else pixels).save(path, exif=exif)


def test_names_to_try() -> None:
    coco = ["COCO_train2014_000000000007.jpg", "000000000007.jpg", "7.jpg"]
    stated = "train2014/COCO_train2014_000000000007_3.jpg"
    assert possible_names(ImageRecord(7, stated, 0, 0)) == [stated, stated.split("/")[1], *coco]
    assert possible_names(ImageRecord(7, "", 0, 0)) == coco
    # Visual Genome's image 7 is not COCO's photograph 7.
    assert possible_names(ImageRecord(7, "train2014/a.jpg", 0, 0)) == ["train2014/a.jpg", "a.jpg"]
    assert possible_names(ImageRecord(7, "7.jpg", 0, 0)) == ["7.jpg"]
    assert possible_names(ImageRecord(-1, "", 0, 0)) == []


def test_a_finder_pickles_to_its_roots(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    finder = ImageFinder(usual_places(folder))
    image = ImageRecord(101, "", 0, 0)
    path = finder.find(image)
    back = pickle.loads(pickle.dumps(finder))
    assert back.find(image) == path
    assert [i.image_id for i in back.missing([image, ImageRecord(999, "", 0, 0)])] == [999]
