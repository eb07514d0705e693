"""The values that travel between the parts of refseg.

Frames: *px* is the original image (rows down, columns right, origin at the upper left corner of
the upper left pixel); *net* is the image as the network sees it after resizing. Boxes are
continuous `x0, y0, x1, y1` with exclusive far edges. Letters: B expressions, I images, T words,
H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from refseg.errors import LabelsError, UnknownName

if TYPE_CHECKING:
    import torch

Moved = TypeVar("Moved", "NetObjects", "Batch")

LABEL_KINDS = ("text", "box", "mask", "category")


@dataclass(frozen=True)
class Labels:
    """Which labels may be seen. What is not granted is never read, so it cannot leak.

    granted: subset of `LABEL_KINDS`; text is always in it.
    mask_refs: when given, masks are granted for these ref ids alone (partial supervision).
    """

    granted: frozenset[str] = frozenset({"text"})
    mask_refs: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for kind in self.granted:
            if kind not in LABEL_KINDS:
                raise UnknownName("label", kind, LABEL_KINDS)
        object.__setattr__(self, "granted", self.granted | {"text"})
        if self.mask_refs is not None and "mask" not in self.granted:
            raise LabelsError(
                "a list of refs with masks was given but masks are not granted",
                remedy='grant "mask" or drop mask_refs',
            )

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Read "text+box+mask" (any order). Raises UnknownName for a word that is no label."""
        return cls(frozenset(part.strip() for part in text.split("+") if part.strip()))

    def allows(self, kind: str, ref_id: int | None = None) -> bool:
        """Whether `kind` may be seen, for the ref `ref_id` where the grant is per ref."""
        if kind not in self.granted:
            return False
        if kind == "mask" and self.mask_refs is not None:
            return ref_id is not None and ref_id in self.mask_refs
        return True

    def covers(self, needed: Labels) -> bool:
        """Whether every kind in `needed` is granted here (for at least some refs)."""
        return needed.granted <= self.granted

    def __str__(self) -> str:
        names = [kind for kind in LABEL_KINDS if kind in self.granted]
        if self.mask_refs is not None:
            names[names.index("mask")] = f"mask({len(self.mask_refs)} refs)"
        return "+".join(names)


TEXT_ONLY = Labels()
ALL_LABELS = Labels(frozenset(LABEL_KINDS))


@dataclass(frozen=True)
class Geometry:
    """How a network image was made from an original one: px -> net is `xy * scale + offset`.

    original_hw, net_hw: sizes (rows, columns). scale_xy, offset_xy: net pixels per px, net pixels.
    The content of the net image is the rectangle `offset .. offset + original * scale`;
    whatever lies outside is padding.
    """

    original_hw: tuple[int, int]
    net_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Objects:
    """All annotated objects of an image but crowds, K of them, in the px frame.

    ann_ids: [K] int64. Labels not granted are None: categories, K names; boxes_xyxy: [K, 4]
    float32, NaN where the data set states none; masks: K times [H, W] bool, or None for an
    object without one.
    """

    ann_ids: NDArray[np.int64]
    categories: tuple[str, ...] | None = None
    boxes_xyxy: NDArray[np.float32] | None = None
    masks: tuple[NDArray[np.bool_] | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.ann_ids)


@dataclass(frozen=True)
class Picture:
    """One image with its objects and no expression, px. image: as in `Sample`."""

    image_id: int
    image: NDArray[np.uint8]
    objects: Objects | None = None


@dataclass(frozen=True)
class Sample:
    """One expression about one image, in the px frame. Labels not granted are None.

    key: unique in its data set and split. image: [H, W, 3] uint8 RGB. mask: [H, W] bool.
    box_xyxy: [4] float32. empty: the expression means nothing in the image (None if masks and
    boxes are both withheld). parts: number of polygons or RLEs the mask was joined from
    (some protocols score multi-part targets differently), 0 when masks are withheld.
    weight: importance in a loss (pseudo-labels may carry less than 1). objects: what else is
    annotated in the image, where the data set was opened with it; target: the row in `objects`
    that is meant, None if that is no single one of them. pseudo: a model wrote the text. A data
    set opened without pixels gives an empty image [H, W, 0] of the size that its annotations state.
    negatives: texts about something else, where a method learns from what is not meant.
    """

    key: str
    image: NDArray[np.uint8]
    text: str
    image_id: int
    ref_id: int
    sent_id: int
    mask: NDArray[np.bool_] | None = None
    box_xyxy: NDArray[np.float32] | None = None
    category: str | None = None
    empty: bool | None = None
    parts: int = 0
    weight: float = 1.0
    objects: Objects | None = None
    target: int | None = None
    pseudo: bool = False
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetObjects:
    """The annotated objects of I images, padded to K, in the net frame.

    known: [I, K] bool, False on padding. ann_ids: [I, K] int64. Labels not granted are None:
    boxes: [I, K, 4] float32 xyxy (NaN where not stated); masks: [I, K, H, W] bool, has_mask:
    [I, K] bool, which of them are known; categories: a tuple of names per image.
    geometry: one per image.
    """

    known: torch.Tensor
    ann_ids: torch.Tensor
    geometry: tuple[Geometry, ...]
    boxes: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    has_mask: torch.Tensor | None = None
    categories: tuple[tuple[str, ...], ...] | None = None

    def to(self, device: torch.device | str) -> NetObjects:
        """The same objects with their tensors on `device`."""
        return _moved(self, device)


