"""All annotated objects of an image: which labels they show, and their way into a batch."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trees import HW, LAVT_AREA, UNION_AREA, block, make_refer_tree, refer_content

from refseg.data import dataset as dataset_module
from refseg.data.catalog import converted_store, open_data
from refseg.data.collate import collate, collate_pictures, place_mask
from refseg.data.objects import crop_objects, flip_objects, same_objects
from refseg.data.records import TABLES
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.data.transforms import AugmentConfig, PreprocessConfig, crop, flip, jitter
from refseg.errors import DataError, LabelsError
from refseg.ops.boxes import boxes_to_net
from refseg.types import ALL_LABELS, Batch, Labels, Objects, Picture, Sample

SIZE = 32
NEEDS = {
    "text": {"images", "refs", "sentences", "annotations"},
    "box": {"boxes"},
    "mask": {"segmentations"},
    "category": {"categories"},
}
GRANTS = [
    frozenset(("text", *extra))
    for n in range(1, 4)
    for extra in combinations(("box", "mask", "category"), n)
    if {"box", "mask"} & set(extra)
]
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


@pytest.fixture(scope="module")
def tokens() -> WordTokenizer:
    texts = [text["raw"] for ref in refer_content()[0] for text in ref["sentences"]]
    return train_wordpiece([*texts, "right"], size=200, max_words=10)


def preprocess(fit: str = "square") -> PreprocessConfig:
    return PreprocessConfig.model_validate({"size": SIZE, "fit": fit})


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


@pytest.mark.parametrize("granted", GRANTS, ids=lambda granted: "+".join(sorted(granted)))
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
    config = preprocess(fit)
    _, full = config.apply(np.zeros((*hw, 3), np.uint8))
    net, empty = config.apply(np.zeros((*hw, 0), np.uint8))
    assert net.shape == (0, 0, 3)
    assert empty == full == config.geometry(hw)


# -- augmentation --------------------------------------------------------------------------------


@st.composite
def drawn(draw: st.DrawFn) -> Sample:
    """A picture with a few filled boxes as its objects, each box the tight one of its mask."""
    height, width = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    boxes, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        boxes.append([x0, y0, x1, y1])
        masks.append(np.zeros((height, width), bool))
        masks[-1][y0:y1, x0:x1] = True
    target = draw(st.integers(0, len(boxes) - 1))
    objects = Objects(
        np.arange(len(boxes)), ("thing",) * len(boxes), np.array(boxes, np.float32), tuple(masks)
    )
    image = np.zeros((height, width, draw(st.sampled_from([0, 3]))), np.uint8)
    return Sample(
        "k", image, "left one", 1, 2, 3, mask=masks[target], box_xyxy=objects.boxes_xyxy[target],
        empty=False, parts=1, objects=objects, target=target,
    )  # fmt: skip


def tight(mask: np.ndarray) -> list[float]:
    """The box of a mask by a look at every pixel; NaN without one."""
    found = [(x, y) for y, row in enumerate(mask) for x, pixel in enumerate(row) if pixel]
    if not found:
        return [np.nan] * 4
    xs, ys = zip(*found, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def assert_fits(sample: Sample) -> None:
    """Boxes go with masks, and the target is still the referent."""
    objects = sample.objects
    assert objects.boxes_xyxy.dtype == np.float32
    for box, mask in zip(objects.boxes_xyxy, objects.masks, strict=True):
        assert mask.shape == sample.image.shape[:2]
        assert mask.flags.c_contiguous
        np.testing.assert_array_equal(box, tight(mask))
    assert np.array_equal(objects.masks[sample.target], sample.mask)
    np.testing.assert_array_equal(objects.boxes_xyxy[sample.target], sample.box_xyxy)


@given(drawn())
def test_a_mirror_turns_the_objects_too(made: Sample) -> None:
    turned = flip(made)
    assert_fits(turned)
    for before, after in zip(made.objects.masks, turned.objects.masks, strict=True):
        assert [row[::-1] for row in before.tolist()] == after.tolist()
    assert turned.text == "right one"
    assert same_objects(flip(turned).objects, made.objects)


@given(drawn(), st.data())
def test_a_crop_cuts_the_objects_and_leaves_none_out(made: Sample, data: st.DataObject) -> None:
    height, width = made.image.shape[:2]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    cut = crop(made, (x0, y0, x1, y1))
    if cut is not None:
        assert_fits(cut)
        assert cut.target == made.target
    objects = crop_objects(made.objects, (x0, y0, x1, y1))
    assert objects.ann_ids.tolist() == made.objects.ann_ids.tolist()
    assert objects.categories == made.objects.categories
    for before, after, box in zip(
        made.objects.masks, objects.masks, objects.boxes_xyxy, strict=True
    ):
        assert after.tolist() == before[y0:y1, x0:x1].tolist()
        np.testing.assert_array_equal(box, tight(after))


def test_augmentation_keeps_what_is_unknown() -> None:
    bare = Objects(np.arange(2))
    partly = Objects(np.arange(2), None, np.full((2, 4), np.nan, np.float32), (None, None))
    for change in (lambda o: flip_objects(o, 9), lambda o: crop_objects(o, (0, 0, 4, 4))):
        assert same_objects(change(bare), bare)
        assert same_objects(change(partly), partly)


@pytest.mark.filterwarnings("error")
def test_there_is_no_light_to_change_without_pixels() -> None:
    blind = Sample("k", np.empty((4, 5, 0), np.uint8), "one", 1, 2, 3)
    assert jitter(blind, np.random.default_rng(0), 0.5).image.shape == (4, 5, 0)


def test_an_idle_augmentation_says_so() -> None:
    assert AugmentConfig().idle
    for name in ("flip", "crop", "jitter"):
        assert not AugmentConfig.model_validate({name: 0.1}).idle


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["square", "letterbox"])
@pytest.mark.parametrize("share", [True, False])
def test_objects_of_a_batch_against_plain_loops(
    folder: Path, tokens: WordTokenizer, fit: str, share: bool
) -> None:
    data = open_data(folder, "all", ALL_LABELS, objects=True)
    samples = data.samples([0, 3, 8, 1, 11, 6])
    batch = collate(samples, tokens, preprocess(fit), share_images=share)
    found = batch.objects
    rows = len(batch.images)
    assert rows == (4 if share else 6)
    assert found.known.shape == found.ann_ids.shape == found.has_mask.shape == (rows, 3)
    assert found.boxes.shape == (rows, 3, 4)
    assert found.masks.shape == (rows, 3, SIZE, SIZE)
    dtypes = [getattr(found, n).dtype for n in ("known", "ann_ids", "boxes", "masks", "has_mask")]
    assert dtypes == [torch.bool, torch.int64, torch.float32, torch.bool, torch.bool]
    for sample, row in zip(samples, batch.image_of.tolist(), strict=True):
        objects, geometry = sample.objects, found.geometry[row]
        assert found.known[row].tolist() == [k < len(objects) for k in range(3)]
        assert found.categories[row] == objects.categories
        for k in range(3):
            if k >= len(objects):
                assert torch.isnan(found.boxes[row, k]).all()
                assert not found.masks[row, k].any()
                assert not found.has_mask[row, k]
                continue
            assert found.ann_ids[row, k] == objects.ann_ids[k]
            box = boxes_to_net(objects.boxes_xyxy[k], geometry)
            np.testing.assert_allclose(found.boxes[row, k], box, rtol=1e-6)
            mask = place_mask(objects.masks[k], geometry)
            assert np.array_equal(found.masks[row, k], mask > 0)
            assert found.has_mask[row, k]
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [-1 if s.target is None else s.target for s in samples]
    assert -1 in batch.targets.tolist()
    assert_targets_are_the_referents(batch)


def assert_targets_are_the_referents(batch: Batch) -> None:
    for b, (row, k) in enumerate(zip(batch.image_of, batch.targets, strict=True)):
        if k >= 0:
            torch.testing.assert_close(batch.objects.boxes[row, k], batch.boxes[b])
            assert torch.equal(batch.objects.masks[row, k], batch.masks[b] > 0)
            assert batch.objects.geometry[row] == batch.geometry[b]


def test_a_batch_without_pixels_is_a_batch(folder: Path, tokens: WordTokenizer) -> None:
    batches = [
        collate(
            open_data(folder, "all", ALL_LABELS, objects=True, pixels=pixels).samples(range(12)),
            tokens,
            preprocess(),
            share_images=True,
        )
        for pixels in (True, False)
    ]
    seen, blind = batches
    assert blind.images.shape == (4, 3, 0, 0)
    assert blind.images.dtype == torch.float32
    for name in ("image_of", "words", "masks", "targets"):
        assert torch.equal(getattr(seen, name), getattr(blind, name)), name
    assert torch.equal(seen.objects.masks, blind.objects.masks)
    assert seen.geometry == blind.geometry
    assert blind.to("meta").objects.boxes.device.type == "meta"


@pytest.mark.parametrize("granted", GRANTS, ids=lambda granted: "+".join(sorted(granted)))
def test_labels_that_were_not_granted_are_absent(
    folder: Path, tokens: WordTokenizer, granted: frozenset[str]
) -> None:
    data = open_data(folder, "all", Labels(granted), objects=True, pixels=False)
    found = collate(data.samples(range(12)), tokens, preprocess()).objects
    assert (found.boxes is not None) == ("box" in granted)
    assert (found.masks is not None) == (found.has_mask is not None) == ("mask" in granted)
    assert (found.categories is not None) == ("category" in granted)


def test_without_objects_there_are_none(folder: Path, tokens: WordTokenizer) -> None:
    plain = open_data(folder, "all", ALL_LABELS).samples([0, 1])
    batch = collate(plain, tokens, preprocess())
    assert (batch.objects, batch.targets) == (None, None)
    told = open_data(folder, "all", ALL_LABELS, objects=True).samples([3])
    with pytest.raises(ValueError, match="some do not"):
        collate([*plain, *told], tokens, preprocess())


def test_a_mirrored_twin_has_a_row_of_its_own(folder: Path, tokens: WordTokenizer) -> None:
    """Without pixels nothing but the objects tells it from the picture itself."""
    data = open_data(folder, "train", ALL_LABELS, objects=True, pixels=False)
    one, other = data.samples([0, 1])
    batch = collate([one, flip(other), flip(one), other], tokens, preprocess(), share_images=True)
    assert batch.image_of.tolist() == [0, 1, 1, 0]
    assert_targets_are_the_referents(batch)
    apart = replace(other, objects=pickle.loads(pickle.dumps(other.objects)))
    batch = collate([one, apart], tokens, preprocess(), share_images=True)
    assert batch.image_of.tolist() == [0, 0], "equal objects are the same objects"


@pytest.mark.parametrize("part", ["ann_ids", "categories", "boxes_xyxy", "masks"])
def test_objects_that_differ_anywhere_are_others(folder: Path, part: str) -> None:
    one = open_data(folder, "train", ALL_LABELS, objects=True)[0].objects
    boxes, masks = one.boxes_xyxy.copy(), [mask.copy() for mask in one.masks]
    boxes[1, 2] += 1
    masks[2][0, 0] ^= True
    other = {
        "ann_ids": one.ann_ids + 1,
        "categories": ("cup",) * 3,
        "boxes_xyxy": boxes,
        "masks": tuple(masks),
    }
    assert not same_objects(one, replace(one, **{part: other[part]}))
    assert part == "ann_ids" or not same_objects(one, replace(one, **{part: None}))
    assert not same_objects(one, None)


@pytest.mark.parametrize("pixels", [True, False])
def test_pictures_without_an_expression(folder: Path, tokens: WordTokenizer, pixels: bool) -> None:
    data = open_data(folder, "all", ALL_LABELS, objects=True, pixels=pixels)
    pictures = [data.picture(row) for row in data.picture_rows()]
    batch = collate_pictures(pictures, preprocess())
    assert len(batch) == 0
    assert batch.words.shape[0] == batch.word_mask.shape[0] == 0
    assert batch.words.ndim == 2
    assert (batch.words.dtype, batch.image_of.dtype) == (torch.int64, torch.int64)
    assert (batch.geometry, batch.keys, batch.texts) == ((), (), ())
    assert batch.targets.shape == batch.weights.shape == batch.image_of.shape == (0,)
    told = [data[group[0]] for group in data.groups_by_image()]
    same = collate(told, tokens, preprocess())
    assert torch.equal(batch.images, same.images)
    for name in ("known", "ann_ids", "masks", "has_mask"):
        assert torch.equal(getattr(batch.objects, name), getattr(same.objects, name)), name
    torch.testing.assert_close(batch.objects.boxes, same.objects.boxes, equal_nan=True)
    assert batch.objects.categories == same.objects.categories
    assert batch.objects.geometry == same.geometry


def test_a_picture_without_objects_is_one(tokens: WordTokenizer) -> None:
    none = Objects(
        np.zeros(0, np.int64), (), np.zeros((0, 4), np.float32), ()
    )  # such as an image whose only object is a crowd
    pictures = [Picture(n, np.zeros((8, 9, 3), np.uint8), none) for n in range(2)]
    found = collate_pictures(pictures, preprocess()).objects
    assert found.known.shape == (2, 0)
    assert found.boxes.shape == (2, 0, 4)
    assert found.masks.shape == (2, 0, SIZE, SIZE)
    assert found.categories == ((), ())
    bare = [replace(picture, objects=None) for picture in pictures]
    batch = collate_pictures(bare, preprocess())
    assert (batch.objects, batch.targets) == (None, None)
    assert batch.images.shape == (2, 3, SIZE, SIZE)
