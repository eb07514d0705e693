"""One image of the embedded world: scene, picture on disk, masks, expressions, captions.

`make_picture(order, index)` is a pure function of its arguments (and of the package), so any
process can make any image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refseg.data.scenes import language
from refseg.data.scenes.model import Scene
from refseg.data.scenes.render import render
from refseg.data.scenes.sample import Staged, sample_scene
from refseg.data.scenes.serial import scene_to_json, stage_to_json
from refseg.ops.masks import rle_encode

STYLES = ("scenes", "scenes+", "scenesg")
SPLITS = (("train", 0.70), ("val", 0.775), ("testA", 0.85), ("testB", 0.925), ("pool", 1.0))
# As RefCOCO's testA is about people and testB about the rest: curved things, things with edges.
TEST_A_KINDS = ("ball", "ring", "mug", "capsule")
EXPRESSIONS = 3
TARGETS, TARGET_WEIGHTS = (2, 3, 4), (0.4, 0.4, 0.2)
PATIENCE = 20


@dataclass(frozen=True)
class Order:
    """What is being built. folder: where pictures are written."""

    seed: int
    images: int
    ambiguous_share: float
    folder: str


def split_of(index: int, images: int) -> str:
    """Split of image `index` of `images`: 70 % train, then four times 7.5 %."""
    for name, end in SPLITS:
        if index < round(images * end):
            return name
    return SPLITS[-1][0]


def image_name(image_id: int, ann_id: int | None = None) -> str:
    """Name of a picture's file; with an annotation's number, as RefCOCO's refs have it."""
    return f"scene_{image_id:06d}.png" if ann_id is None else f"scene_{image_id:06d}_{ann_id}.png"


def make_picture(order: Order, index: int) -> dict[str, Any]:
    """Write picture `index` into the order's folder and return all else about it as JSON values."""
    import cv2

    # Two streams: a change of the language leaves most pictures as they are.
    scenes_rng = np.random.default_rng(np.random.SeedSequence([order.seed, index]))
    rng = np.random.default_rng(np.random.SeedSequence([order.seed, index, 1]))
    split = split_of(index, order.images)
    share = order.ambiguous_share if split == "train" else 0.0
    staged, refs = _described(scenes_rng, rng, split, share)
    rendered = render(staged.scene, staged.stage)
    path = Path(order.folder) / image_name(index + 1)
    bgr = np.ascontiguousarray(rendered.image[..., ::-1])
    done, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise RuntimeError(f"{path}: the picture could not be encoded as PNG")
    path.write_bytes(encoded.tobytes())
    return {
        "split": split,
        "scene": scene_to_json(rendered.scene),
        "stage": stage_to_json(staged.stage),
        "masks": [rle_encode(rendered.owner == o.object_id) for o in rendered.scene.objects],
        "captions": language.captions(rendered.scene, rng, count=3),
        "refs": refs,
    }


def _described(
    scenes_rng: np.random.Generator, rng: np.random.Generator, split: str, share: float
) -> tuple[Staged, dict[str, list[dict[str, Any]]]]:
    """A scene in which each style has something to say about at least two objects.

    After `PATIENCE` scenes one object is enough. The pool gets no expressions.
    """
    attempt = 0
    while True:
        staged = sample_scene(scenes_rng)
        if split == "pool":
            return staged, {style: [] for style in STYLES}
        wanted = TARGETS[int(rng.choice(len(TARGETS), p=TARGET_WEIGHTS))]
        targets = _targets(staged.scene, split, rng)
        refs = {style: _refs(staged.scene, targets, wanted, style, rng, share) for style in STYLES}
        if min(len(found) for found in refs.values()) >= (2 if attempt < PATIENCE else 1):
            return staged, refs
        attempt += 1


def _targets(scene: Scene, split: str, rng: np.random.Generator) -> list[int]:
    """Object ids that may be meant in this split, in random order, twins tending to come first."""
    kinds = [item.kind for item in scene.objects]
    allowed = []
    for item in scene.objects:
        rank = float(rng.random()) - (0.4 if kinds.count(item.kind) > 1 else 0.0)
        curved = item.kind in TEST_A_KINDS
        if not ((split == "testA" and not curved) or (split == "testB" and curved)):
            allowed.append((rank, item.object_id))
    return [object_id for _, object_id in sorted(allowed)]


def _refs(
    scene: Scene,
    targets: list[int],
    wanted: int,
    style: str,
    rng: np.random.Generator,
    share: float,
) -> list[dict[str, Any]]:
    """Up to `wanted` refs of one style; objects that cannot be told apart are passed over."""
    refs: list[dict[str, Any]] = []
    for object_id in targets:
        if len(refs) == wanted:
            break
        texts = language.describe(scene, object_id, style, rng, count=EXPRESSIONS)
        if texts:
            rows = [_sentence(scene, object_id, style, text, rng, share) for text in texts]
            refs.append({"object_id": object_id, "sentences": rows})
    return refs


def _sentence(
    scene: Scene, object_id: int, style: str, text: str, rng: np.random.Generator, share: float
) -> dict[str, Any]:
    """A sentence's row; with probability `share` an ambiguous one takes its place, marked so."""
    if share > 0 and rng.random() < share:
        vague = language.describe(scene, object_id, style, rng, count=1, ambiguous=True)
        if vague:
            return {**_row(vague[0]), "ambiguous": True}
    return _row(text)


def _row(text: str) -> dict[str, Any]:
    sent = " ".join(re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split())
    return {"raw": text, "sent": sent, "tokens": sent.split()}
