"""A toy of every method, and drawn data small enough to learn in seconds.

A new method adds one entry to `TOYS`; the contract suite then runs over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg.data.collate import collate
from refseg.data.tokens import WordTokenizer, train_wordpiece
from refseg.data.transforms import PreprocessConfig
from refseg.methods.vega import VegaConfig
from refseg.methods.vega.config import DecoderConfig, LossConfig, SelectionConfig
from refseg.models import Model, build_method
from refseg.nn.text import BertTextConfig
from refseg.nn.vision import SwinVisionConfig
from refseg.types import Batch, Prediction, Sample

SIDE = 64  # px, net
MAX_WORDS = 12
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 190, 70)}
SHAPES = ("square", "disc")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Toy:
    """config: a method small enough for milliseconds. steps, lr: enough to learn four samples.

    learns_masks: whether its loss sees masks, so that four samples can be learned by heart.
    """

    config: Callable[[], Any]
    steps: int = 100
    lr: float = 1e-3
    learns_masks: bool = True


def vega_config(**changes: Any) -> VegaConfig:
    """16 pixels at the stage of the selection (K = 4), 64 px, width 32, no dropout."""
    config = VegaConfig(
        vision=SwinVisionConfig(
            image_size=SIDE,
            patch=2,
            width=8,
            depths=(1, 1, 2, 1),
            heads=(1, 2, 4, 4),
            window=4,
            drop_path=0.0,
            absolute_positions=True,
        ),
        text=BertTextConfig(
            vocab_size=toy_tokenizer().vocab_size,
            width=32,
            layers=2,
            heads=2,
            mlp_width=64,
            max_positions=32,
            drop=0.0,
        ),
        selection=SelectionConfig(heads=4, max_tokens=24),
        decoder=DecoderConfig(widths=(32, 32, 16, 16), heads=4),
        loss=LossConfig(),
    )
    return config.model_copy(update=changes)


TOYS = {"vega": Toy(vega_config)}


@cache
def toy_tokenizer() -> WordTokenizer:
    sides = (*SIDES, "")
    texts = [f"{side} {colour} {shape}" for side in sides for colour in COLOURS for shape in SHAPES]
    return train_wordpiece([*texts, "the one on my far side please"], size=160, max_words=MAX_WORDS)


def toy_method(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_method(name, TOYS[name].config())


def toy_model(name: str, seed: int = 0) -> Model:
    return Model(f"toy-{name}", name, toy_method(name, seed), toy_tokenizer(), preprocess(), {})


def preprocess(fit: str = "square") -> PreprocessConfig:
    return PreprocessConfig.model_validate({"size": SIDE, "fit": fit})


def drawn_scene(
    image_id: int, hw: tuple[int, int] = (SIDE, SIDE)
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(text, image, mask) of the two things drawn side by side on a grey ground."""
    height, width = hw
    rng = np.random.default_rng([5, image_id])
    image = np.full((height, width, 3), 118, np.uint8)
    names = rng.permutation(list(COLOURS))[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    told = []
    for side, colour in enumerate(names):
        cy, cx = height * rng.uniform(0.4, 0.6), width * (0.25 + 0.5 * side)
        dy, dx = (rows - cy) / (0.25 * height), (columns - cx) / (0.2 * width)
        shape = SHAPES[int(rng.integers(2))]
        inside = np.maximum(abs(dy), abs(dx)) < 1 if shape == "square" else dy**2 + dx**2 < 1
        image[inside] = COLOURS[str(colour)]
        told.append((f"{SIDES[side]} {colour} {shape}", inside))
    return [(text, image, mask) for text, mask in told]


def toy_samples(
    images: int = 2, hw: Sequence[tuple[int, int]] = ((SIDE, SIDE),), *, labelled: bool = True
) -> list[Sample]:
    """Two expressions an image, image i at size `hw[i % len(hw)]`."""
    samples = []
    for image_id in range(images):
        scene = drawn_scene(image_id, hw[image_id % len(hw)])
        for place, (text, image, mask) in enumerate(scene):
            ref = 2 * image_id + place
            ys, xs = np.nonzero(mask)
            box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
            sample = Sample(f"toy-{ref}", image, text, image_id, ref, ref)
            labels = {
                "mask": mask,
                "box_xyxy": box,
                "category": text.split()[-1],
                "empty": False,
                "parts": 1,
            }
            samples.append(replace(sample, **labels) if labelled else sample)
    return samples


def toy_batch(
    samples: Sequence[Sample], *, share_images: bool = False, fit: str = "square"
) -> Batch:
    return collate(samples, toy_tokenizer(), preprocess(fit), share_images=share_images)


def without_labels(batch: Batch) -> Batch:
    return replace(batch, masks=None, has_mask=None, boxes=None, categories=None)


def with_padding(batch: Batch, more: int, seed: int = 0) -> Batch:
    """The same words with `more` slots of padding, and junk ids in every padded slot."""
    words = torch.nn.functional.pad(batch.words, (0, more))
    mask = torch.nn.functional.pad(batch.word_mask, (0, more))
    vocab = toy_tokenizer().vocab_size
    junk = torch.randint(0, vocab, words.shape, generator=torch.Generator().manual_seed(seed))
    return replace(batch, words=torch.where(mask, words, junk), word_mask=mask)


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some expressions of a batch, about the images they need and no others."""
    pick = torch.tensor(list(rows))

    def tensor(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[pick]

    def told(value: Any) -> Any:
        return None if value is None else tuple(value[i] for i in rows)

    return Batch(
        images=batch.images[batch.image_of[pick]],
        image_of=torch.arange(len(rows)),
        words=batch.words[pick],
        word_mask=batch.word_mask[pick],
        geometry=told(batch.geometry),
        keys=told(batch.keys),
        texts=told(batch.texts),
        weights=batch.weights[pick],
        masks=tensor(batch.masks),
        has_mask=tensor(batch.has_mask),
        boxes=tensor(batch.boxes),
        categories=told(batch.categories),
    )


def answers(method: Any, batch: Batch) -> list[Prediction]:
    with torch.no_grad():
        predictions: list[Prediction] = method.decode(method(batch), batch)
    return predictions


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside outputs: dataclasses, mappings and sequences are walked."""
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensors(inner, f"{name}[{key}]")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from tensors(inner, f"{name}[{index}]")


def assert_same(ours: Prediction, theirs: Prediction, tolerance: float = 2e-5) -> None:
    """Equal up to rounding; a pixel on the threshold may fall to either side."""
    assert ours.geometry == theirs.geometry
    assert ours.empty == theirs.empty
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-3)
    if ours.response is None or theirs.response is None:
        assert ours.response is None
        assert theirs.response is None
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        return
    np.testing.assert_allclose(ours.response, theirs.response, atol=tolerance)
    assert (ours.mask != theirs.mask).mean() < 0.01
    assert len(ours.polygons) == len(theirs.polygons)
    for a, b in zip(ours.polygons, theirs.polygons, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)
