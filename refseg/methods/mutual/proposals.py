"""What both heads choose from: the proposals of an image, wherever they come from.

Paper map (section "proposal extractor"): O in R^{N x C} and the masks are an extractor's output.
`Mask2FormerExtractor` is the paper's; `AnnotatedObjects` embeds what people annotated, so that
both heads can be trained and judged on data with boxes but no pixels; `DetectedThings` what a
detector finds.
Letters: I images, N proposals (padded where images differ), C width, h x w mask grid, Q classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from refseg.method import ParameterGroup
from refseg.types import Batch, Labels, NetObjects

#: IoU from which a proposal stands for an object, or for a region that somebody asks about.
MATCHED = 0.5


@dataclass(frozen=True)
class Level:
    """One layer's masks [I, N, h, w] and classes [I, N, Q + 1] (last: no object), logits."""

    masks: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Proposals:
    """features O: [I, N, C]. there: [I, N] bool, False on padding, None if there is none.

    levels: what each decoder layer predicts, the last one last; empty for proposals that are
    boxes alone: annotated objects, in the order of `Batch.objects`, or what stands for them.
    boxes: theirs, [I, N, 4] xyxy in 0..1 of the original image, or None. maps: the backbone's
    stages [I, channels, h, w], finest first.
    """

    features: Tensor
    there: Tensor | None = None
    levels: tuple[Level, ...] = ()
    maps: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None

    @property
    def masks(self) -> Tensor | None:
        """The last layer's mask logits [I, N, h, w], or None."""
        return self.levels[-1].masks if self.levels else None

    @cached_property
    def candidates(self) -> tuple[NDArray[np.float32], ...]:
        """Of each image the probabilities of all masks, [N, h, w]; made once for all questions."""
        assert self.masks is not None
        return tuple(one.numpy() for one in self.masks.detach().float().sigmoid().cpu())

    def boxes_px(self, image: int, hw: tuple[int, int]) -> NDArray[np.float32] | None:
        """`boxes` of one image, whose size is `hw` (rows, columns): [N, 4] px, or None."""
        if self.boxes is None:
            return None
        size = np.array([hw[1], hw[0], hw[1], hw[0]], np.float64)
        return (self.boxes[image].detach().double().cpu().numpy() * size).astype(np.float32)

    def detach(self) -> Proposals:
        """The same features without their history: the heads then teach the extractor nothing."""
        maps = tuple(part.detach() for part in self.maps)
        return replace(self, features=self.features.detach(), maps=maps)


@dataclass(frozen=True)
class Matching:
    """Which proposal stands for which annotated object.

    proposal: [I, K] int64, -1 for objects that none stands for. iou: [I, K] float32, IoU of the
    two masks on the mask grid, NaN where there is nothing to compare.
    """

    proposal: Tensor
    iou: Tensor


class Extractor(Protocol):
    """A source of proposals; a `torch.nn.Module`.

    needs: labels its loss reads. width: C. reads_pixels, reads_objects: what `__call__` looks at.
    """

    needs: Labels
    width: int
    reads_pixels: bool
    reads_objects: bool

    def __call__(self, batch: Batch) -> Proposals: ...

    def match(self, proposals: Proposals, objects: NetObjects) -> Matching:
        """The proposal of each object, the same whenever it is asked.

        Categories count where `objects` tell them; no answer about a region may hang on them.
        """

    def loss(
        self,
        proposals: Proposals,
        objects: NetObjects,
        matching: Matching,
        weight: float,
    ) -> dict[str, Tensor]:
        """Named terms, already weighted; empty for an extractor that has nothing to learn.

        weight: what the trainer lets this slice of the batch count by (see slices.py).
        """

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter that requires a gradient, each exactly once."""
