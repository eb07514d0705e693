"""From scores to masks: the best proposal's, resized as logits and cut last."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from refseg.methods.mutual.objects import objects_of
from refseg.methods.mutual.proposals import Proposals
from refseg.ops.boxes import boxes_to_px
from refseg.ops.masks import box_mask, response_in_px
from refseg.types import Batch, Prediction


def decode(proposals: Proposals, scores: Tensor, batch: Batch) -> list[Prediction]:
    """One prediction an expression: k = argmax S, mask M_k in px.

    score: the probability that the selection head gives its choice. candidates: all masks of the
    image. With annotated objects the mask is the object's box, filled; an image without any
    gives an empty mask and the score 0.
    """
    chance = scores.float().softmax(dim=1).nan_to_num(0.0)
    best = scores.argmax(dim=1)
    sure = chance.gather(1, best[:, None])[:, 0].tolist()
    if proposals.masks is None:
        return _boxes(best, sure, batch)
    logits = proposals.masks.detach().float()
    candidates = [c.numpy() for c in logits.sigmoid().cpu()]
    chosen = logits[batch.image_of, best][:, None]
    full = F.interpolate(chosen, batch.geometry[0].net_hw, mode="bilinear", align_corners=False)
    in_net = full[:, 0].cpu()
    return [
        Prediction(
            response_in_px(in_net[row].numpy(), geometry) > 0,
            sure[row],
            geometry,
            in_net[row].sigmoid().numpy(),
            candidates=candidates[int(batch.image_of[row])],
        )
        for row, geometry in enumerate(batch.geometry)
    ]


def _boxes(best: Tensor, sure: list[float], batch: Batch) -> list[Prediction]:
    boxes = objects_of(batch).boxes
    assert boxes is not None
    chosen = boxes[batch.image_of, best].cpu().numpy()
    return [
        Prediction(box_mask(boxes_to_px(chosen[row], g), g.original_hw), sure[row], g)
        for row, g in enumerate(batch.geometry)
    ]