@dataclass(frozen=True)
class Batch:
    """What a method sees: B expressions about I images (net frame).

    images: [I, 3, H, W] float32, normalised, contiguous. image_of: [B] int64, the row of
    `images` that expression b asks about. words: [B, T] int64 token ids. word_mask: [B, T] bool,
    True on real tokens. geometry: one per expression. keys, texts: one per expression.
    masks: [B, H, W] float32 in 0..1, boxes: [B, 4] float32 xyxy net, categories: B names,
    each None unless granted. has_mask: [B] bool, which rows of `masks` are known.
    weights: [B] float32. objects: the annotated objects of the I images, where they were asked
    for; targets: [B] int64, the object that expression b means, -1 for none of them. pseudo: [B]
    bool, the expressions that a model wrote, None if people wrote all. Without pixels `images` is
    [I, 3, 0, 0]; so it is where the method makes its net images itself, of originals: the I images
    [H, W, 3] uint8 RGB in px, None unless there or where the method wants them beside. negatives:
    [B, n, T'] int64 token ids of n texts about something else for each expression, negative_mask:
    [B, n, T'] bool, True on real tokens; None where none were asked for.
    """

    images: torch.Tensor
    image_of: torch.Tensor
    words: torch.Tensor
    word_mask: torch.Tensor
    geometry: tuple[Geometry, ...]
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    weights: torch.Tensor
    masks: torch.Tensor | None = None
    has_mask: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    categories: tuple[str | None, ...] | None = None
    objects: NetObjects | None = None
    targets: torch.Tensor | None = None
    pseudo: torch.Tensor | None = None
    originals: tuple[NDArray[np.uint8], ...] | None = None
    negatives: torch.Tensor | None = None
    negative_mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = _moved(self, device)
        return moved if self.objects is None else replace(moved, objects=self.objects.to(device))


def _moved(value: Moved, device: torch.device | str) -> Moved:
    """The dataclass with the tensors among its fields on `device`."""
    import torch

    moved: dict[str, Any] = {
        f.name: part.to(device, non_blocking=True)
        for f in fields(value)
        if isinstance(part := getattr(value, f.name), torch.Tensor)
    }
    return replace(value, **moved)


@dataclass(frozen=True)
class Prediction:
    """The answer to one expression, in the px frame.

    mask: [H, W] bool. score: 0..1, how sure the method is. response: [h, w] float32
    probabilities in the net frame (any resolution h x w covering `geometry.net_hw`), from which
    protocols with their own threshold or resolution make their mask; None for methods that
    have no such map. empty: the method says that the expression means nothing here.
    polygons: px points [P, 2] float32 each, for methods that predict outlines.
    maps: inner maps worth looking at, name -> [h, w] float32; "entities" (of groups) and
    "segments" hold numbers, from 0 on, for methods that take an image apart. candidates: [N, h, w]
    float32 probabilities in the net frame of all masks that the method chose from, shared by the
    predictions about one image; None for methods that do not choose.
    """

    mask: NDArray[np.bool_]
    score: float
    geometry: Geometry
    response: NDArray[np.float32] | None = None
    empty: bool = False
    polygons: tuple[NDArray[np.float32], ...] = ()
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    candidates: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Expression:
    """A sentence that a method wrote about a region.

    score: log-probability of the sentence, 0 at most. refers_back: whether a selection head,
    given the sentence, points at the region again; margin: the probability it gives the region
    minus that of the best other proposal, -1..1. Both None unless they were asked for.
    """

    text: str
    score: float
    refers_back: bool | None = None
    margin: float | None = None
