"""Things in an image as a detector tells of them: where, what they may be, and how sure that is.

Annotated objects are the special case in which all is sure. This is not in the paper; it is what
`DetectedThings` (detected.py) embeds. Letters: I images, N things, Q classes, A numbers that tell
of colours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from refseg.methods.mutual.annotated import relative_boxes
from refseg.methods.mutual.classes import class_numbers
from refseg.methods.mutual.objects import missing
from refseg.ops.colours import COLOURS, ZONES
from refseg.types import NetObjects

#: Numbers that `ranks` gives a thing.
RANKS = 12
#: A: shares of the eleven colours, of a thing, its upper and its lower half.
LOOKS = ZONES * len(COLOURS)


@dataclass(frozen=True)
class Things:
    """boxes: [I, N, 4] float32 xyxy in 0..1 of the original image. classes: [I, N, Q] float32, the
    probability of each class, 0..1, independent of one another. there: [I, N] bool, False on
    padding, where the rest is zero. looks: [I, N, A] float32, shares of colours
    (`refseg.ops.colours.colour_zones`), zeros where nobody looked: looked, [I, N] bool.
    """

    boxes: Tensor
    classes: Tensor
    there: Tensor
    looks: Tensor
    looked: Tensor

    @classmethod
    def unseen(cls, boxes: Tensor, classes: Tensor, there: Tensor) -> Things:
        """Things at which nobody looked."""
        looks = boxes.new_zeros(*boxes.shape[:-1], LOOKS)
        return cls(boxes, classes, there, looks, torch.zeros_like(there))

    @property
    def share(self) -> Tensor:
        """[I, N, Q] the classes' shares of all that is told of a thing, 0 on padding."""
        return self.classes / self.classes.sum(dim=-1, keepdim=True).clamp(min=1e-6)

    @property
    def sure(self) -> Tensor:
        """[I, N] the probability of the likeliest class, 0 on padding."""
        return self.classes.amax(dim=-1)

    def at(self, rows: Tensor) -> Things:
        """The things `rows` [I, M] int64 of each image."""
        images = torch.arange(len(rows), device=rows.device)[:, None]
        return Things(*(getattr(self, f.name)[images, rows] for f in fields(self)))

    def only(self, there: Tensor) -> Things:
        """The same, where there [I, N]; the others become padding."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {
            name: part * there.view(*there.shape, *(1,) * (part.ndim - 2))
            for name, part in parts.items()
        }
        return Things(**{**kept, "there": there})


def annotated_things(objects: NetObjects, names: tuple[str, ...]) -> Things:
    """What people annotated: thing i is object i, of one class beyond doubt.

    One without a box is not there. Raises DataError without boxes or categories, and for a
    category that is none of `names`.
    """
    if objects.boxes is None:
        raise missing("boxes", "box")
    boxes = relative_boxes(objects)
    there = objects.known & ~boxes.isnan().any(dim=-1)
    numbers = class_numbers(objects, names)
    classes = torch.nn.functional.one_hot(numbers, len(names)).float() * there[..., None]
    return Things.unseen(boxes.nan_to_num() * there[..., None], classes, there)


def surest(things: Things, least: float, most: int) -> Things:
    """Of each image the at most `most` things with a class of probability `least` or more.

    Surest first; padded to the richest image, but to one place at least.
    """
    sure = things.sure.masked_fill(~things.there, -1.0)
    order = sure.argsort(dim=1, descending=True, stable=True)
    counts = ((sure >= least) & things.there).sum(dim=1).clamp(max=most)
    width = max(int(counts.max()), 1) if len(counts) else 1
    found = things.at(order[:, :width])
    return found.only(torch.arange(width, device=counts.device) < counts[:, None])


def ranks(things: Things) -> Tensor:
    """[I, N, 12] float32, 0..1: how many others lie left, right, above, below, are larger, smaller.

    First among all things, then among those that may be of the same class. Each other counts by
    its probability; n others become n / (n + 2), so that the first few tell most. Places are those
    of centres. People's "second from left" and "biggest" hang on them.
    """
    x0, y0, x1, y1 = things.boxes.unbind(dim=-1)
    x, y, area = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * (y1 - y0)
    # [I, N, N, 6]: entry [i, a, b]: b lies so from a.
    before = torch.stack(
        [_less(x), _less(x).mT, _less(y), _less(y).mT, _less(area).mT, _less(area)], -1
    )
    weight = things.sure.clamp(max=1.0)[:, None]  # [I, 1, N]
    alike = (things.share @ things.share.mT) * weight
    everything = weight.expand_as(alike)
    counts = torch.cat([(before * w[..., None]).sum(dim=2) for w in (everything, alike)], dim=-1)
    return counts / (counts + 2)


def _less(values: Tensor) -> Tensor:
    """[I, N] -> [I, N, N] float: entry [i, a, b] says whether the value of b is below that of a."""
    return (values[:, None, :] < values[:, :, None]).to(values.dtype)


def box_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Boxes [I, K, 4] and [I, N, 4] xyxy -> IoU [I, K, N]; 0 where both are without extent."""
    near = torch.maximum(one[:, :, None, :2], other[:, None, :, :2])
    far = torch.minimum(one[:, :, None, 2:], other[:, None, :, 2:])
    both = (far - near).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (one, other)]
    return both / (areas[0][:, :, None] + areas[1][:, None] - both).clamp(min=1e-12)
