"""The proposal that comes nearest to a box that somebody drew, by boxes alone.

A box around a thing holds much that is not the thing: filled, the best one that can be drawn may
have an IoU below one half with the thing's own mask. So it is compared with boxes.
Letters: I images, N proposals, K boxes that are asked about, h x w mask grid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from refseg.methods.mutual.objects import missing
from refseg.methods.mutual.proposals import Matching, Proposals
from refseg.ops.boxes import box_giou, box_iou, boxes_to_px, clip_boxes
from refseg.ops.masks import box_mask, content_rectangle, mask_to_box
from refseg.types import Geometry, NetObjects


def nearest_boxes(proposals: Proposals, objects: NetObjects) -> Matching:
    """For each box by itself the proposal whose own box has the greatest IoU with it, however small
    that is; where none overlaps it, the greatest GIoU. Of equals the surest: boxes on a grid often
    are. Two that are asked about may have the same proposal.

    objects: their masks and categories are not looked at. Returns the IoU of the boxes; -1 for a
    box that is not stated, and in an image without proposals. Raises DataError without boxes.
    """
    if objects.boxes is None:
        raise missing("boxes", "box")
    known, boxes = objects.known.cpu().numpy(), objects.boxes.cpu().numpy()
    proposal, iou = np.full(known.shape, -1), np.full(known.shape, np.nan, np.float32)
    for image, geometry in enumerate(objects.geometry):
        rows = np.flatnonzero(known[image] & ~np.isnan(boxes[image]).any(axis=1))
        numbers = _surest_first(proposals, image)
        if len(rows) and len(numbers):
            found = _boxes(proposals, image, geometry)[numbers]
            best, fits = _nearest(boxes_to_px(boxes[image, rows], geometry), found)
            proposal[image, rows], iou[image, rows] = numbers[best], fits
    device = objects.known.device
    return Matching(torch.from_numpy(proposal).to(device), torch.from_numpy(iou).to(device))


def _surest_first(proposals: Proposals, image: int) -> NDArray[np.int64]:
    """Numbers of an image's proposals, padding left out; as they are where none tells of itself."""
    numbers = torch.arange(proposals.features.shape[1])
    if proposals.levels:
        nothing = proposals.levels[-1].classes[image].detach().float().softmax(dim=-1)[:, -1]
        numbers = nothing.cpu().argsort(stable=True)
    if proposals.there is not None:
        numbers = numbers[proposals.there[image].cpu()[numbers]]
    found: NDArray[np.int64] = numbers.numpy()
    return found


def _boxes(proposals: Proposals, image: int, geometry: Geometry) -> NDArray[np.float32]:
    """Boxes of an image's proposals, [N, 4] xyxy px: those that were found, or of masks that are
    all there is the tight ones around the cells of the grid whose logit is above 0.
    """
    found = proposals.boxes_px(image, geometry.original_hw)
    if found is not None:
        return found
    assert proposals.masks is not None
    return tight_boxes((proposals.masks[image].detach() > 0).cpu().numpy(), geometry)


def tight_boxes(masks: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float32]:
    """Masks [N, h, w] on a grid over the net image -> their boxes [N, 4] px, NaN for those that
    hold no cell whose centre lies in the image.
    """
    h, w = masks.shape[1:]
    net_per_cell = np.array([geometry.net_hw[1] / w, geometry.net_hw[0] / h] * 2)
    shown = box_mask(content_rectangle(geometry) / net_per_cell, (h, w))
    boxes = np.full((len(masks), 4), np.nan)
    for row, mask in enumerate(masks):
        box = mask_to_box(mask & shown)
        if box is not None:
            boxes[row] = box * net_per_cell
    return clip_boxes(boxes_to_px(boxes, geometry), geometry.original_hw)


def _nearest(
    asked: NDArray[np.float32], found: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each box asked about, [K, 4], the nearest found, [n, 4] (n >= 1), and their IoU."""
    iou = box_iou(asked, found)
    near = np.where(iou > 0, iou, box_giou(asked, found))  # -1..0 for boxes that do not overlap
    near[:, np.isnan(found).any(axis=1)] = -2.0  # an empty mask is near to nothing
    best = near.argmax(axis=1)
    return best, np.take_along_axis(iou, best[:, None], axis=1)[:, 0]
