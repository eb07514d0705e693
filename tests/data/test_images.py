"""Finding image files in the places where people keep them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image
from trees import IMAGE_IDS, make_refer_tree, photo

from refseg.data.catalog import open_data, open_records
from refseg.data.images import ImageFinder, possible_names, usual_places
from refseg.data.records import ImageRecord
from refseg.errors import DataError
from refseg.types import Labels

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


def test_an_image_that_exif_turns_is_explained(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    path = tmp_path / "images/train2014/COCO_train2014_000000000101.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(photo(101)).save(path, exif=exif)
    with pytest.raises(DataError, match=r"64 x 48 px(?s:.)*EXIF"):
        open_data(folder, "train", Labels())[0]


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
