"""From samples (px) to the batch a method sees (net)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.data.tokens import WordTokenizer
from refseg.data.transforms import PreprocessConfig
from refseg.ops.masks import mask_in_net
from refseg.types import Batch, Geometry, Sample


def collate(
    samples: Sequence[Sample],
    tokenizer: WordTokenizer,
    preprocess: PreprocessConfig,
    *,
    share_images: bool = False,
) -> Batch:
    """B samples -> `Batch`. Labels absent from the samples are absent from the batch.

    share_images: samples with one image_id and the same pixels share one row of `images`
    (evaluation, where no augmentation makes them differ).
    """
    first: dict[int, int] = {}  # image_id -> the sample that brought the image
    images: list[NDArray[np.uint8]] = []
    geometry: list[Geometry] = []
    image_of: list[int] = []
    for index, sample in enumerate(samples):
        twin = first.setdefault(sample.image_id, index) if share_images else index
        if twin != index and _same_pixels(samples[twin], sample):
            image_of.append(image_of[twin])
            continue
        net, placed = preprocess.apply(sample.image)
        image_of.append(len(images))
        images.append(net)
        geometry.append(placed)
    per_sample = tuple(geometry[row] for row in image_of)
    encoded = tokenizer.encode([sample.text for sample in samples])
    masks, known = _masks(samples, per_sample)
    return Batch(
        images=normalise(np.stack(images), preprocess),
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
    )


def _same_pixels(one: Sample, other: Sample) -> bool:
    """An image_id alone is no proof: two pictures of a careless caller may both be number 0."""
    return one.image is other.image or np.array_equal(one.image, other.image)


def normalise(images: NDArray[np.uint8], preprocess: PreprocessConfig) -> torch.Tensor:
    """[I, H, W, 3] uint8 -> [I, 3, H, W] float32, contiguous."""
    mean = torch.tensor(preprocess.mean)
    std = torch.tensor(preprocess.std)
    scaled = (torch.from_numpy(images).float() / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous()


def place_mask(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float32]:
    """Nearest-resized mask [H, W] px -> [h, w] float32 net, zero on padding."""
    return mask_in_net(mask, geometry).astype(np.float32)


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
    if all(sample.box_xyxy is None for sample in samples):
        return None
    rows = np.full((len(samples), 4), np.nan, dtype=np.float32)
    for row, sample, g in zip(rows, samples, geometry, strict=True):
        if sample.box_xyxy is not None:
            row[:] = sample.box_xyxy * np.tile(g.scale_xy, 2) + np.tile(g.offset_xy, 2)
    return torch.from_numpy(rows)
