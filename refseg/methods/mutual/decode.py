"""From scores to masks: the best proposal's, resized as logits and cut last."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.absent import chances
from refseg.methods.mutual.proposals import Proposals
from refseg.ops.masks import box_mask, response_to_mask
from refseg.types import Batch, Prediction


def decode(
    proposals: Proposals, scores: Tensor, batch: Batch, nothing: Tensor | None = None
) -> list[Prediction]:
    """One prediction an expression: k = argmax S, mask M_k in px.

    score: the probability that the selection head gives its choice, among all proposals and, where
    it has learned to say so (nothing, s0 [1]), that nothing is meant. candidates: all masks of the
    image. With boxes as proposals the mask is the box, filled; an image without any proposal shows
    nothing of what is asked for: an empty mask, the score 0, and `empty`.
    """
    best = scores.argmax(dim=1)
    bare = [False] * len(best)
    if proposals.there is not None:
        bare = (~proposals.there.any(dim=1))[batch.image_of].tolist()
    sure = chances(scores, nothing).gather(1, best[:, None])[:, 0].tolist()
    if proposals.masks is None:
        assert proposals.boxes is not None
        return _boxes(proposals.boxes[batch.image_of, best], sure, batch, bare)
    logits = proposals.masks.detach().float()
    chosen = logits[batch.image_of, best][:, None]
    full = F.interpolate(chosen, batch.geometry[0].net_hw, mode="bilinear", align_corners=False)
    in_net = full[:, 0].cpu()
    return [
        Prediction(
            response_to_mask(in_net[row].numpy(), geometry, threshold=0.0),
            sure[row],
            geometry,
            in_net[row].sigmoid().numpy(),
            candidates=proposals.candidates[int(batch.image_of[row])],
            empty=bare[row],
        )
        for row, geometry in enumerate(batch.geometry)
    ]


def _boxes(boxes: Tensor, sure: list[float], batch: Batch, bare: list[bool]) -> list[Prediction]:
    """boxes: [B, 4] in 0..1; NaN, or no extent, for none."""
    found = boxes.double().cpu().numpy()
    made = []
    for box, one, g, nothing in zip(found, sure, batch.geometry, bare, strict=True):
        height, width = g.original_hw
        px = box * (width, height, width, height)
        mask = box_mask(px.astype(np.float32), g.original_hw)
        made.append(Prediction(mask, one, g, empty=nothing))
    return made
