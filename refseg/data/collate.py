"""From samples (px) to the batch a method sees (net)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.data.objects import same_objects
from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.ops.masks import mask_in_net
from refseg.types import Batch, Geometry, NetObjects, Objects, Picture, Sample


def collate(
    samples: Sequence[Sample],
    tokenizer: WordTokenizer,
    preprocess: PreprocessConfig,
    *,
    share_images: bool = False,
    originals: bool = False,
) -> Batch:
    """B samples -> `Batch`. Labels absent from the samples are absent from the batch.

    share_images: samples with one image_id, the same pixels and the same objects share one row of
    `images` (where augmentation does not make them differ). Images without pixels, [H, W, 0],
    give `images` [I, 3, 0, 0], and so do those that are left whole (see `Batch`).
    Raises ValueError when some samples have objects and some not, or other numbers of negatives.
    """
    image_of, rows = _image_rows(samples, share_images)
    pictures = [samples[row].image for row in rows]
    images, geometry = _net_images(pictures, preprocess)
    per_sample = tuple(geometry[row] for row in image_of)
    encoded = tokenizer.encode([sample.text for sample in samples])
    masks, known = _masks(samples, per_sample)
    objects = _objects([samples[row].objects for row in rows], geometry)
    targets = [-1 if sample.target is None else sample.target for sample in samples]
    negatives, negative_mask = _negatives(samples, tokenizer)
    return Batch(
        images=images,
        image_of=torch.tensor(image_of),
        words=torch.from_numpy(encoded.words),
        word_mask=torch.from_numpy(encoded.mask),
        geometry=per_sample,
        keys=tuple(sample.key for sample in samples),
        texts=tuple(sample.text for sample in samples),
        weights=torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        masks=masks,
        has_mask=known,
        boxes=_boxes(samples, per_sample),
        categories=(
            tuple(sample.category for sample in samples)
            if any(sample.category is not None for sample in samples)
            else None
        ),
        objects=objects,
        targets=None if objects is None else torch.tensor(targets),
        pseudo=(
            torch.tensor([sample.pseudo for sample in samples])
            if any(sample.pseudo for sample in samples)
            else None
        ),
        originals=_whole(pictures, preprocess, wanted=originals),
        negatives=negatives,
        negative_mask=negative_mask,
    )


def collate_pictures(pictures: Sequence[Picture], preprocess: PreprocessConfig) -> Batch:
    """I pictures -> `Batch` without an expression (B = 0), a row of `images` each.

    Raises ValueError as `collate`. `PreprocessConfig.geometry` tells where each picture lies.
    """
    seen = [picture.image for picture in pictures]
    images, geometry = _net_images(seen, preprocess)
    objects = _objects([picture.objects for picture in pictures], geometry)
    nobody = torch.zeros(0, dtype=torch.int64)
    return Batch(
        images=images,
        image_of=nobody,
        words=torch.zeros(0, 1, dtype=torch.int64),
        word_mask=torch.zeros(0, 1, dtype=torch.bool),
        geometry=(),
        keys=(),
        texts=(),
        weights=torch.zeros(0),
        objects=objects,
        targets=None if objects is None else nobody,
        originals=_whole(seen, preprocess),
    )


def _image_rows(samples: Sequence[Sample], share: bool) -> tuple[list[int], list[int]]:
    """The row of each sample's image, and for each row the sample that brings the image."""
    brought: dict[int, list[int]] = {}  # image_id -> rows; several where augmentation differs
    image_of: list[int] = []
    rows: list[int] = []
    for index, sample in enumerate(samples):
        known = brought.setdefault(sample.image_id, []) if share else []
        row = next((row for row in known if _same_picture(samples[rows[row]], sample)), len(rows))
        image_of.append(row)
        if row == len(rows):
            rows.append(index)
            known.append(row)
    return image_of, rows


def _same_picture(one: Sample, other: Sample) -> bool:
    """An image_id alone is no proof: two pictures of a careless caller may both be number 0.

    Nor are pixels, where there are none: of two pictures one may be mirrored.
    """
    same = one.image is other.image or np.array_equal(one.image, other.image)
    return same and same_objects(one.objects, other.objects)


def _net_images(
    images: Sequence[NDArray[np.uint8]], preprocess: PreprocessConfig
) -> tuple[torch.Tensor, tuple[Geometry, ...]]:
    nets, geometry = zip(*map(preprocess.apply, images), strict=True)
    return normalise(np.stack(nets), preprocess), geometry


def _whole(
    images: Sequence[NDArray[np.uint8]], preprocess: PreprocessConfig, *, wanted: bool = False
) -> tuple[NDArray[np.uint8], ...] | None:
    """The images as they are, for a method that wants them so; None if they have no pixels."""
    wanted = wanted or preprocess.fit == "whole"
    return tuple(images) if wanted and all(image.shape[2] for image in images) else None


