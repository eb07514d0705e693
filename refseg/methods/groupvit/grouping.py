"""From what each stage assigns to what, to segments of an image, and which of them are meant.

Letters: I images, B texts, N patches, G segments, E width of the joint space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def patch_shares(assigned: Sequence[Tensor]) -> Tensor:
    """How much of each patch each last segment has, [I, G, N]; over G it sums to 1.

    assigned: of each grouping stage in order, [I, G_s, G_(s-1)] with G_0 = N: soft assignments,
    summing to 1 over G_s. A patch belongs to a segment of the last stage by way of those between.
    """
    shares = assigned[0].float()
    for one in assigned[1:]:
        shares = one.float() @ shares
    return shares


def segment_margins(segments: Tensor, texts: Tensor, dummy: Tensor, image_of: Tensor) -> Tensor:
    """How much nearer each segment is to its text than to the dummy, [B, G], cosines.

    segments: [I, G, E], texts: [B, E], dummy: [E], all of unit length. image_of: [B].
    """
    of_text = torch.einsum("bge,be->bg", segments[image_of], texts)
    return of_text - (segments @ dummy)[image_of]
