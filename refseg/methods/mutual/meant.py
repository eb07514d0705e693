"""Which proposals show what is meant: the one that an object is matched to, and its doubles.

Letters: B expressions, E of them with an object, I images, N proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from refseg.methods.mutual.proposals import Matching, Proposals
from refseg.methods.mutual.things import box_overlap
from refseg.types import Batch

#: IoU of boxes from which two detections are taken for one thing, where nobody knows the truth.
ALIKE = 0.7


def chosen_objects(matching: Matching, batch: Batch) -> tuple[Tensor, Tensor]:
    """(rows, k), both [E] int64: the expressions, 0..B-1, that mean one object which some proposal
    stands for, and that proposal, 0..N-1.

    matching: of the batch's I images. The other expressions (no target, several, an object
    without extent, more objects than proposals) have nothing to say to the heads. However badly
    the proposal fits, it is learned from.
    """
    assert batch.targets is not None
    found = matching.proposal[batch.image_of, batch.targets.clamp(min=0)]
    rows = torch.nonzero((batch.targets >= 0) & (found >= 0))[:, 0]
    return rows, found[rows]


def alike(proposals: Proposals, image_of: Tensor, target: Tensor) -> Tensor:
    """[E, N] bool: the detections target [E] of images image_of [E], and those whose boxes have an
    IoU of `ALIKE` with them.
    """
    assert proposals.boxes is not None
    assert proposals.there is not None
    boxes = proposals.boxes[image_of]  # [E, N, 4]
    own = boxes.gather(1, target[:, None, None].expand(-1, 1, 4))
    near = box_overlap(own, boxes)[:, 0] >= ALIKE
    return (near & proposals.there[image_of]) | F.one_hot(target, boxes.shape[1]).bool()