def _objects(
    per_image: Sequence[Objects | None], geometry: tuple[Geometry, ...]
) -> NetObjects | None:
    """The objects of I images side by side; boxes NaN and ids -1 on padding."""
    objects = [one for one in per_image if one is not None]
    if not objects:
        return None
    if len(objects) < len(per_image):
        raise ValueError("some samples carry the objects of their image and some do not")
    counts = np.array([len(one) for one in objects])
    known = np.arange(counts.max()) < counts[:, None]
    ann_ids = np.full(known.shape, -1, np.int64)
    ann_ids[known] = np.concatenate([one.ann_ids for one in objects])
    masks, has_mask = _object_masks(objects, geometry, known)
    categories = [one.categories for one in objects if one.categories is not None]
    return NetObjects(
        known=torch.from_numpy(known),
        ann_ids=torch.from_numpy(ann_ids),
        geometry=geometry,
        boxes=_object_boxes(objects, geometry, known),
        masks=masks,
        has_mask=has_mask,
        categories=tuple(categories) if len(categories) == len(objects) else None,
    )


def _object_boxes(
    objects: Sequence[Objects], geometry: Sequence[Geometry], known: NDArray[np.bool_]
) -> torch.Tensor | None:
    """[I, K, 4] net boxes, NaN on padding and where a box is not stated."""
    stated = [one.boxes_xyxy for one in objects if one.boxes_xyxy is not None]
    if len(stated) < len(objects):
        return None
    boxes = np.full((*known.shape, 4), np.nan, np.float32)
    boxes[known] = _boxes_in_net(np.concatenate(stated), np.nonzero(known)[0], geometry)
    return torch.from_numpy(boxes)


def _object_masks(
    objects: Sequence[Objects], geometry: Sequence[Geometry], known: NDArray[np.bool_]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """[I, K, H, W] net masks, False where there is none, and [I, K] where there are."""
    if any(one.masks is None for one in objects):
        return None, None
    masks = np.zeros((*known.shape, *geometry[0].net_hw), np.bool_)
    has_mask = np.zeros(known.shape, np.bool_)
    for row, (one, placed) in enumerate(zip(objects, geometry, strict=True)):
        for column, mask in enumerate(one.masks or ()):
            if mask is not None:
                masks[row, column] = mask_in_net(mask, placed)
                has_mask[row, column] = True
    return torch.from_numpy(masks), torch.from_numpy(has_mask)


def normalise(images: NDArray[np.uint8], preprocess: PreprocessConfig) -> torch.Tensor:
    """[I, H, W, 3] uint8 -> [I, 3, H, W] float32, contiguous."""
    mean = torch.tensor(preprocess.mean)
    std = torch.tensor(preprocess.std)
    scaled = (torch.from_numpy(images).float() / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous()


def place_mask(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float32]:
    """Nearest-resized mask [H, W] px -> [h, w] float32 net, zero on padding."""
    return mask_in_net(mask, geometry).astype(np.float32)


def _negatives(
    samples: Sequence[Sample], tokenizer: WordTokenizer
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """[B, n, T] ids of the negatives and their mask; None if there are none."""
    texts = [text for sample in samples for text in sample.negatives]
    if not texts:
        return None, None
    if len({len(sample.negatives) for sample in samples}) > 1:
        raise ValueError("some samples have more negatives than others")
    encoded = tokenizer.encode(texts)
    shape = (len(samples), -1, encoded.words.shape[1])
    return (
        torch.from_numpy(encoded.words).view(shape),
        torch.from_numpy(encoded.mask).view(shape),
    )


def _masks(
    samples: Sequence[Sample], geometry: Sequence[Geometry]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    known = [sample.mask is not None for sample in samples]
    if not any(known):
        return None, None
    rows = [
        np.zeros(g.net_hw, dtype=np.float32) if s.mask is None else place_mask(s.mask, g)
        for s, g in zip(samples, geometry, strict=True)
    ]
    return torch.from_numpy(np.stack(rows)), torch.tensor(known)


def _boxes(samples: Sequence[Sample], geometry: Sequence[Geometry]) -> torch.Tensor | None:
    """[B, 4] net boxes; NaN rows where a sample has none."""
    stated = {row: s.box_xyxy for row, s in enumerate(samples) if s.box_xyxy is not None}
    if not stated:
        return None
    rows = np.array(list(stated))
    boxes = np.full((len(samples), 4), np.nan, dtype=np.float32)
    boxes[rows] = _boxes_in_net(np.stack(list(stated.values())), rows, geometry)
    return torch.from_numpy(boxes)


def _boxes_in_net(
    boxes: NDArray[np.float32], rows: NDArray[np.intp], geometry: Sequence[Geometry]
) -> NDArray[np.float64]:
    """px boxes [N, 4] to net, each by the geometry of its row [N]; one by one would be slow."""
    scale = np.array([g.scale_xy * 2 for g in geometry])
    offset = np.array([g.offset_xy * 2 for g in geometry])
    placed: NDArray[np.float64] = boxes * scale[rows] + offset[rows]
    return placed
