"""The contrastive cycle-consistency loss (C3): a sentence finds itself again in its own image.

Letters: B sentences, I images, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.types import Batch

#: Images are first told apart by one pixel in so many of each side.
THINNED = 4


def cycle_consistency(
    target: Tensor, found: Tensor, counted: Tensor, batch: Batch, temperature: float
) -> Tensor:
    """L_C3: the mean over sentences, by their weights, of the cross-entropy of their own image.

    logit[t, i] = <x_t, psi[t, i]> / tau. target: x [B, D], not of unit length; detached by the
    caller where it is no more than a target. found: psi [B, I, D], unit length. counted: [B, I]
    bool, see `counted_images`. One direction only: an image is not asked for its sentences. ln I
    where the slots say nothing, 0 with a single image.
    """
    logits = torch.einsum("bd,bid->bi", target.float(), found.float()) / temperature
    logits = logits.masked_fill(~counted, float("-inf"))
    each = F.cross_entropy(logits, batch.image_of, reduction="none")
    return (each * batch.weights).sum() / batch.weights.sum().clamp(min=1e-6)


def counted_images(batch: Batch, *, distinct: bool) -> Tensor:
    """[B, I] bool: which images (columns) each sentence is told apart from, its own included.

    distinct: not those of the same pixels, nor those that some sentence of the same words is
    about: of them it is true, too. Otherwise all rows of `batch.images` count: an image that is
    there twice is its own rival, as in the released code; where the items of a batch share their
    images (`data.per_image`) it is there once, so its sentences never rival each other.
    """
    image_of, count = batch.image_of, len(batch.images)
    if not distinct:
        return torch.ones(len(batch), count, dtype=torch.bool, device=image_of.device)
    own = F.one_hot(image_of, count).bool()
    words = batch.words.masked_fill(~batch.word_mask, -1)
    alike = (words[:, None] == words[None]).all(dim=2)
    # What the words are said of, and its copies.
    true = (alike.float() @ own.float() @ same_pixels(batch.images).float()) > 0
    return ~true | own


def same_pixels(images: Tensor) -> Tensor:
    """[I, I] bool: which of the images [I, 3, H, W] are the same."""
    thin = images[..., ::THINNED, ::THINNED].flatten(1)
    same = (thin[:, None] == thin[None]).all(dim=2)
    for one, other in same.triu(1).nonzero().tolist():
        equal = torch.equal(images[one], images[other])
        same[one, other] = same[other, one] = equal
    return same
