"""Opening by name or folder, recognising formats, the numbers of a data set, and real data."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from trees import make_refer_tree, refer_content, write_refs

from refseg.data import catalog
from refseg.data.catalog import DATA_NAMES, READERS, data_info, detect_format, open_data
from refseg.data.info import same_category_mean
from refseg.data.published import PUBLISHED
from refseg.data.records import Records
from refseg.errors import DataError, UnknownName
from refseg.types import ALL_LABELS, Labels


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r'"scnes"(?s:.)*did you mean "scenes"') as caught:
        open_data("scnes", "val", Labels())
    assert "folder" in caught.value.remedy
    assert "--set data.name=DIR" in caught.value.remedy


def test_an_absent_annotation_file_is_to_be_fetched(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    (folder / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: No such file(?s:.)*fetch it"):
        open_data(folder, "val", Labels())


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_data(tmp_path / "nowhere", "val", Labels())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file, not a folder"):
        open_data(tmp_path / "file", "val", Labels())


def test_a_folder_of_data_sets_lists_them(tmp_path: Path) -> None:
    make_refer_tree(tmp_path, name="refcoco")
    make_refer_tree(tmp_path, name="refcoco+")
    with pytest.raises(DataError, match=r"it holds refcoco, refcoco\+"):
        open_data(tmp_path, "val", Labels())
    with pytest.raises(DataError, match=r"no data set(?s:.)*captions\.csv"):
        open_data(tmp_path / "images", "val", Labels())


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["refs(unc).p", "instances.json"], "refer"),
        (["refs(oracle).json", "instances.json"], "refer"),
        (["grefs(unc).json", "instances.json"], "grefcoco"),
        (["grefs(unc).p"], "grefcoco"),
        (["image_data_split3000.json", "refer_miniv.json"], "phrasecut"),
        (["referit_query_val.json"], "referit"),
        (["annotations/test.pickle"], "referit"),
        (["captions.csv"], "folder"),
    ],
)
def test_formats_are_told_by_their_files(tmp_path: Path, files: list[str], wanted: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert detect_format(tmp_path) == wanted


@pytest.mark.parametrize("form", sorted(READERS))
def test_every_reader_named_in_the_table_exists(form: str) -> None:
    module, function = READERS[form].split(":")
    assert callable(getattr(import_module(module), function))


def test_strict_is_handed_on_and_kept_apart(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path, edit=lambda refs, _: refs[1].update(ann_id=999))
    lenient = open_data(folder, "val", Labels(), strict=False)
    assert lenient.records.meta.skipped == {"ref to an unknown annotation": 1}
    with pytest.raises(DataError, match="ann_id 999"):
        open_data(folder, "val", Labels())


def test_split_by_is_handed_on(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path, name="refcocog", split_by="umd")
    write_refs(folder, refer_content()[0][:1], "google")
    assert len(open_data(folder, "train", Labels(), split_by="google")) == 3
    assert open_data(folder, "train", Labels(), split_by="umd").split_by == "umd"
    with pytest.raises(DataError, match="split_by"):
        open_data(folder, "train", Labels())


def test_scenes_are_made_once_and_read_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", "12")
    for name in sorted(DATA_NAMES):
        data = open_data(name, "train", ALL_LABELS)
        assert (data.name, data.split_by) == (name, "oracle")
        sample = data[0]
        assert sample.mask.any()
        assert sample.mask.shape == sample.image.shape[:2]
        assert sample.category
        y, x = np.nonzero(sample.mask)
        x0, y0, x1, y1 = sample.box_xyxy
        assert x0 <= x.min() <= x.max() < x1
        assert y0 <= y.min() <= y.max() < y1
    monkeypatch.setenv("REFSEG_SCENES_IMAGES", "many")
    with pytest.raises(DataError, match="REFSEG_SCENES_IMAGES"):
        open_data("scenes", "train", Labels())


def test_the_numbers_of_a_data_set(tmp_path: Path) -> None:
    folder = make_refer_tree(tmp_path)
    found = data_info(folder)
    assert found["splits"]["val"] == {
        "refs": 3, "sentences": 4, "images": 3, "words_mean": 2.0, "words_max": 3,
        "published": {"refs": 3811, "sentences": 10834, "images": 1500},
    }  # fmt: skip
    assert found["splits"]["all"]["sentences"] == 12
    assert found["splits"]["testAB"]["published"] is None
    assert (found["images"], found["objects"], found["categories"]) == (4, 8, 3)
    assert found["labels"] == ["text", "box", "mask", "category"]
    assert (found["no_target_refs"], found["multi_target_refs"]) == (1, 1)
    assert data_info(open_data(folder, "val", ALL_LABELS)) == found


def same_category_by_loops(records: Records) -> float:
    totals = []
    for ref in records.refs():
        if len(ref.ann_rows) == 1:
            category = records.annotation(ref.ann_rows[0]).category_id
            rows = records.annotation_rows(ref.image_row)
            totals.append(sum(records.annotation(row).category_id == category for row in rows))
    return sum(totals) / len(totals)


def test_same_category_objects_against_loops(tmp_path: Path) -> None:
    records = open_data(make_refer_tree(tmp_path), "val", ALL_LABELS).records
    assert same_category_mean(records) == pytest.approx(same_category_by_loops(records))


def test_published_totals_are_the_sums_of_their_splits() -> None:
    for (dataset, split_by, split), total in PUBLISHED.items():
        parts = [
            size for (d, by, s), size in PUBLISHED.items()
            if (d, by) == (dataset, split_by) and s in ("train", "val", "test", "testA", "testB")
        ]  # fmt: skip
        if split == "all":
            assert total.refs == sum(size.refs for size in parts)
            assert total.sentences == sum(size.sentences for size in parts)
            assert dataset == "referit" or total.images == sum(size.images for size in parts)


@pytest.fixture
def real_data(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The shared data, with one cache for all tests, so that it is converted once."""
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path_factory.getbasetemp() / "real-cache"))
    return shared_data


