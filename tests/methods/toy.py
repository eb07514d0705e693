"""A toy of every method, and drawn data small enough to learn in seconds.

A new method adds an entry to `TOYS`, or several where it comes in kinds that share little; the
contract suite then runs over each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from refseg.data.collate import collate
from refseg.data.transforms import PreprocessConfig
from refseg.models import Model, build_method
from refseg.nn.clip import ClipWords
from refseg.types import Batch, NetObjects, Objects, Prediction, Sample
from tests.methods.groupvit.toys import groupvit_config
from tests.methods.maskclip.toys import maskclip_config
from tests.methods.sag.toys import sag_config
from tests.methods.toy_configs import (
    COLOURS,
    MAX_WORDS,
    SHAPES,
    SIDE,
    SIDES,
    annotated_config,
    detected_config,
    mutual_config,
    partial_res_config,
    toy_tokenizer,
    vega_config,
)
from tests.methods.tris.toys import response_config, toy_calibrator, tris_config

__all__ = ["MAX_WORDS", "SIDE", "toy_tokenizer", "vega_config"]  # passed on


@dataclass(frozen=True)
class Toy:
    """method: its name in `METHODS`. config: of one small enough for milliseconds.

    answers: what four samples learned by heart are, masks or filled boxes; None where the loss
    sees neither. steps, lr: enough to learn them.
    """

    method: str
    config: Callable[[], Any]
    steps: int = 100
    lr: float = 1e-3
    answers: Literal["mask", "box"] | None = "mask"


TOYS = {
    "vega": Toy("vega", vega_config),
    "mutual": Toy("mutual", mutual_config, steps=60, lr=2e-3),
    "mutual appearance": Toy("mutual", lambda: mutual_config(appearance=True), steps=60, lr=2e-3),
    "mutual annotated": Toy(
        "mutual", lambda: mutual_config(annotated_config()), lr=3e-3, answers="box"
    ),
    "mutual detected": Toy(
        "mutual", lambda: mutual_config(detected_config(), absent=0.5), lr=3e-3, answers="box"
    ),
    "partial_res": Toy("partial_res", partial_res_config, lr=3e-3),
    "partial_res rec": Toy(
        "partial_res", lambda: partial_res_config().seqtr("rec"), lr=3e-3, answers="box"
    ),
    "partial_res multi": Toy(
        "partial_res",
        lambda: partial_res_config(task="multi", task_token="task-wise"),
        steps=200,
        lr=3e-3,
    ),
    "groupvit": Toy("groupvit", groupvit_config, answers=None),
    "maskclip": Toy("maskclip", maskclip_config, answers=None),
    "maskclip resnet": Toy("maskclip", lambda: maskclip_config(resnet=True), answers=None),
    "maskclip prompted": Toy(
        "maskclip", lambda: maskclip_config(prompt="the {} please", residual=True), answers=None
    ),
    "sag": Toy("sag", sag_config, answers=None),
    "sag released": Toy("sag", lambda: sag_config().released(), answers=None),
    "tris": Toy("tris", tris_config, lr=3e-3),
    "tris repaired": Toy("tris", lambda: tris_config(mask_padding=True), lr=3e-3),
    "tris_response": Toy("tris_response", response_config, answers=None),
    "tris_response words": Toy(
        "tris_response", lambda: response_config(prompt="words"), answers=None
    ),
}


def toy_method(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    method = build_method(TOYS[name].method, TOYS[name].config())
    if hasattr(method, "judge_by"):
        method.judge_by(toy_calibrator())
    if hasattr(method, "spell"):
        method.spell(toy_tokenizer().ids)
    return acquainted(method)


def acquainted(method: Any) -> Any:
    """Batch norms that know the statistics of drawn scenes, and words that a fresh CLIP would hear
    alike: small random networks damp both to nothing, and nothing would matter to what comes out.
    """
    for words in (m for m in method.modules() if isinstance(m, ClipWords)):
        for table in (m for m in words.modules() if isinstance(m, torch.nn.Embedding)):
            table.weight.data.mul_(20)
    norms = [m for m in method.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training]
    if norms:
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            method(toy_batch(toy_samples(2)))
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
    return method


def toy_model(name: str, seed: int = 0) -> Model:
    method = toy_method(name, seed)
    return Model(f"toy-{name}", TOYS[name].method, method, toy_tokenizer(), preprocess(), {})


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


def drawn_objects(
    masks: Sequence[np.ndarray], categories: Sequence[str], first_id: int = 0
) -> Objects:
    """Objects by their masks, with the boxes around them."""
    places = [np.nonzero(mask) for mask in masks]
    boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in places]
    return Objects(
        np.arange(first_id, first_id + len(masks)),
        tuple(categories),
        np.array(boxes, np.float32).reshape(-1, 4),
        tuple(masks),
    )


def toy_samples(
    images: int = 2, hw: Sequence[tuple[int, int]] = ((SIDE, SIDE),), *, labelled: bool = True
) -> list[Sample]:
    """Two expressions an image, one of each of its objects; image i at size `hw[i % len(hw)]`."""
    samples = []
    for image_id in range(images):
        scene = drawn_scene(image_id, hw[image_id % len(hw)])
        masks = [mask for _, _, mask in scene]
        objects = drawn_objects(masks, [text.split()[-1] for text, _, _ in scene], 2 * image_id)
        assert objects.boxes_xyxy is not None
        assert objects.categories is not None
        for place, (text, image, mask) in enumerate(scene):
            ref = 2 * image_id + place
            sample = Sample(f"toy-{ref}", image, text, image_id, ref, ref)
            labels = {
                "mask": mask,
                "box_xyxy": objects.boxes_xyxy[place],
                "category": objects.categories[place],
                "empty": False,
                "parts": 1,
                "objects": objects,
                "target": place,
            }
            samples.append(replace(sample, **labels) if labelled else sample)
    return samples


def toy_batch(
    samples: Sequence[Sample], *, share_images: bool = False, fit: str = "square"
) -> Batch:
    return collate(samples, toy_tokenizer(), preprocess(fit), share_images=share_images)


def without_labels(batch: Batch, *, objects_are_seen: bool = False) -> Batch:
    """objects_are_seen: the objects' boxes and categories are what the method looks at."""
    seen = None
    if objects_are_seen and batch.objects is not None:
        seen = replace(batch.objects, masks=None, has_mask=None)
    told = {"masks": None, "has_mask": None, "boxes": None, "categories": None, "targets": None}
    return replace(batch, **told, objects=seen)


