"""Means over a batch that several processes share.

Each process learns from its slice, and the trainer lets a slice's loss count by its `loss_weight`
over all slices'. That is right for a mean over expressions. Masks, proposals and words are shared
out otherwise than expressions, so the mean over them in a slice is put right here: Mask2Former
averages the number of masks over its processes to the same end.
Micro-batches of one process are means of their own, each weighed by its expressions.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def fair(counts: Tensor, weight: float) -> Tensor:
    """What to multiply a slice's means by, so that the weighed sum is the mean of the whole: [T].

    counts: [T] float32, how much each mean of this slice is over. weight: the slice's
    `loss_weight`. Ones in a single process, where something was counted. A collective: every
    process must ask.
    """
    told = torch.cat([counts, counts.new_tensor([weight])])
    whole = over_all(told)
    share = told[-1] / whole[-1]
    return counts / (whole[:-1].clamp(min=1e-6) * share)


def over_all(values: Tensor) -> Tensor:
    """The sum over all processes. A collective."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed
