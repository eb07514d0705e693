"""Objects of an image on their way into a batch."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import SHOWN, make_refer_tree, refer_content

from refseg.data.catalog import open_data
from refseg.data.collate import collate, collate_pictures, place_mask
from refseg.data.objects import same_objects
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.data.transforms import PreprocessConfig, flip
from refseg.ops.boxes import boxes_to_net
from refseg.types import ALL_LABELS, Batch, Labels, Objects, Picture

SIZE = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_refer_tree(tmp_path)


@pytest.fixture(scope="module")
def tokens() -> WordTokenizer:
    texts = [text["raw"] for ref in refer_content()[0] for text in ref["sentences"]]
    return train_wordpiece([*texts, "right"], size=200, max_words=10)


def preprocess(fit: str = "square") -> PreprocessConfig:
    return PreprocessConfig.model_validate({"size": SIZE, "fit": fit})


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


@pytest.mark.parametrize("granted", SHOWN, ids=lambda granted: "+".join(sorted(granted)))
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