def other_scene(batch: Batch, rows: Sequence[int]) -> Batch:
    """Other pixels and other places of the objects in these images."""
    images = batch.images.clone()
    images[rows] = images[rows].flip(-1) + 0.5
    objects = batch.objects
    assert objects is not None
    assert objects.boxes is not None
    boxes = objects.boxes.clone()
    boxes[rows] = 0.9 * boxes[rows] + 2
    return replace(batch, images=images, objects=replace(objects, boxes=boxes))


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
    images = batch.image_of[pick]

    def tensor(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[pick]

    def told(value: Any) -> Any:
        return None if value is None else tuple(value[i] for i in rows)

    return Batch(
        images=batch.images[images],
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
        objects=None if batch.objects is None else objects_of_rows(batch.objects, images),
        targets=tensor(batch.targets),
        pseudo=tensor(batch.pseudo),
    )


def objects_of_rows(objects: NetObjects, images: Tensor) -> NetObjects:
    """The objects of some images."""
    moved = {
        f.name: value[images] if isinstance(value, Tensor) else tuple(value[i] for i in images)
        for f in fields(NetObjects)
        if (value := getattr(objects, f.name)) is not None
    }
    return NetObjects(**moved)


@cache
def learned(name: str) -> Any:
    """A toy that knows the four samples about two images by heart; not to be changed."""
    toy = TOYS[name]
    return taught(toy_method(name), toy_batch(toy_samples(2)), toy.steps, toy.lr)


def taught(method: Any, batch: Batch, steps: int, lr: float) -> Any:
    """The same method after so many steps on one batch, in eval mode."""
    groups = [{"params": g.parameters, "lr": lr * g.lr_scale} for g in method.parameter_groups()]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    method.train()
    for _ in range(steps):
        optimiser.zero_grad()
        method.loss(method(batch), batch)["total"].backward()
        optimiser.step()
    return method.eval()


def losses(method: Any, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    """The loss terms under a fixed seed: some losses look at random points."""
    torch.manual_seed(seed)
    terms: dict[str, Tensor] = method.loss(method(batch), batch)
    return terms


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
    """Equal up to rounding; a pixel on the threshold may fall to either side, and with it a score
    that is a mean over the mask.
    """
    assert ours.geometry == theirs.geometry
    assert ours.empty == theirs.empty
    moved = 1e-3 if np.array_equal(ours.mask, theirs.mask) else 5e-3
    np.testing.assert_allclose(ours.score, theirs.score, atol=moved)
    assert (ours.candidates is None) == (theirs.candidates is None)
    if ours.candidates is not None:
        np.testing.assert_allclose(ours.candidates, theirs.candidates, atol=tolerance)
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