@pytest.mark.data
@pytest.mark.parametrize("name", ["refcoco", "refcoco+"])
def test_real_boxes_have_the_published_counts(real_data: Path, name: str) -> None:
    folder = real_data / "refcoco_boxes" / name
    found = data_info(folder)
    for split, counts in found["splits"].items():
        got = {key: counts[key] for key in ("refs", "sentences", "images")}
        assert got == counts["published"] == PUBLISHED[(name, "unc", split)]._asdict()
    assert found["splits"]["all"]["sentences"] == {"refcoco": 142_210, "refcoco+": 141_564}[name]
    assert found["objects"] == {"refcoco": 196_771, "refcoco+": 196_737}[name]
    assert found["labels"] == ["text", "box", "category"]
    assert found["splits"]["all"]["words_mean"] == pytest.approx(3.5, abs=0.1)
    with pytest.raises(DataError, match="masks are granted"):
        open_data(folder, "val", ALL_LABELS)
    people = {}
    for split in ("testA", "testB"):
        data = open_data(folder, split, Labels.parse("category"), view="ref")
        found = [data.entry(index).category == "person" for index in range(len(data))]
        people[split] = sum(found) / len(found)
    assert people["testA"] > 0.9  # images with several people, and a few other things in them
    assert people["testB"] == 0


@pytest.mark.data
@pytest.mark.parametrize(("name", "sentences"), [("refcoco", 168), ("refcoco+", 154)])
def test_real_photos_have_aligned_masks(real_data: Path, name: str, sentences: int) -> None:
    data = open_data(real_data / "refcoco_photos" / name, "val", ALL_LABELS)
    assert len(data) == sentences
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*covers no pixel.*")
        samples = [data[group[0]] for group in data.groups_by_image()]
    assert len(samples) == 21
    for sample in samples:
        assert sample.mask.shape == sample.image.shape[:2]
        ys, xs = np.nonzero(sample.mask)
        drawn = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # The stated box, to the pixel: a misread axis or frame would be far off.
        assert np.allclose(drawn, sample.box_xyxy, atol=2)


@pytest.mark.data
def test_images_for_judging_can_be_kept_out(real_data: Path) -> None:
    folder = real_data / "refcoco_boxes" / "refcoco"
    never = real_data / "never_train.txt"
    kept = open_data(folder, "train", Labels(), exclude_images=never)
    ids = catalog.read_image_ids(never)
    everything = open_data(folder, "train", Labels())
    assert len(kept) < len(everything)
    assert not ids & {kept.entry(index).image_id for index in range(0, len(kept), 7)}
